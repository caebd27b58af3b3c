"""Augmentation against plain NumPy, with the draws that were made."""

import numpy as np
import pytest
import torch
from fake_cuda import fake, fake_cuda, no_host_traffic

from diamond_fast.config import AugmentationConfig
from diamond_fast.spec import Box, Discrete
from diamond_fast.training.augment import augment, check_mirrored

N, L, H, W = 4, 3, 6, 10


def sequences():
    """Frames that differ in place, channel and sequence; the last one's first frame is not there."""
    obs = torch.rand(N, L, 3, H, W, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.6
    mask = torch.ones(N, L, dtype=torch.bool)
    mask[-1, 0] = False
    obs[-1, 0] = 0
    act = torch.arange(N * L * 2, dtype=torch.float32).view(N, L, 2) + 1
    return obs, act, mask


def draws(n=N, seed=0):
    """Uniform in [-1,1], as the first draw is with this seed."""
    torch.manual_seed(seed)
    return (2 * torch.rand(n, 1, 1, 1, 1) - 1).numpy()


def augmented(seed=0, **settings):
    obs, act, mask = sequences()
    torch.manual_seed(seed)
    new_obs, new_act = augment(obs, act, mask, AugmentationConfig(**settings))
    assert not new_obs[-1, 0].any()
    return new_obs.numpy(), new_act.numpy()


def check(found, expected):
    expected = np.clip(expected, -1, 1)
    expected[-1, 0] = 0
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_any_nothing_is_drawn_and_nothing_changes():
    obs, act, mask = sequences()
    before = torch.get_rng_state()
    assert augment(obs, act, mask, AugmentationConfig()) == (obs, act)
    assert torch.equal(torch.get_rng_state(), before)


def test_brightness():
    found, act = augmented(brightness=0.4)
    check(found, sequences()[0].numpy() + 2 * 0.4 * draws())
    np.testing.assert_array_equal(act, sequences()[1].numpy())


def test_contrast_is_about_the_mean_of_what_is_there():
    obs, _, mask = (x.numpy() for x in sequences())
    means = np.array([obs[i][mask[i]].mean() for i in range(N)]).reshape(N, 1, 1, 1, 1)
    check(augmented(contrast=0.5)[0], means + (1 + 0.5 * draws()) * (obs - means))


def test_saturation_leaves_grey_as_it_is():
    obs = sequences()[0].numpy()
    grey = (0.299 * obs[:, :, 0] + 0.587 * obs[:, :, 1] + 0.114 * obs[:, :, 2])[:, :, None]
    check(augmented(saturation=1.0)[0], grey + (1 + draws()) * (obs - grey))


def test_mirroring_changes_the_sign_of_what_it_is_told():
    obs, act, _ = (x.numpy() for x in sequences())
    torch.manual_seed(5)
    flipped = (torch.rand(N) < 0.5).numpy()
    assert 0 < flipped.sum() < N
    found, found_act = augmented(seed=5, mirrored=(1,))
    check(found, np.where(flipped[:, None, None, None, None], obs[..., ::-1], obs))
    np.testing.assert_array_equal(found_act[..., 0], act[..., 0])
    np.testing.assert_array_equal(found_act[..., 1], np.where(flipped[:, None], -act[..., 1], act[..., 1]))


def at(frame, y, x):
    """A frame [3,H,W] between its pixels, its edge continued, by hand."""
    y, x = min(max(y, 0.0), H - 1.0), min(max(x, 0.0), W - 1.0)
    top, left = min(int(y), H - 2), min(int(x), W - 2)
    v, u = y - top, x - left
    rows = [(1 - u) * frame[:, row, left] + u * frame[:, row, left + 1] for row in (top, top + 1)]
    return (1 - v) * rows[0] + v * rows[1]


def test_shift_and_scale_are_those_of_a_whole_sequence():
    obs = sequences()[0].numpy()
    torch.manual_seed(0)
    zoom, across, down = ((2 * torch.rand(N, 1, 1, 1, 1) - 1).view(N).numpy() for _ in range(3))
    expected = np.empty_like(obs)
    for i, frame, y, x in np.ndindex(N, L, H, W):
        far = 1 / (1 + 0.2 * zoom[i])
        from_y = (y + 0.5 - H / 2) * far + H / 2 - 0.5 - 0.3 * down[i] * H
        from_x = (x + 0.5 - W / 2) * far + W / 2 - 0.5 - 0.3 * across[i] * W
        expected[i, frame, :, y, x] = at(obs[i, frame], from_y, from_x)
    found = augmented(scale=0.2, shift=0.3)[0]
    expected[-1, 0] = 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_bright_frame_stays_within_its_range():
    found, _ = augmented(brightness=1.0, contrast=1.0)
    assert found.min() >= -1
    assert found.max() <= 1


def test_it_can_be_part_of_a_graph():
    """Nothing comes from the host: every tensor is made on the device. Fake tensors cannot be shifted or scaled."""
    cfg = AugmentationConfig(contrast=0.1, brightness=0.1, saturation=0.1, mirrored=(0,))
    obs, act, mask = sequences()
    with fake_cuda(), no_host_traffic():
        found, _ = augment(fake(obs), fake(act), fake(mask), cfg)
        assert found.device.type == "cuda"


def test_what_cannot_be_mirrored():
    check_mirrored(AugmentationConfig(mirrored=(1,)), Box(2))
    for action in (Box(1), Discrete(4)):
        with pytest.raises(ValueError, match=r"--augmentation.mirrored: must be numbers of a Box action"):
            check_mirrored(AugmentationConfig(mirrored=(1,)), action)
