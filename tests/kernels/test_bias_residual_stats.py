import pytest
import torch
from float64_truth import assert_matches_float64, assert_near

from diamond_fast.kernels.bias_residual_stats import (
    bias_residual_stats,
    bias_residual_stats_reference,
    group_norm_stats,
    group_norm_stats_reference,
)

# N, C, H, W, groups: odd sizes, one and many groups, group sizes that are no power of two, several parts
SHAPES = [
    (2, 64, 8, 8, 2),
    (1, 16, 5, 7, 1),
    (2, 60, 9, 9, 3),
    (1, 64, 24, 24, 2),
    (3, 48, 1, 1, 4),
    (1, 1024, 3, 3, 1),
]


def merged(stats: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Count, mean and variance [N,G] of all parts together, in float64."""
    count, mean, m2 = stats.double().unbind(-1)
    total = count.sum(-1)
    overall = (count * mean).sum(-1) / total
    return total, overall, (m2 + count * (mean - overall[..., None]) ** 2).sum(-1) / total


def inputs(device, n, c, h, w, dtype=torch.float32, mean=-2.3, deviation=0.5):
    g = torch.Generator().manual_seed(c + h)
    x = torch.randn(n, c, h, w, generator=g) * deviation + mean
    bias, residual = torch.randn(c, generator=g), torch.randn(n, c, h, w, generator=g)
    return {
        "conv_out": x.to(device, dtype, memory_format=torch.channels_last),
        "bias": bias.to(device, dtype),
        "residual": residual.to(device, dtype, memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sum_gradients_and_statistics(device, shape, dtype):
    *nchw, groups = shape
    args = inputs(device, *nchw, dtype=dtype)
    dout = torch.randn(nchw, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    assert_matches_float64(
        lambda **a: bias_residual_stats(**a, groups=groups, impl="triton")[0],
        lambda **a: bias_residual_stats_reference(**a, groups=groups)[0],
        args,
        dout,
    )
    y, stats = bias_residual_stats(**args, groups=groups, impl="triton")
    for name, found, true in zip(
        ("count", "mean", "variance"),
        merged(stats),
        merged(group_norm_stats_reference(y.double(), groups)),
        strict=True,
    ):
        assert_near(found, true, torch.float32, name)


@pytest.mark.parametrize("missing", ["bias", "residual"])
def test_either_addend_may_be_missing(device, missing):
    args = inputs(device, 2, 64, 6, 5) | {missing: None}
    y, stats = bias_residual_stats(**args, groups=2, impl="triton")
    true_y, true_stats = bias_residual_stats_reference(**args, groups=2)
    torch.testing.assert_close(y, true_y, rtol=1e-6, atol=1e-6)
    for found, true in zip(merged(stats), merged(true_stats), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("mean", "deviation"), [(-2.3, 0.5), (1000.0, 1.0), (0.0, 1e-3)])
def test_variance_survives_a_mean_far_from_zero(device, mean, deviation):
    x = inputs(device, 2, 64, 24, 24, mean=mean, deviation=deviation)["conv_out"]
    _, found_mean, found_var = merged(group_norm_stats(x, 2, impl="triton"))
    true = x.double().unflatten(1, (2, 32)).flatten(2)
    torch.testing.assert_close(found_mean, true.mean(2), rtol=1e-6, atol=1e-6 * deviation)
    torch.testing.assert_close(found_var, true.var(2, correction=0), rtol=1e-5, atol=0)


def test_statistics_are_those_of_the_rounded_sum(device):
    args = inputs(device, 1, 32, 8, 8, torch.float16, mean=100.0, deviation=0.02)  # float16 steps there: 0.0625
    y, stats = bias_residual_stats(**args, groups=1, impl="triton")
    torch.testing.assert_close(merged(stats)[2].squeeze(), y.double().var(correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
def test_any_strides(device, layout):
    args = inputs(device, 2, 32, 8, 6)
    x = args["conv_out"]
    if layout == "contiguous":
        x = x.contiguous()
    elif layout == "strided":
        x = x.repeat_interleave(2, dim=3)[..., ::2]
    else:
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    y, _ = bias_residual_stats(x, args["bias"], args["residual"], 1, impl="triton")
    true_y, _ = bias_residual_stats_reference(**args, groups=1)
    torch.testing.assert_close(y, true_y, rtol=1e-6, atol=1e-6)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_same_bits_on_every_run(device):
    args = inputs(device, 2, 64, 24, 24)
    first, second = (bias_residual_stats(**args, groups=2, impl="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_operator_contract(device):
    args = inputs(device, 1, 32, 4, 4)
    leaves = [x.requires_grad_() for x in args.values()]
    torch.library.opcheck(torch.ops.diamond_fast.bias_residual_stats.default, (*leaves, 1))
    torch.library.opcheck(torch.ops.diamond_fast.bias_residual_stats.default, (leaves[0], None, None, 1))
    torch.library.opcheck(torch.ops.diamond_fast.group_norm_stats.default, (leaves[0].detach(), 1))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"conv_out": torch.zeros(2, 32, 4, 4, dtype=torch.float64)}, TypeError, "conv_out: expected dtype"),
        ({"conv_out": torch.zeros(2, 32, 4)}, ValueError, "conv_out: expected shape"),
        ({"conv_out": torch.zeros(0, 32, 4, 4)}, ValueError, "conv_out: expected shape"),
        ({"conv_out": torch.zeros(2, 32, 4, 4).to_sparse()}, ValueError, "conv_out: expected a dense"),
        ({"conv_out": [1.0]}, TypeError, "conv_out: expected a tensor"),
        ({"bias": torch.zeros(31)}, ValueError, "bias: expected shape"),
        ({"residual": torch.zeros(1, 32, 4, 4)}, ValueError, "residual: expected shape"),
        ({"residual": torch.zeros(2, 32, 4, 4, device="meta")}, ValueError, "residual: is on meta"),
        ({"groups": 5}, ValueError, "groups: must divide"),
        ({"groups": 0}, ValueError, "groups: must divide"),
        ({"impl": "cuda"}, ValueError, "impl: expected"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    args = {
        "conv_out": torch.zeros(2, 32, 4, 4),
        "bias": torch.zeros(32),
        "residual": torch.zeros(2, 32, 4, 4),
        "groups": 1,
        "impl": "auto",
    }
    with pytest.raises(error, match=message):
        bias_residual_stats(**args | change)
