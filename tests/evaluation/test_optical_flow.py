"""Motion of pictures that are known at every point, so that any shift of them is exact."""

import numpy as np
import pytest
import torch

from diamond_fast.evaluation.optical_flow import flow, motion


def waves(shift, size=(48, 64), seed=0):
    """A sum of plane waves, of 8 pixels and longer, moved by (right, down). -> [1,3,H,W]"""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    x, y = x - shift[0], y - shift[1]
    picture = torch.zeros(3, *size, dtype=torch.float64)
    for _ in range(12):
        angle, length, phase = torch.rand(3, generator=generator, dtype=torch.float64)
        k = 2 * torch.pi / (8 + 40 * length)
        angle = 2 * torch.pi * angle
        picture += torch.sin(k * (x * angle.cos() + y * angle.sin()) + 6 * phase)
    return picture[None] / 12


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, 0.0), (0.3, -0.7), (-4.2, 2.6), (5.5, 6.5), (15.5, -11.5)])
def test_shifts_are_found(shift):
    found = motion(waves((0, 0)), waves(shift))[0]
    assert found.tolist() == pytest.approx(shift, abs=0.08)


def test_pictures_of_a_batch_are_apart():
    before = torch.cat([waves((0, 0)), waves((0, 0), seed=1), torch.full((1, 3, 48, 64), 0.3)])
    after = torch.cat([waves((2, -1)), waves((-3, 0.5), seed=1), torch.full((1, 3, 48, 64), 0.3)])
    expected = torch.tensor([[2, -1], [-3, 0.5], [0, 0]])
    torch.testing.assert_close(motion(before, after), expected, atol=0.08, rtol=0)


def test_a_view_that_turns_far_shows_much_that_is_new():
    """Up to a quarter of the width of a panorama, whose rough pictures differ from one place to the next."""
    rng = np.random.default_rng(0)
    size = np.hypot(np.fft.fftfreq(80)[:, None], np.fft.fftfreq(400)[None])
    size[0, 0] = 1
    rough = np.fft.ifft2(np.fft.fft2(rng.normal(size=(80, 400))) / size).real
    rough = np.clip(128 + 45 * rough / rough.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    turned = [(at, shift) for at in (40, 110, 200) for shift in (0, 5, 13, -27, 30, -40)]
    before = np.stack([rough[:, at : at + 160] for at, _ in turned])
    after = np.stack([rough[:, at + shift : at + shift + 160] for at, shift in turned])
    found = flow(before, after)
    np.testing.assert_allclose(found, [(-shift, 0) for _, shift in turned], atol=0.05)


def test_it_is_a_line_if_all_lines_are_alike():
    """Stripes move across themselves only: along them nothing is known, and nothing is said."""
    columns = torch.arange(64.0)
    stripes = [torch.sin((columns - shift) / 3).expand(1, 3, 48, 64) for shift in (0, 1.5)]
    assert motion(*stripes)[0].tolist() == pytest.approx([1.5, 0], abs=0.05)
