"""The LSTM's recurrent half against plain torch in float64, values and gradients, with and without resets."""

import pytest
import torch
from float64_truth import assert_near

from diamond_fast.kernels.lstm_unroll import lstm_unroll, lstm_unroll_reference


def arguments(n, t, d, resets, device="cpu"):
    g = torch.Generator().manual_seed(n + t + d)
    shapes = {"weight_hh": (4 * d, d), "gates": (n, t, 4 * d), "hx": (n, d), "cx": (n, d)}
    if resets:
        shapes |= {"fresh_hx": (n, t, d), "fresh_cx": (n, t, d)}
    floats = {name: torch.randn(*shape, generator=g).to(device) for name, shape in shapes.items()}
    floats["weight_hh"] /= d**0.5  # gates that are not saturated
    return floats, {"dead": (torch.rand(n, t, generator=g) < 0.4).to(device)} if resets else {}


def with_gradients(function, floats, dead, used):
    """Results, and the gradients of a weighting of those of them that are used."""
    leaves = {name: x.detach().requires_grad_() for name, x in floats.items()}
    out = function(**leaves, **dead)
    g = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=g).to(x) for x in out]
    total = sum((x * w).sum() for i, (x, w) in enumerate(zip(out, weights, strict=True)) if i in used)
    return out, dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True))


ALL = (0, 1, 2)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    ("shape", "used"),
    [((3, 3, 5), ALL), ((3, 3, 5), (2,)), ((3, 3, 5), (0,)), ((1, 1, 1), ALL), ((2, 2, 130), ALL)],
    ids=str,
)
def test_values_and_gradients(device, shape, resets, used):
    floats, dead = arguments(*shape, resets, device)
    out, grads = with_gradients(lambda **a: lstm_unroll(**a, impl="triton"), floats, dead, used)
    doubles = {name: x.double() for name, x in floats.items()}
    true_out, true_grads = with_gradients(lstm_unroll_reference, doubles, dead, used)
    for name, x, truth in zip(("hx", "cx", "hidden"), out, true_out, strict=True):
        assert_near(x, truth, torch.float32, name)
    for name, truth in true_grads.items():
        truth = torch.zeros_like(floats[name]).double() if truth is None else truth
        grad = torch.zeros_like(floats[name]) if grads[name] is None else grads[name]
        if truth.abs().max() == 0:
            assert grad.abs().max() == 0, name
        else:
            assert_near(grad, truth, torch.float32, f"gradient of {name}")


def test_inputs_may_lie_in_any_way(device):
    floats, dead = arguments(3, 2, 4, True, device)
    plain = lstm_unroll(**floats, **dead, impl="triton")
    strided = {name: x.transpose(0, 1).contiguous().transpose(0, 1) for name, x in (floats | dead).items()}
    for a, b in zip(plain, lstm_unroll(**strided, impl="triton"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # libraries sum as they please


def test_the_fake_one_knows_the_shapes(device):
    floats, dead = arguments(2, 3, 4, True, device)
    inputs = (
        *(floats[k] for k in ("weight_hh", "gates", "hx", "cx")),
        dead["dead"],
        floats["fresh_hx"],
        floats["fresh_cx"],
    )
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.diamond_fast.lstm_unroll, inputs, test_utils=tests)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gates": torch.zeros(2, 3, 5)}, r"gates: expected shape \[N,T,4D\]"),
        ({"hx": torch.zeros(3, 4)}, r"hx: expected shape \(2, 4\)"),
        ({"dead": None}, "dead, fresh_hx, fresh_cx: expected all of them or none"),
        ({"dead": torch.zeros(2, 2, dtype=torch.bool)}, r"dead: expected shape \(2, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(changes, said):
    floats, dead = arguments(2, 3, 4, True)
    with pytest.raises(ValueError, match=said):
        lstm_unroll(**(floats | dead | changes))


def test_other_floats_are_for_torch():
    floats, _ = arguments(2, 3, 4, False)
    with pytest.raises(TypeError, match="expected dtype float32, got float64"):
        lstm_unroll(**{name: x.double() for name, x in floats.items()}, impl="triton")
