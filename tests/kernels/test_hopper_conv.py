from dataclasses import dataclass

import pytest
import torch
from float64_truth import assert_near
from torch import Tensor

from diamond_fast.kernels import _nvrtc, launch
from diamond_fast.kernels.bias_residual_stats import group_norm_stats_reference
from diamond_fast.kernels.fused_conv import Norm, Projection
from diamond_fast.kernels.hopper_conv import (
    ONE_STEP,
    SEVERAL_STEPS,
    SHARED_BYTES,
    Tiles,
    can_do,
    constants,
    conv_tiles,
    hopper_conv,
    hopper_conv_reference,
    source,
)

GPU = torch.device("cuda")


@dataclass(frozen=True)
class Case:
    n: int
    h: int
    w: int
    c: int = 64
    c2: int = 0
    out: int = 64
    norm: str = "adaptive"
    residual: str = "none"
    upsample: bool = False


CASES = [
    Case(2, 8, 8),
    Case(1, 13, 11, residual="given"),  # no size a multiple of a tile
    Case(2, 33, 17, c2=64, residual="projection"),  # a block on the way up
    Case(1, 1, 1, norm="affine"),
    Case(3, 5, 70, norm="affine", residual="given"),
    Case(2, 9, 6, norm="none", upsample=True),
    Case(2, 16, 16, c2=64, out=128, residual="given"),
    Case(1, 24, 24, out=192, norm="none"),
    Case(9, 64, 64, residual="given"),  # every unit has several tiles
    Case(5, 64, 64, c2=64),
    Case(40, 32, 32, residual="projection"),
    Case(2, 13, 11, c=32, out=32, residual="given"),  # all have 32 channels
    Case(1, 9, 17, c=32, c2=32, out=32, residual="projection"),
    Case(2, 7, 20, c=32, out=32, norm="affine", upsample=True),
    Case(9, 64, 64, c=32, out=32, residual="given"),
]


