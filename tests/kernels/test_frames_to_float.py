import numpy as np
import pytest
import torch
from float64_truth import assert_rounded_from

from diamond_fast.kernels.frames_to_float import HIGH, LOW, frames_to_float, frames_to_float_reference


def random_frames(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def exact(frames: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Bytes [...,H,W,C] as numbers in [-1, 1], 0 outside the mask, [...,C,H,W] float64."""
    numbers = frames.double().movedim(-1, -3) / 255 * 2 - 1
    return numbers if mask is None else numbers * mask[..., None, None, None]


@pytest.mark.parametrize("frame_shape", [(64, 64, 3), (84, 84, 1), (5, 7, 3), (1, 1, 1)])
@pytest.mark.parametrize("mask", [[[True, False, True], [False, False, True]], [[False]], [True], [], None])
def test_values(device, frame_shape, mask):
    mask = None if mask is None else torch.tensor(mask, dtype=torch.bool)
    frames = random_frames(*((2, 2) if mask is None else mask.shape), *frame_shape)
    obs = frames_to_float(frames.to(device), None if mask is None else mask.to(device), impl="triton")
    height, width, channels = frame_shape
    assert (obs.shape, obs.dtype) == ((*frames.shape[:-3], channels, height, width), torch.float32)
    assert obs.movedim(-3, -1).is_contiguous()
    assert_rounded_from(obs.cpu(), exact(frames, mask))
    assert torch.equal(obs.cpu(), frames_to_float_reference(frames, mask))
    if mask is not None:
        assert (obs.cpu()[~mask] == 0).all()


def test_one_frame_alone(device):
    frame = random_frames(6, 5, 3)
    assert_rounded_from(frames_to_float(frame.to(device), impl="triton").cpu(), exact(frame))


def test_every_level(device):
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    assert_rounded_from(frames_to_float(frames.to(device), impl="triton").cpu(), exact(frames))


def test_levels_are_exact_however_the_compiler_fuses():
    """A fused multiply-add rounds once instead of twice: all ways give the same 256 values."""
    levels = np.arange(256.0)
    expected = np.float32(levels) / np.float32(255) * np.float32(2) - np.float32(1)

    def rounded(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32).astype(np.float64)

    assert (rounded(levels * HIGH) == levels * HIGH).all()
    for low_product in (levels * LOW, rounded(levels * LOW)):
        assert (np.float32(rounded(levels * HIGH + low_product) - 1) == expected).all()


def test_any_strides(device):
    """A part of each sequence, a mirrored picture, every other flag."""
    frames, mask = random_frames(2, 6, 5, 7, 3), torch.tensor([[True, False, True, True], [False, True, True, False]])
    parts = frames[:, 1:3].transpose(2, 3)
    obs = frames_to_float(parts.to(device), mask[:, ::2].to(device), impl="triton")
    assert_rounded_from(obs.cpu(), exact(parts, mask[:, ::2]))


def test_operator_passes_torch_checks(device):
    frames, mask = random_frames(1, 2, 4, 6, 3).to(device), torch.tensor([[True, False]], device=device)
    for given in (mask, None):
        torch.library.opcheck(torch.ops.diamond_fast.frames_to_float, (frames, given))


def test_bad_arguments_are_named():
    frames, mask = random_frames(2, 4, 4, 3), torch.tensor([True, False])
    for bad_frames, bad_mask, error, message in [
        (frames.float(), mask, TypeError, "frames: expected dtype uint8, got float32"),
        (frames[0, 0], None, ValueError, r"frames: expected shape \[...,H,W,C\], got \(4, 3\)"),
        (frames, mask.int(), TypeError, "mask: expected dtype bool, got int32"),
        (frames, mask[:1], ValueError, r"mask: expected shape \(2,\)"),
        (frames.to("meta"), mask, ValueError, "mask: is on cpu, but frames is on meta"),
    ]:
        with pytest.raises(error, match=message):
            frames_to_float(bad_frames, bad_mask)
