from dataclasses import dataclass

import pytest
import torch
from float64_truth import assert_near
from torch import Tensor

from diamond_fast.kernels import fused_conv as module
from diamond_fast.kernels import launch
from diamond_fast.kernels.bias_residual_stats import group_norm_stats, group_norm_stats_reference
from diamond_fast.kernels.fused_conv import Norm, Projection, conv_launch, fits, fused_conv, fused_conv_reference


@dataclass(frozen=True)
class Case:
    n: int
    c1: int
    c2: int
    out: int
    h: int
    w: int
    norm: str = "adaptive"
    residual: str = "none"
    kernel: int = 3
    stride: int = 1
    upsample: bool = False

    @property
    def out_size(self) -> tuple[int, int]:
        h, w = (s * (2 if self.upsample else 1) for s in (self.h, self.w))
        return (h - 1) // self.stride + 1, (w - 1) // self.stride + 1

    @property
    def groups(self) -> int:
        return max(1, self.out // 32)


CASES = [
    Case(2, 64, 64, 64, 5, 7, residual="projection"),  # a block on the way up: no size a multiple of a tile
    Case(1, 64, 0, 64, 13, 11, residual="given"),
    Case(2, 15, 0, 64, 9, 7, norm="none"),  # the first convolution, unpadded
    Case(1, 64, 0, 3, 6, 5, norm="affine"),  # the last one
    Case(2, 32, 0, 32, 9, 7, norm="none", stride=2),
    Case(1, 32, 0, 32, 8, 6, residual="given", stride=2),
    Case(2, 40, 0, 40, 3, 5, norm="none", upsample=True),
    Case(1, 32, 32, 48, 2, 3, upsample=True, residual="projection"),
    Case(2, 48, 0, 64, 4, 4, norm="none", residual="given", kernel=1),
    Case(1, 33, 0, 20, 4, 5, norm="affine", residual="projection"),  # nothing a multiple of anything
    Case(1, 24, 72, 16, 1, 1),  # groups of 32 channels would straddle the seam: 4 of 24
    Case(3, 20, 7, 96, 2, 2, norm="none", residual="projection"),
]


@pytest.fixture(autouse=True)
def _exact_products_and_large_tiles(monkeypatch):
    """On a chip of one multiprocessor tiles are as large as they get, which the interpreter does fastest."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(launch, "chip_of", lambda device: launch.Chip(90, 1))


def guarded(x: Tensor) -> Tensor:
    """x in the same layout, with NaN in the memory before and behind it."""
    x = x.permute(0, 2, 3, 1).contiguous() if x.dim() == 4 else x.contiguous()
    room = torch.full((x.numel() + 128,), torch.nan, dtype=x.dtype, device=x.device)
    room[64:-64] = x.flatten()
    held = room[64:-64].view(x.shape)
    return held.permute(0, 3, 1, 2) if x.dim() == 4 else held


def arguments(case: Case, device="cpu", dtype=torch.float32) -> dict:
    g = torch.Generator().manual_seed(case.c1 + case.h)

    def random(*shape, scale=1.0, mean=0.0):
        return guarded((torch.randn(*shape, generator=g) * scale + mean).to(device, dtype))

    c, o = case.c1 + case.c2, case.out
    x = random(case.n, case.c1, case.h, case.w, scale=0.5, mean=-2.3 if case.norm != "none" else 0)
    x2 = random(case.n, case.c2, case.h, case.w) if case.c2 else None
    norm, residual = None, None
    if case.norm != "none":
        shape = (case.n, c) if case.norm == "adaptive" else (c,)
        norm = Norm(random(*shape), random(*shape), 4 if case.c2 == 72 else max(1, c // 32))
    if case.residual == "given":
        residual = random(case.n, o, *case.out_size)
    elif case.residual == "projection":
        r = [random(case.n, k, *case.out_size) for k in (case.c1, case.c2) if k]
        residual = Projection(random(o, c, 1, 1, scale=c**-0.5), random(o), *r)
    weight = random(o, c, case.kernel, case.kernel, scale=(c * case.kernel**2) ** -0.5)
    return {
        "x": x, "weight": weight, "bias": random(o), "norm": norm, "residual": residual, "x2": x2,
        "stride": case.stride, "upsample": case.upsample, "groups": case.groups,
    }  # fmt: skip


def in_float64(value):
    if isinstance(value, tuple):
        return type(value)(*map(in_float64, value))
    return value.double() if isinstance(value, Tensor) else value


def assert_true(args: dict, dtype: torch.dtype) -> None:
    y, stats = fused_conv(**args, impl="triton")
    true_y, _ = fused_conv_reference(**{k: in_float64(v) for k, v in args.items()})
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near(y, true_y, dtype, "output")
    count, mean, m2 = stats.double().sum(2)[..., 0], *_merged(stats.double())
    true = group_norm_stats_reference(y.double(), args["groups"])[:, :, 0].double()
    assert torch.equal(count, true[..., 0])
    assert_near(mean, true[..., 1], torch.float32, "mean")
    torch.testing.assert_close(m2, true[..., 2], rtol=2e-5, atol=1e-6)


def _merged(stats: Tensor) -> tuple[Tensor, Tensor]:
    count, mean, m2 = stats.unbind(-1)
    overall = (count * mean).sum(-1) / count.sum(-1)
    return overall, (m2 + count * (mean - overall[..., None]) ** 2).sum(-1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_float64(device, case):
    assert_true(arguments(case, device), torch.float32)


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[6]], ids=str)
def test_in_half_precision(device, case):
    """Float16 where kernels are interpreted, as the interpreter's products of bfloat16 are wrong; on a GPU bfloat16."""
    dtype = torch.float16 if device.type == "cpu" else torch.bfloat16
    assert_true(arguments(case, device, dtype), dtype)


@pytest.fixture
def large_maps(monkeypatch):
    """Maps of the cases are large in proportion to these tiles."""
    monkeypatch.setattr(module, "COLUMNS_TILE", 64)


@pytest.mark.usefixtures("large_maps")
@pytest.mark.parametrize("case", [case for case in CASES if (case.kernel, case.stride) == (3, 1)], ids=str)
def test_large_maps_against_float64(device, case):
    args = arguments(case, device)
    if case.n * case.out_size[0] * case.out_size[1] >= 48:
        assert module._launch_of(args["x"], args["weight"], 1, case.upsample, case.groups).kernel == "columns"
    assert_true(args, torch.float32)


@pytest.mark.usefixtures("large_maps")
@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[6]], ids=str)
def test_large_maps_in_half_precision(device, case):
    dtype = torch.float16 if device.type == "cpu" else torch.bfloat16
    assert_true(arguments(case, device, dtype), dtype)


