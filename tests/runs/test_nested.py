"""Everything a training state is made of survives the way to tensors and JSON, bit for bit."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diamond_fast.runs.durable import strict_json
from diamond_fast.runs.nested import flatten, unflatten


def there_and_back(value):
    tensors, tree = flatten(value)
    return unflatten(tensors, json.loads(strict_json(tree)))


def assert_same(actual, expected):
    """Equal in type, structure, dtype, shape and every bit."""
    assert type(actual) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert_same(actual.contiguous().numpy(), expected.contiguous().numpy())
    elif isinstance(expected, np.ndarray | np.generic):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert actual.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
    else:
        assert repr(actual) == repr(expected)


def trained_optimizer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    model(torch.zeros(1, 3, 5, 5))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 3))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 5, 5)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return model, optimizer, schedule


def test_adamw_state_is_restored_bit_for_bit():
    _, optimizer, schedule = trained_optimizer()
    for state in (optimizer.state_dict(), schedule.state_dict()):
        assert_same(there_and_back(state), state)


def test_a_restored_optimizer_takes_the_same_next_step():
    outcomes = []
    for restored in (False, True):
        model, optimizer, _ = trained_optimizer()
        if restored:
            state = there_and_back(optimizer.state_dict())
            optimizer.state.clear()
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        model(torch.ones(1, 3, 5, 5)).sum().backward()
        optimizer.step()
        outcomes.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*outcomes)


def test_random_generators_continue_where_they_stood():
    generator, rng = torch.Generator().manual_seed(7), np.random.default_rng(7)
    generator_state, rng_state = there_and_back([generator.get_state(), rng.bit_generator.state])
    expected = torch.randn(5, generator=generator), rng.standard_normal(5)
    generator.set_state(generator_state)
    rng.bit_generator.state = rng_state
    assert torch.equal(torch.randn(5, generator=generator), expected[0])
    assert np.array_equal(rng.standard_normal(5), expected[1])


@pytest.mark.parametrize(
    "value",
    [
        {"a": [(), {}, [], None, True, 2**100, -0.0, 1e-320, "ü\n"]},
        [float("inf"), float("-inf"), float("nan")],
        {1: "int", "1": "str", (2, "x"): "tuple", "$tensor": "a mark as a key", None: 0},
        {"$float": "lonely mark"},
        [np.array(5, np.uint16), np.zeros((0, 3), np.float32), np.float32(0.1), np.bool_(True), np.int64(-1)],
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1)[::-1],
        np.frombuffer(b"\x00\xff", np.uint8),  # read-only
        [torch.tensor(3), torch.tensor([True]), torch.zeros(0, 2), torch.arange(4, dtype=torch.float64)[::2]],
        {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_odd_values_survive(value):
    assert_same(there_and_back(value), value)


def test_bfloat16_and_special_bits_survive():
    bits = torch.tensor([0x7FC1, 0x0001, -0x8000, 0x3F80], dtype=torch.int16)
    back = there_and_back({"w": bits.view(torch.bfloat16)})["w"]
    assert back.dtype == torch.bfloat16
    assert torch.equal(back.view(torch.int16), bits)


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.dictionaries(st.text() | st.integers() | st.just("$tuple"), inner)
        ),
        max_leaves=20,
    )
)
def test_any_nest_survives(value):
    assert_same(there_and_back(value), value)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.array(["text"]), np.array([None]), 1j])
def test_what_has_no_safe_form_is_named(value):
    with pytest.raises(TypeError, match="state /optimizer/0: cannot store"):
        flatten({"optimizer": [value]})


def test_unflatten_names_a_missing_tensor():
    with pytest.raises(ValueError, match="tensor 'a/b' is missing"):
        unflatten({}, {"a": {"$tensor": "a/b"}})
    with pytest.raises(ValueError, match="unknown mark"):
        unflatten({}, {"$pickle": "..."})
