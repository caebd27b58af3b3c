import pytest
import torch
import torch.nn.functional as F
from float64_truth import assert_matches_float64, assert_near

from diamond_fast.kernels.ada_group_norm_silu import ada_group_norm_silu, ada_group_norm_silu_reference
from diamond_fast.kernels.bias_residual_stats import group_norm_stats
from diamond_fast.networks.blocks import AdaGroupNorm

# N, C, C2, H, W, groups: whole groups in one program and split over pixels, one and two inputs, odd sizes,
# one and many groups, group sizes that are no power of two
SHAPES = [
    (2, 64, 0, 8, 8, 2),
    (1, 16, 0, 5, 7, 1),
    (2, 60, 0, 9, 9, 3),
    (2, 48, 0, 1, 1, 4),
    (1, 1024, 0, 3, 3, 1),
    (1, 1024, 0, 3, 3, 32),
    (2, 64, 32, 6, 5, 3),
    (1, 512, 0, 7, 5, 1),
    (1, 512, 512, 5, 7, 2),
]


def inputs(device, n, c1, c2, h, w, dtype=torch.float32, mean=-2.3, deviation=0.5):
    g = torch.Generator().manual_seed(c1 + h)
    args = {
        "x": (torch.randn(n, c1, h, w, generator=g) * deviation + mean).to(memory_format=torch.channels_last),
        "scale": torch.randn(n, c1 + c2, generator=g),
        "shift": torch.randn(n, c1 + c2, generator=g),
    }
    if c2:
        args["x2"] = (torch.randn(n, c2, h, w, generator=g) + 1).to(memory_format=torch.channels_last)
    dout = torch.randn(n, c1 + c2, h, w, generator=g)
    return {name: x.to(device, dtype) for name, x in args.items()}, dout.to(device, dtype)


def assert_right(device, shape, dtype=torch.float32, activation="silu"):
    *size, groups = shape
    args, dout = inputs(device, *size, dtype=dtype)
    assert_matches_float64(
        lambda **a: ada_group_norm_silu(**a, groups=groups, activation=activation, impl="triton"),
        lambda **a: ada_group_norm_silu_reference(**a, groups=groups, activation=activation),
        args,
        dout,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(device, shape):
    assert_right(device, shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 64, 64, 7, 6, 4), (1, 512, 0, 7, 5, 1)], ids=str)
def test_half_precision(device, shape, dtype):
    assert_right(device, shape, dtype)


@pytest.mark.parametrize("shape", [(2, 64, 64, 7, 6, 4), (1, 512, 0, 7, 5, 1)], ids=str)
def test_without_activation(device, shape):
    assert_right(device, shape, activation="identity")


@pytest.mark.parametrize(("mean", "deviation"), [(1000.0, 1.0), (0.0, 1e-3), (-50.0, 1e-2)])
@pytest.mark.parametrize("size", [8, 30])  # whole groups; split
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of pixels that are masked out, in the interpreter
def test_means_far_from_zero(device, mean, deviation, size):
    args, _ = inputs(device, 1, 32, 0, size, size, mean=mean, deviation=deviation)
    out = ada_group_norm_silu(**args, groups=1, impl="triton")
    truth = ada_group_norm_silu_reference(**{k: v.double() for k, v in args.items()}, groups=1)
    # float32 holds the mean to one part in 2^24, which is this much of a deviation
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=1e-5 + 4 * 2**-24 * abs(mean) / deviation)


def test_equals_the_networks_own_norm(device):
    norm = AdaGroupNorm(64, 16).to(device)
    x, cond = torch.randn(2, 64, 6, 6, device=device), torch.randn(2, 16, device=device)
    scale, shift = norm.linear(cond).chunk(2, dim=1)  # rows of a larger matrix
    out = ada_group_norm_silu(x, scale, shift, norm.num_groups, impl="triton")
    torch.testing.assert_close(out, F.silu(norm(x, cond)), rtol=1e-5, atol=1e-5)


def test_statistics_handed_in_replace_the_pass_over_x(device, monkeypatch):
    monkeypatch.setattr("diamond_fast.kernels.launch.WHOLE_GROUP_ELEMENTS", 0)  # as for images too large for a program
    args, dout = inputs(device, 2, 64, 32, 12, 12)
    stats = [group_norm_stats(args["x"], 2, impl="triton"), group_norm_stats(args["x2"], 1, impl="triton")]
    assert_matches_float64(
        lambda **a: ada_group_norm_silu(**a, groups=3, stats=stats[0], stats2=stats[1], impl="triton"),
        lambda **a: ada_group_norm_silu_reference(**a, groups=3),
        args,
        dout,
    )
    one_given = ada_group_norm_silu(**args, groups=3, stats2=stats[1], impl="triton")
    truth = ada_group_norm_silu_reference(**{k: v.double() for k, v in args.items()}, groups=3)
    assert_near(one_given, truth, torch.float32, "with stats2 alone")
    doctored = [s.clone() for s in stats]
    doctored[1][..., 1] += 1  # another mean: only used if the statistics are
    moved = ada_group_norm_silu(**args, groups=3, stats=doctored[0], stats2=doctored[1], impl="triton")
    assert torch.equal(moved[:, :64], one_given[:, :64])
    assert (moved[:, 64:] - one_given[:, 64:]).abs().mean() > 0.1


