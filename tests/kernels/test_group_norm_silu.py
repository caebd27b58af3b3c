import pytest
import torch
import torch.nn.functional as F
from float64_truth import assert_matches_float64

from diamond_fast.kernels.bias_residual_stats import group_norm_stats
from diamond_fast.kernels.group_norm_silu import group_norm_silu, group_norm_silu_reference


def inputs(device, n, c1, c2, h, w, dtype=torch.float32, parameter_dtype=None):
    g = torch.Generator().manual_seed(c1 + h)
    x = (torch.randn(n, c1, h, w, generator=g) * 0.5 - 2.3).to(device, dtype, memory_format=torch.channels_last)
    args = {
        "x": x,
        "weight": torch.randn(c1 + c2, generator=g).to(device, parameter_dtype or dtype),
        "bias": torch.randn(c1 + c2, generator=g).to(device, parameter_dtype or dtype),
    }
    if c2:
        args["x2"] = torch.randn(n, c2, h, w, generator=g).to(device, dtype)
    return args, torch.randn(n, c1 + c2, h, w, generator=g).to(device, dtype)


@pytest.mark.parametrize(
    "shape",
    [(2, 64, 0, 8, 8, 2), (3, 16, 0, 5, 7, 1), (2, 60, 0, 9, 9, 3), (2, 64, 32, 6, 5, 3), (1, 512, 0, 7, 5, 1)],
    ids=str,
)
@pytest.mark.parametrize("activation", ["silu", "identity"])
def test_values_and_gradients(device, shape, activation):
    *size, groups = shape
    args, dout = inputs(device, *size)
    assert_matches_float64(
        lambda **a: group_norm_silu(**a, groups=groups, activation=activation, impl="triton"),
        lambda **a: group_norm_silu_reference(**a, groups=groups, activation=activation),
        args,
        dout,
    )


def test_float32_parameters_of_a_half_precision_network(device):
    args, dout = inputs(device, 2, 64, 0, 6, 6, torch.float16, torch.float32)
    assert_matches_float64(
        lambda **a: group_norm_silu(**a, groups=2, impl="triton"),
        lambda **a: group_norm_silu_reference(**a, groups=2),
        args,
        dout,
    )


def test_statistics_handed_in(device):
    args, dout = inputs(device, 1, 512, 0, 7, 7)
    stats = group_norm_stats(args["x"], 1, impl="triton")
    assert_matches_float64(
        lambda **a: group_norm_silu(**a, groups=1, stats=stats, impl="triton"),
        lambda **a: group_norm_silu_reference(**a, groups=1),
        args,
        dout,
    )


def test_equals_torch(device):
    args, _ = inputs(device, 2, 64, 0, 6, 6)
    out = group_norm_silu(**args, groups=2, eps=1e-3, impl="triton")
    torch.testing.assert_close(
        out, F.silu(F.group_norm(args["x"], 2, args["weight"], args["bias"], 1e-3)), rtol=1e-5, atol=1e-5
    )


def test_compiles_without_a_graph_break(device):
    args, dout = inputs(device, 2, 32, 0, 5, 5)
    compiled = torch.compile(group_norm_silu, fullgraph=True, backend="aot_eager")
    results = []
    for function in (group_norm_silu, compiled):
        leaves = {name: x.detach().requires_grad_() for name, x in args.items()}
        out = function(**leaves, groups=1, impl="triton")
        results.append((out, *torch.autograd.grad(out, list(leaves.values()), dout)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(2, 32)}, ValueError, "weight: expected shape"),
        ({"bias": torch.zeros(31)}, ValueError, "bias: expected shape"),
        ({"bias": torch.zeros(32, dtype=torch.float64)}, TypeError, "bias: expected dtype"),
        ({"groups": 3}, ValueError, "groups: must divide"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    args = {"x": torch.zeros(2, 32, 4, 4), "weight": torch.zeros(32), "bias": torch.zeros(32), "groups": 1}
    with pytest.raises(error, match=message):
        group_norm_silu(**args | change)
