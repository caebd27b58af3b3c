import numpy as np
import pytest
import torch
from float64_truth import assert_rounded_from

from diamond_fast.kernels.replay_gather import HIGH, LOW, replay_gather, replay_gather_reference


def random_slab(frame_shape: tuple[int, int, int], num_frames: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_frames, *frame_shape), dtype=torch.uint8, generator=generator)


def exact(frames: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Bytes [...,H,W,C] as numbers in [-1, 1], 0 if the row is below 0, [...,C,H,W] float64."""
    numbers = frames.double().movedim(-1, -3) / 255 * 2 - 1
    return numbers if rows is None else numbers * (rows >= 0)[..., None, None, None]


@pytest.mark.parametrize("frame_shape", [(64, 64, 3), (84, 84, 1), (5, 7, 3), (1, 1, 1)])
@pytest.mark.parametrize("rows", [[[8, -1, 0], [3, 3, -1]], [[-1]], [4], []])
def test_values(device, frame_shape, rows):
    slab, rows = random_slab(frame_shape), torch.tensor(rows, dtype=torch.int64)
    obs = replay_gather(slab.to(device), rows.to(device), impl="triton")
    height, width, channels = frame_shape
    assert (obs.shape, obs.dtype) == ((*rows.shape, channels, height, width), torch.float32)
    assert obs.movedim(-3, -1).is_contiguous()
    assert_rounded_from(obs.cpu(), exact(slab[rows], rows))
    assert (obs[rows < 0] == 0).all()


def test_reference():
    slab, rows = random_slab((5, 7, 3)), torch.tensor([2, -1, 8])
    assert_rounded_from(replay_gather_reference(slab, rows), exact(slab[rows], rows))


def test_every_level(device):
    slab = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    obs = replay_gather(slab.to(device), torch.zeros(1, dtype=torch.int64, device=device), impl="triton")
    assert_rounded_from(obs.cpu(), exact(slab))


def test_levels_are_exact_however_the_compiler_fuses():
    """A fused multiply-add rounds once instead of twice: all ways give the same 256 values."""
    levels = np.arange(256.0)
    expected = np.float32(levels) / np.float32(255) * np.float32(2) - np.float32(1)

    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).astype(np.float64)

    assert (rounded(levels * HIGH) == levels * HIGH).all()
    for low_product in (levels * LOW, rounded(levels * LOW)):
        assert (np.float32(rounded(levels * HIGH + low_product) - 1) == expected).all()


def test_frames_beyond_two_gigabytes(device):
    """Offsets are computed in 64 bits. Of 3 GB of address space, one frame is touched."""
    slab = torch.from_numpy(np.empty((260_000, 64, 64, 3), np.uint8))
    slab[255_000] = random_slab((64, 64, 3))[0]
    rows = torch.tensor([255_000])
    obs = replay_gather(slab.to(device), rows.to(device), impl="triton")
    assert_rounded_from(obs.cpu(), exact(slab[rows]))


def test_operator_passes_torch_checks(device):
    slab, rows = random_slab((4, 6, 3)).to(device), torch.tensor([[1, -1]], device=device)
    torch.library.opcheck(torch.ops.diamond_fast.replay_gather, (slab, rows))


def test_bad_arguments_are_named():
    slab, rows = random_slab((4, 4, 3)), torch.tensor([0])
    for bad_slab, bad_rows, error, message in [
        (slab.float(), rows, TypeError, "slab: expected dtype uint8, got float32"),
        (slab, rows.int(), TypeError, "rows: expected dtype int64, got int32"),
        (slab[0], rows, ValueError, r"slab: expected a contiguous \[S,H,W,C\], got shape \(4, 4, 3\)"),
        (slab.transpose(1, 2), rows, ValueError, "slab: expected a contiguous"),
        (slab, torch.zeros(2, 3, dtype=torch.int64).T, ValueError, "rows: expected to be contiguous"),
        (slab.to("meta"), rows, ValueError, "rows: is on cpu, but slab is on meta"),
    ]:
        with pytest.raises(error, match=message):
            replay_gather(bad_slab, bad_rows)