@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
def test_any_strides(device, layout):
    args, dout = inputs(device, 2, 32, 32, 6, 5)
    plain = {"contiguous": lambda t: t.contiguous(), "strided": lambda t: t.repeat_interleave(2, 3)[..., ::2]}
    restride = plain.get(layout, lambda t: t.transpose(2, 3).contiguous().transpose(2, 3))
    strided = {k: restride(v) if v.dim() == 4 else v.t().contiguous().t() for k, v in args.items()}
    assert_matches_float64(
        lambda **a: ada_group_norm_silu(**a, groups=2, impl="triton"),
        lambda **a: ada_group_norm_silu_reference(**a, groups=2),
        strided,
        restride(dout),
    )


def test_inputs_changed_in_place_give_new_results(device):
    args, _ = inputs(device, 2, 32, 0, 6, 6)
    first = ada_group_norm_silu(**args, groups=1, impl="triton")
    args["x"].mul_(-1)
    args["scale"].add_(1)
    second = ada_group_norm_silu(**args, groups=1, impl="triton")
    truth = ada_group_norm_silu_reference(**{k: v.double() for k, v in args.items()}, groups=1)
    assert_near(second, truth, torch.float32, "second result")
    assert not torch.equal(first, second)


def test_same_bits_on_every_run(device):
    args, dout = inputs(device, 1, 32, 0, 24, 24)
    leaves = [v.requires_grad_() for v in args.values()]
    results = []
    for _ in range(2):
        out = ada_group_norm_silu(*leaves, groups=1, impl="triton")
        results.append((out, *torch.autograd.grad(out, leaves, dout)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("c2", "size"), [(0, 30), (32, 5)])
def test_operator_contract(device, c2, size):
    args, _ = inputs(device, 1, 32, c2, size, size)
    args = {name: x.requires_grad_() for name, x in args.items()}
    x, x2 = args["x"], args.get("x2")
    stats = [None, None]
    if size == 30:
        stats = [None if t is None else group_norm_stats(t, 1, impl="triton") for t in (x, x2)]
    op = torch.ops.diamond_fast.ada_group_norm_silu.default
    arguments = (x, x2, args["scale"], args["shift"], *stats, 1 + c2 // 32, 1e-5, True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(op, arguments, test_utils=tests)
    if size == 5:
        # Statistics of the operation are outputs too, but no gradient flows into them
        torch.library.opcheck(op, tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments))


@pytest.mark.parametrize("whole", [True, False])
def test_compiles_without_a_graph_break(device, whole, monkeypatch):
    if not whole:  # as for images too large for a program
        monkeypatch.setattr("diamond_fast.kernels.launch.WHOLE_GROUP_ELEMENTS", 0)
    args, dout = inputs(device, 1, 32, 32, 9, 10)

    def step(x, scale, shift, x2):
        return ada_group_norm_silu(x * 2, scale, shift, 2, x2=x2, impl="triton") * 3

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (step, compiled):
        leaves = {name: x.detach().requires_grad_() for name, x in args.items()}
        out = function(**leaves)
        results.append((out, *torch.autograd.grad(out, list(leaves.values()), dout)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 32, 4, 4, dtype=torch.int32)}, TypeError, "x: expected dtype"),
        ({"x": torch.zeros(2, 32, 16)}, ValueError, "x: expected shape"),
        ({"scale": torch.zeros(2, 32)}, ValueError, "scale: expected shape"),
        ({"shift": torch.zeros(1, 64)}, ValueError, "shift: expected shape"),
        ({"scale": torch.zeros(2, 64, device="meta")}, ValueError, "scale: is on meta"),
        ({"x2": torch.zeros(1, 32, 4, 4)}, ValueError, "x2: expected shape"),
        ({"x2": torch.zeros(2, 32, 4, 5)}, ValueError, "x2: expected shape"),
        ({"x2": torch.zeros(2, 32, 4, 4).half()}, TypeError, "x2: expected x's dtype"),
        ({"groups": 3}, ValueError, "groups: must divide"),
        ({"groups": 1}, ValueError, "x2: groups of 64 channels straddle"),
        ({"eps": 0.0}, ValueError, "eps: must be positive"),
        ({"activation": "relu"}, ValueError, "activation: expected"),
        ({"stats": torch.zeros(2, 2, 1, 3)}, ValueError, "stats: expected shape"),
        ({"stats": torch.zeros(2, 1, 1, 3).half()}, TypeError, "stats: expected dtype float32"),
        ({"x2": None, "groups": 1, "stats2": torch.zeros(2, 1, 1, 3)}, ValueError, "stats2: given without x2"),
        ({"impl": "fast"}, ValueError, "impl: expected"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    args = {
        "x": torch.zeros(2, 32, 4, 4),
        "x2": torch.zeros(2, 32, 4, 4),
        "scale": torch.zeros(2, 64),
        "shift": torch.zeros(2, 64),
        "groups": 2,
    }
    with pytest.raises(error, match=message):
        ada_group_norm_silu(**args | change)