def arguments(case: Case, device: torch.device = GPU, dtype: torch.dtype = torch.bfloat16, mean: float = -2.3) -> dict:
    g = torch.Generator().manual_seed(case.h)

    def random(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        x = (torch.randn(*shape, generator=g) * scale + mean).to(device, dtype)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    c, enlarged = case.c + case.c2, 2 if case.upsample else 1
    norm: Norm | None = None
    if case.norm != "none":
        shape = (case.n, c) if case.norm == "adaptive" else (c,)
        norm = Norm(random(*shape), random(*shape), c // 32)
    residual: Tensor | Projection | None = None
    if case.residual == "given":
        residual = random(case.n, case.out, case.h * enlarged, case.w * enlarged)
    elif case.residual == "projection":
        r = [random(case.n, k, case.h, case.w) for k in (case.c, case.c2) if k]
        residual = Projection(random(case.out, c, 1, 1, scale=c**-0.5), random(case.out), *r)
    return {
        "x": random(case.n, case.c, case.h, case.w, scale=0.5, mean=mean if norm else 0.0),
        "weight": random(case.out, c, 3, 3, scale=(9 * c) ** -0.5), "bias": random(case.out), "norm": norm,
        "residual": residual, "x2": random(case.n, case.c2, case.h, case.w) if case.c2 else None,
        "upsample": case.upsample, "groups": case.out // 32,
    }  # fmt: skip


def in_float64(value):
    if isinstance(value, tuple):
        return type(value)(*map(in_float64, value))
    return value.double() if isinstance(value, Tensor) else value


def assert_true(args: dict) -> None:
    y, stats = hopper_conv(**args, impl="cuda")
    true_y, _ = hopper_conv_reference(**{k: in_float64(v) for k, v in args.items()})
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near(y, true_y, torch.bfloat16, "output")
    count, mean, m2 = stats.double().unbind(-1)
    overall = (count * mean).sum(-1) / count.sum(-1)
    squares = (m2 + count * (mean - overall[..., None]) ** 2).sum(-1)
    true = group_norm_stats_reference(y.double(), args["groups"])[:, :, 0]
    assert torch.equal(count.sum(-1), true[..., 0])
    assert_near(overall, true[..., 1], torch.float32, "mean")
    torch.testing.assert_close(squares, true[..., 2], rtol=2e-5, atol=1e-6)


@pytest.fixture
def hopper():
    """Skips the test elsewhere."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernel is for H100 and H200")


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(case):
    assert_true(arguments(case))


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("tiles", [*ONE_STEP, *SEVERAL_STEPS], ids=str)
@pytest.mark.parametrize("case", [CASES[i] for i in (1, 4, 5, 8, 11, 14)], ids=str)
def test_all_tiles_against_float64(tiles, case, monkeypatch):
    if tiles.shared_bytes(9, case.residual == "given") > SHARED_BYTES:
        pytest.skip("these tiles have no room for a residual")
    monkeypatch.setattr("diamond_fast.kernels.hopper_conv.conv_tiles", lambda *args: tiles)
    assert_true(arguments(case))


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_statistics_given_or_computed():
    """The same bits; in parts of another size than its own, close."""
    args = arguments(CASES[2])
    computed, _ = hopper_conv(**args, impl="cuda")
    stats = [group_norm_stats_reference(args[k], 2) for k in ("x", "x2")]
    given, _ = hopper_conv(**args | {"norm": args["norm"]._replace(stats=stats[0], stats2=stats[1])}, impl="cuda")
    torch.testing.assert_close(given, computed, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_a_large_mean_costs_no_precision():
    assert_true(arguments(CASES[0], mean=200.0))


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_captured_in_a_graph():
    """There kernels begin before those in front of them have ended: each reads what the one before wrote."""
    args = arguments(Case(32, 64, 64, residual="given"))
    weight, bias, norm = args["weight"], args["bias"], args["norm"]

    def chain(x: Tensor) -> Tensor:
        stats = None
        for _ in range(8):
            x, stats = hopper_conv(x, weight, bias, norm._replace(stats=stats), x, groups=2, impl="cuda")
        return x

    expected, x = chain(args["x"]), args["x"].clone()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = chain(x)
    for _ in range(20):
        y.fill_(torch.nan)
        graph.replay()
        assert torch.equal(y, expected)


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_operator_contract():
    a = arguments(CASES[0])
    stats = group_norm_stats_reference(a["x"], 2)
    call = (a["x"], None, a["weight"], a["bias"], *a["norm"][:2], stats, None, 1e-5, *[None] * 5, False)
    operator = torch.ops.diamond_fast.hopper_conv.default
    torch.library.opcheck(operator, call, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("change", "able"),
    [
        ({}, True),
        ({"stride": 2}, False),
        ({"groups": 1}, False),
        ({"bias": torch.zeros(64)}, False),
        ({"weight": torch.zeros(64, 64, 1, 1, dtype=torch.bfloat16)}, False),
        ({"norm": Norm(*torch.zeros(2, 2, 64, dtype=torch.bfloat16), 4)}, False),
        ({"weight": torch.zeros(32, 64, 3, 3, dtype=torch.bfloat16), "bias": None, "groups": 1}, False),
    ],
)
def test_what_it_can_do(change, able):
    change = {k: v.to(GPU) if isinstance(v, Tensor) else v for k, v in change.items()}
    assert can_do(**arguments(CASES[0]) | change) == able


def test_elsewhere_it_is_the_reference():
    args = arguments(CASES[0], torch.device("cpu"), torch.float32)
    assert not can_do(**args)
    for ours, theirs in zip(hopper_conv(**args), hopper_conv_reference(**args), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="impl: 'cuda' is for 3x3"):
        hopper_conv(**args, impl="cuda")
    with pytest.raises(ValueError, match="impl: expected"):
        hopper_conv(**args, impl="triton")


def test_what_is_launched(monkeypatch):
    """On an H100, without one: blocks, threads, shared memory, and all that the kernel takes."""
    launched = []

    class Recorded:
        def launch(self, grid, threads, arguments, *, early):
            launched.append((grid, threads, len(arguments), early))

    def function(device, pixels, shared_bytes, given):
        launched.append((pixels, shared_bytes, dict(given)))
        return Recorded()

    monkeypatch.setattr("diamond_fast.kernels.hopper_conv.can_do", lambda *args: True)
    monkeypatch.setattr("diamond_fast.kernels.hopper_conv._function", function)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    args = arguments(Case(32, 64, 64, residual="given"), torch.device("cpu"))
    y, stats = hopper_conv(**args, impl="cuda")
    tiles = Tiles(128, 2, 2)
    assert (y.shape, stats.shape) == ((32, 64, 64, 64), (32, 2, 16, 3))
    expected = constants(tiles, 64, [64, 0], [0, 0], False, True, True, True)
    assert launched == [(128, tiles.shared_bytes(9, True), expected), ((132, 1), 512, 24, True)]

    launched.clear()
    args = arguments(Case(1, 8, 8, c2=64, out=128, residual="projection"), torch.device("cpu"))
    y, stats = hopper_conv(**args, impl="cuda")
    assert (y.shape, stats.shape) == ((1, 128, 8, 8), (1, 4, 1, 3))
    tiles = Tiles(64, 1, 1)
    expected = constants(tiles, 64, [64, 64], [64, 64], False, True, True, False)
    assert launched == [(64, tiles.shared_bytes(20, False), expected), ((1, 2), 128, 24, True)]

    launched.clear()
    args = arguments(Case(32, 64, 64, c=32, c2=32, out=32, residual="projection"), torch.device("cpu"))
    y, stats = hopper_conv(**args, impl="cuda")
    assert (y.shape, stats.shape) == ((32, 32, 64, 64), (32, 1, 32, 3))
    tiles = Tiles(128, 1, 2)
    expected = constants(tiles, 32, [32, 32], [32, 32], False, True, True, False)
    assert launched == [(128, tiles.shared_bytes(20, False), expected), ((132, 1), 256, 24, True)]


def test_tiles_for_every_multiprocessor():
    """The paper's network on an H100, at a batch of 32 and of 1."""
    one = [conv_tiles(n, s, s, 1, 9, True, 132) for n, s in ((32, 64), (32, 32), (32, 16), (32, 8), (1, 64))]
    assert one == [(128, 2, 2), (64, 2, 2), (64, 1, 1), (64, 1, 1), (64, 1, 1)]
    assert conv_tiles(32, 64, 64, 2, 18, False, 132) == (128, 1, 3)
    assert conv_tiles(32, 64, 64, 3, 11, False, 132) == (128, 1, 3)
    assert conv_tiles(32, 64, 64, 3, 27, False, 132) is None  # weights of 192 channels alone are too much


def test_room_in_shared_memory():
    """73,728 bytes of weights, and for each of two units 18 x 18 pixels in and 16 x 16 out."""
    assert Tiles(128, 2, 2).shared_bytes(9, True) == 73_728 + 2 * (41_984 + 32_768) + 1024
    assert all(t.shared_bytes(9, False) <= SHARED_BYTES for t in (*ONE_STEP, *SEVERAL_STEPS))


def test_it_compiles():
    """Needs no GPU, but the compiler that torch's builds for GPUs bring along."""
    try:
        _nvrtc.nvrtc()
    except OSError as error:
        pytest.skip(f"NVRTC is missing: {error}")
    for tiles in {ONE_STEP[0], SEVERAL_STEPS[0]}:
        for channels in (64, 32):
            given = constants(tiles, channels, [channels, 0], [0, 0], False, True, True, False)
            assert b"hopper_conv" in _nvrtc.compiled(source(tiles.pixels), "sm_90a", given)


def test_a_chip_of_another_kind_cannot(monkeypatch):
    monkeypatch.setattr(launch, "chip_of", lambda device: launch.Chip(89, 128))
    assert not can_do(**arguments(CASES[0], torch.device("cpu")))
