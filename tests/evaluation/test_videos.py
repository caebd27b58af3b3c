"""Distances of videos: what goes into the networks, what they tell apart, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diamond_fast.evaluation.open_loop import Predictions
from diamond_fast.evaluation.videos import VideoDistances, colours, i3d, random_network

CPU = torch.device("cpu")


def films(n, seed=0):
    """Each a random picture that moves right by one pixel a frame: uint8 [n,4,8,8,3]."""
    pictures = np.random.default_rng(seed).integers(256, size=(n, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.roll(pictures, t, axis=2) for t in range(4)], axis=1)


def distances(real, imagined, **options):
    of_videos = VideoDistances(options.get("fvd_weights"), len(real), CPU)
    return of_videos.distances(Predictions(real[:, 0], real, imagined))


class Stand(torch.nn.Module):
    """Called as I3D is: the mean of each colour, if its three switches are on."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert rescale
        assert resize
        assert return_features
        return x.mean(dim=(2, 3, 4))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "i3d.pt"
    torch.jit.script(Stand()).save(str(path))
    return path


def test_the_random_network_is_two_convolutions_of_the_same_weights_for_ever():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(32, 3, 3, 3, 3, generator=generator) * (2 / 81) ** 0.5
    second = torch.randn(64, 32, 3, 3, 3, generator=generator) * (2 / 864) ** 0.5
    videos = torch.from_numpy(films(2))
    x = (videos / 127.5 - 1).permute(0, 4, 1, 2, 3)
    x = F.conv3d(F.conv3d(x, first, stride=(1, 2, 2), padding=1).clamp(min=0), second, stride=2, padding=1)
    torch.testing.assert_close(random_network()(videos), x.clamp(min=0).mean((2, 3, 4)), rtol=1e-4, atol=1e-5)


def test_colours_are_means_of_fields():
    frames = torch.from_numpy(films(2))
    found = colours(frames)
    assert found.shape == (8, 48)
    field = frames[1, 2, 2:4, 6:8].float().mean((0, 1)) / 127.5 - 1  # second row, last column
    torch.testing.assert_close(found[6].view(3, 4, 4)[:, 1, 3], field)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_distance_tells_what_it_should(weights):
    real, other = films(70), films(70, seed=1)
    same = distances(real, real, fvd_weights=weights)
    assert same == pytest.approx({"fvd": 0, "random_network_frechet": 0, "colour_frechet": 0}, abs=1e-4)
    darker = distances(real, real // 2, fvd_weights=weights)
    assert darker["fvd"] > 3 * 50**2  # the stand-in network gives mean colours
    shuffled = other.copy()
    shuffled[:, 1:] = shuffled[:, :0:-1]  # other times, the same frames
    in_order, out_of_order = (distances(real, x) for x in (other, shuffled))
    assert in_order["fvd"] is None
    assert out_of_order["colour_frechet"] == pytest.approx(in_order["colour_frechet"], rel=1e-6)
    assert out_of_order["random_network_frechet"] != pytest.approx(in_order["random_network_frechet"], rel=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_network_sees_bytes_as_numbers_and_channels_first(weights):
    features, width = i3d(weights, CPU)
    videos = torch.from_numpy(films(3))
    assert width == 3
    torch.testing.assert_close(features(videos), videos.float().mean((1, 2, 3)))


def test_too_few_videos_and_other_files_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^--videos: must be above 64, the numbers the random network .* got 64$"):
        VideoDistances(None, 64, CPU)
    (tmp_path / "x.pt").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"^--fvd-weights .*x\.pt: "):
        VideoDistances(tmp_path / "x.pt", 100, CPU)
    with pytest.raises(FileNotFoundError):
        VideoDistances(tmp_path / "nowhere.pt", 100, CPU)