def test_small_tiles(device, monkeypatch):
    """Of a chip with many multiprocessors: 16 pixels, 32 of 64 channels; neighbouring tiles overlap."""
    monkeypatch.setattr(launch, "chip_of", lambda device: launch.Chip(90, 10_000))
    assert conv_launch(1, 6, 7, 64, 2, 3, 1, launch.Chip(90, 10_000)) == ("rows", 1, 32, 16, 1, 3)
    assert_true(arguments(Case(1, 32, 0, 64, 6, 7, residual="projection"), device), torch.float32)


def test_statistics_given_or_computed(device):
    """The same result; in parts of another size than its own."""
    args = arguments(Case(1, 32, 32, 32, 5, 6), device)
    computed, _ = fused_conv(**args, impl="triton")
    stats = [group_norm_stats_reference(args[k], 1) for k in ("x", "x2")]
    given, _ = fused_conv(**args | {"norm": args["norm"]._replace(stats=stats[0], stats2=stats[1])}, impl="triton")
    torch.testing.assert_close(given, computed, rtol=1e-5, atol=1e-5)


def test_a_large_mean_costs_no_precision(device):
    args = arguments(Case(1, 32, 0, 32, 4, 4), device)
    shifted = args["x"] * 2 + 500
    y, _ = fused_conv(**args | {"x": shifted}, impl="triton")
    truth, _ = fused_conv_reference(**{k: in_float64(v) for k, v in (args | {"x": shifted}).items()})
    assert ((y - truth).abs().max() / truth.abs().max()).item() < 1e-4  # x itself has a rounding of 3e-5


def test_writes_nothing_but_its_output_and_reads_nothing_but_its_input(device, monkeypatch):
    """Inputs lie between NaN, which any stray read brings into the result (every case above); so do outputs here."""
    rooms = []
    new_empty = Tensor.new_empty

    def between_nan(self, size, **options):
        if isinstance(size, int):  # the interpreter's own
            return new_empty(self, size, **options)
        numel = torch.Size(size).numel()
        room = new_empty(self, (numel + 128,), **options).fill_(torch.nan)
        rooms.append(room)
        return room[64:-64].view(size)

    args = arguments(CASES[9], device)
    norm = args["norm"]
    args["norm"] = norm._replace(stats=group_norm_stats(args["x"], norm.groups, impl="triton"))
    monkeypatch.setattr(Tensor, "new_empty", between_nan)
    fused_conv(**args, impl="triton")
    assert len(rooms) == 2
    for room in rooms:
        assert room[64:-64].isfinite().all()
        assert room[:64].isnan().all()
        assert room[-64:].isnan().all()


