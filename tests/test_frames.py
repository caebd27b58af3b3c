import numpy as np
import pytest
import torch

from diamond_fast.frames import to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_to_float_equals_float64():
    frames = torch.randint(0, 256, (2, 5, 7, 9, 3), dtype=torch.uint8)
    expected = np.moveaxis(frames.numpy().astype(np.float64) / 255 * 2 - 1, -1, -3)
    obs = to_float(frames)
    assert obs.shape == (2, 5, 3, 7, 9)
    assert obs.dtype == torch.float32
    np.testing.assert_allclose(obs.numpy(), expected, rtol=0, atol=1.2e-7)


def test_ends_of_the_scale_are_exact():
    obs = to_float(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
    assert obs.flatten().tolist() == [-1.0, 1.0]


def test_masked_frames_are_exactly_zero():
    frames = torch.full((2, 3, 4, 5, 3), 200, dtype=torch.uint8)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    obs = to_float(frames, mask)
    assert (obs[~mask] == 0).all()
    assert torch.equal(obs[mask], to_float(frames)[mask])


def test_there_and_back_changes_no_level():
    frames = LEVELS.reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    assert torch.equal(to_uint8(to_float(frames)), frames)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        obs = to_float(frames).to(dtype)
        worst = (to_uint8(obs).int() - frames.int()).abs().max()
        assert worst <= (1 if dtype == torch.bfloat16 else 0)


def test_what_published_saves_do_to_dark_pixels():
    """The published formula: each save takes a level from 1 to 63, and an unfinished episode is saved every epoch."""
    frame = LEVELS
    for saves in range(1, 18):
        frame = frame.div(255).mul(2).sub(1).add(1).div(2).mul(255).byte()
        lost = LEVELS.int() - frame.int()
        assert lost[1:64].tolist() == [min(saves, level) for level in range(1, 64)]
        assert not lost[64:].any()


def test_to_uint8_rounds_and_clips():
    obs = torch.tensor([-3.0, -1.0, 0.0, 1.0, 7.0]).reshape(5, 1, 1, 1)
    assert to_uint8(obs).flatten().tolist() == [0, 0, 128, 255, 255]


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="frames: expected uint8"):
        to_float(torch.zeros(4, 4, 3))
    with pytest.raises(TypeError, match="obs: expected floating point"):
        to_uint8(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"mask: expected shape \(2,\)"):
        to_float(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.ones(3, dtype=torch.bool))
