"""The gather kernel against its twin, interpreted, and its machine code for GPUs that are not here."""

import numpy as np
import pytest
import torch
from ahead_of_time import compile_ahead
from triton.runtime.interpreter import InterpretedFunction

from diamond_fast.frames import to_float
from diamond_fast.kernels import replay_gather as module
from diamond_fast.kernels.replay_gather import replay_gather, replay_gather_kernel, replay_gather_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Without a GPU the kernel runs in Triton's interpreter, whatever the environment says."""
    if DEVICE == "cpu" and not isinstance(replay_gather_kernel, InterpretedFunction):
        monkeypatch.setattr(module, "replay_gather_kernel", InterpretedFunction(replay_gather_kernel.fn))


@pytest.fixture(autouse=True)
def nan_in_fresh_memory(monkeypatch):
    """What the kernel does not write shows."""
    empty = torch.empty

    def nan_filled(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", nan_filled)


def random_slab(frame_shape: tuple[int, int, int], num_frames: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_frames, *frame_shape), dtype=torch.uint8, generator=generator).to(DEVICE)


@pytest.mark.parametrize("frame_shape", [(64, 64, 3), (84, 84, 1), (5, 7, 3), (1, 1, 1)])
@pytest.mark.parametrize("rows", [[[8, -1, 0], [3, 3, -1]], [[-1]], [4], []])
def test_kernel_equals_reference_bit_for_bit(frame_shape, rows):
    slab, rows = random_slab(frame_shape), torch.tensor(rows, dtype=torch.int64, device=DEVICE)
    ours, reference = (replay_gather(slab, rows, impl) for impl in ("triton", "torch"))
    height, width, channels = frame_shape
    assert ours.shape == (*rows.shape, channels, height, width)
    assert ours.dtype == torch.float32
    assert ours.movedim(-3, -1).is_contiguous()
    assert torch.equal(ours, reference)
    assert (ours[rows < 0] == 0).all()


def test_every_level_is_what_to_float_gives():
    slab = torch.arange(256, dtype=torch.uint8, device=DEVICE).view(1, 16, 16, 1)
    obs = replay_gather(slab, torch.zeros(1, dtype=torch.int64, device=DEVICE), "triton")
    assert torch.equal(obs, to_float(slab))


def test_levels_are_exact_however_the_compiler_fuses():
    """Each multiply-add that it may fuse rounds once instead of twice: all ways give the same 256 values."""
    levels, high, low = np.arange(256.0), module.HIGH.value, module.LOW.value
    expected = np.float32(levels) / np.float32(255) * np.float32(2) - np.float32(1)

    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).astype(np.float64)

    assert (rounded(levels * high) == levels * high).all()
    for sum_ in (
        rounded(levels * high) + rounded(levels * low),
        levels * high + rounded(levels * low),
        rounded(levels * high) + levels * low,
    ):
        assert ((rounded(sum_) - 1).astype(np.float32) == expected).all()


def test_frames_beyond_two_gigabytes():
    """Offsets are computed in 64 bits. Of 3 GB of address space, one frame is touched."""
    slab = torch.from_numpy(np.empty((260_000, 64, 64, 3), np.uint8)).to(DEVICE)
    slab[255_000] = random_slab((64, 64, 3))[0]
    rows = torch.tensor([255_000], device=DEVICE)
    assert torch.equal(replay_gather(slab, rows, "triton"), to_float(slab[255_000:255_001]))


def test_operator_passes_torch_checks():
    slab, rows = random_slab((4, 6, 3)), torch.tensor([[1, -1]], device=DEVICE)
    torch.library.opcheck(torch.ops.diamond_fast.replay_gather, (slab, rows))


def test_reference_is_the_maths_in_float64():
    slab, rows = random_slab((5, 7, 3)), torch.tensor([2, -1, 8], device=DEVICE)
    expected = slab[[2, 0, 8]].cpu().numpy().astype(np.float64) / 255 * 2 - 1
    expected[1] = 0
    np.testing.assert_allclose(
        replay_gather_reference(slab, rows).cpu().numpy(), np.moveaxis(expected, -1, -3), rtol=0, atol=1.2e-7
    )


def test_bad_arguments_are_named():
    slab, rows = random_slab((4, 4, 3)), torch.tensor([0], device=DEVICE)
    with pytest.raises(TypeError, match="slab, rows: expected uint8 and int64"):
        replay_gather(slab, rows.int())
    with pytest.raises(ValueError, match="slab, rows: expected contiguous"):
        replay_gather(slab.transpose(1, 2), rows)
    with pytest.raises(ValueError, match="rows: expected on"):
        replay_gather(slab.to("meta"), rows)


def test_machine_code():
    """One 128-bit load and 128-bit stores a thread, no spills, no double precision, no call, on every architecture."""
    signature = {"slab": "*u8", "rows": "*i64", "out": "*fp32", "frame_bytes": "i32", "BLOCK": "constexpr"}
    codes = compile_ahead(
        "diamond_fast.kernels.replay_gather",
        "replay_gather_kernel",
        signature,
        {"BLOCK": module.BLOCK},
        ("slab", "rows", "out", "frame_bytes"),
        module.NUM_WARPS,
    )
    assert [code.arch for code in codes] == [80, 86, 89, 90, 100, 120]
    for code in codes:
        assert code.stack_bytes == 0
        assert code.registers <= 64
        assert code.count("LDG.E.128") == 1
        assert code.count("STG.E.128") == 4
        assert not any(code.count(name) for name in ("DADD", "DMUL", "DFMA", "LDG.E.U8", "CALL.REL.NOINC"))