def test_any_strides(device):
    args = arguments(Case(1, 32, 0, 32, 4, 6), device)
    expected, _ = fused_conv(**args, impl="triton")
    scale = args["norm"].scale.repeat_interleave(2, dim=1)[:, ::2]
    changed = {"x": args["x"].contiguous(), "weight": args["weight"].contiguous()}
    changed["norm"] = args["norm"]._replace(scale=scale)
    actual, _ = fused_conv(**args | changed, impl="triton")
    assert torch.equal(actual, expected)


def test_same_bits_on_every_run(device):
    args = arguments(Case(1, 32, 0, 32, 4, 6), device)
    first, second = (fused_conv(**args, impl="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_operator_contract(device):
    a = arguments(Case(1, 32, 0, 32, 3, 4), device)
    stats = group_norm_stats_reference(a["x"], 1)
    call = (a["x"], None, a["weight"], a["bias"], *a["norm"][:2], stats, None, 1, 1e-5, *[None] * 5, 1, False, 1)
    operator = torch.ops.diamond_fast.fused_conv.default
    torch.library.opcheck(operator, call, test_utils=("test_schema", "test_faketensor"))


def test_tiles_for_every_multiprocessor():
    """The paper's network on an H100: kernel, channels of a program, pixels of a program, programs."""
    chip, found = launch.Chip(90, 132), []
    for n, size in ((32, 64), (32, 32), (32, 16), (32, 8), (1, 64)):
        config = conv_launch(n, size, size, 64, 2, 3, 1, chip)
        channels = config.groups_per_block * config.block_d
        found.append((config.kernel, channels, config.block_p, n * config.num_tiles * (64 // channels)))
    assert found == [
        ("columns", 64, 256, 512), ("columns", 64, 256, 128), ("rows", 64, 32, 256), ("rows", 32, 16, 256),
        ("rows", 64, 16, 293),
    ]  # fmt: skip


def test_groups_that_fit():
    assert fits(64, 2)
    assert fits(63, 1)
    assert not fits(65, 1)
    assert not fits(64, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(1, 32, 4)}, ValueError, "x: expected shape"),
        ({"x": torch.zeros(1, 32, 4, 4, dtype=torch.float64)}, TypeError, "x: expected dtype"),
        ({"x2": torch.zeros(1, 32, 4, 5)}, ValueError, "x2: expected shape"),
        ({"weight": torch.zeros(32, 31, 3, 3)}, ValueError, "weight: expected shape"),
        ({"weight": torch.zeros(32, 32, 5, 5)}, ValueError, "weight: the kernel must be 1x1 or 3x3"),
        ({"weight": torch.zeros(32, 32, 3, 3, dtype=torch.float16)}, TypeError, "weight: expected dtype float32"),
        ({"bias": torch.zeros(31)}, ValueError, "bias: expected shape"),
        ({"stride": 3}, ValueError, "stride: expected 1 or 2"),
        ({"groups": 5}, ValueError, "groups: must divide"),
        ({"weight": torch.zeros(96, 32, 3, 3), "bias": None}, ValueError, "groups: at most 64"),
        ({"residual": torch.zeros(1, 32, 4, 5)}, ValueError, "residual: expected shape"),
        ({"residual": Projection(torch.zeros(32, 9, 1, 1), None, torch.zeros(1, 8, 4, 4))}, ValueError, "projection:"),
        ({"residual": Projection(torch.zeros(32, 8, 1, 1), None, torch.zeros(1, 8, 4, 5))}, ValueError, "r: expected"),
        ({"norm": Norm(torch.zeros(1, 31), torch.zeros(1, 32), 1)}, ValueError, "scale: expected shape"),
        ({"norm": Norm(torch.zeros(1, 32), torch.zeros(1, 32), 3)}, ValueError, "groups: must divide"),
        ({"norm": Norm(torch.zeros(1, 32), torch.zeros(1, 32), 1, 0.0)}, ValueError, "eps: must be positive"),
        ({"impl": "cuda"}, ValueError, "impl: expected"),
    ],
)
def test_wrong_inputs_are_named(change, error, message):
    args = {"x": torch.zeros(1, 32, 4, 4), "weight": torch.zeros(32, 32, 3, 3), "bias": torch.zeros(32)}
    with pytest.raises(error, match=message):
        fused_conv(**args | change)
