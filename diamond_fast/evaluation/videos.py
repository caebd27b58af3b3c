"""Distances of imagined videos from real ones, of videos as wholes: FVD, and what stands in where it cannot be had.

FVD (Unterthiner et al. 2018) depends on one trained network, I3D, in one published file. Without that file there is no
FVD. What is measured then has names of its own, and compares with other such figures of this program only.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.evaluation.frechet import frechet_distance
from diamond_fast.evaluation.open_loop import Predictions
from diamond_fast.frames import to_float
from diamond_fast.one_line import one_line

BATCH_SIZE = 8  # videos; I3D sees them in 224x224
FIELDS = 4
RANDOM_WIDTH = 64

Features = Callable[[Tensor], Tensor]
"""uint8 [N,T,H,W,C] -> float [N,D]."""


def random_network(seed: int = 0) -> Features:
    """Two 3-D convolutions with fixed random weights, and a mean over positions: 64 numbers a video."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (
        torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        for shape in ((32, 3, 3, 3, 3), (RANDOM_WIDTH, 32, 3, 3, 3))
    )

    def features(videos: Tensor) -> Tensor:
        x = to_float(videos).transpose(1, 2)  # [N,C,T,H,W]
        x = F.relu(F.conv3d(x, first.to(x.device), stride=(1, 2, 2), padding=1))
        x = F.relu(F.conv3d(x, second.to(x.device), stride=2, padding=1))
        return x.mean(dim=(2, 3, 4))

    return features


def colours(frames: Tensor) -> Tensor:
    """The mean colour of each of 4x4 fields of each frame, whatever its time: [N*T,48]."""
    return F.adaptive_avg_pool2d(to_float(frames).flatten(0, 1), FIELDS).flatten(1)


def i3d(weights: Path, device: torch.device) -> tuple[Features, int]:
    """I3D as StyleGAN-V has it (``i3d_torchscript.pt``; Skorokhodov et al. 2022), and how many numbers it gives.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    with weights.open("rb"):  # its own message, if it is not there
        pass
    try:
        network = torch.jit.load(str(weights), map_location=device).eval()

        @torch.no_grad()
        def features(videos: Tensor) -> Tensor:
            x = videos.permute(0, 4, 1, 2, 3).float()  # [N,C,T,H,W], 0 to 255
            return network(x, rescale=True, resize=True, return_features=True)

        given = features(torch.zeros(1, 16, 64, 64, 3, dtype=torch.uint8, device=device))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"--fvd-weights {weights}: {one_line(error)}") from None
    if given.dim() != 2:
        raise ValueError(f"--fvd-weights {weights}: expected a row of numbers for each video, got {list(given.shape)}")
    return features, given.size(1)


class VideoDistances:
    """
    Args:
        fvd_weights: I3D's file; None: no FVD.
        num_videos: that are compared.
        device: where the networks run.

    Raises:
        ValueError: a file holds something else, or the videos are too few for a distance of their features.
        OSError: a file cannot be read.
    """

    def __init__(self, fvd_weights: Path | None, num_videos: int, device: torch.device):
        self._device = device
        self._i3d = None
        needed, what = RANDOM_WIDTH, "the random network"
        if fvd_weights is not None:
            self._i3d, needed = i3d(fvd_weights, device)
            what = "--fvd-weights"
        if num_videos <= needed:
            raise ValueError(f"--videos: must be above {needed}, the numbers {what} describes one by, got {num_videos}")

    @torch.no_grad()
    def distances(self, predictions: Predictions) -> dict[str, float | None]:
        """``fvd``, None without its network; ``random_network_frechet`` of videos and ``colour_frechet`` of frames."""
        return {
            "fvd": None if self._i3d is None else self._distance(self._i3d, predictions),
            "random_network_frechet": self._distance(random_network(), predictions),
            "colour_frechet": self._distance(colours, predictions),
        }

    def _distance(self, features: Features, predictions: Predictions) -> float:
        real, imagined = (
            torch.cat([features(part.to(self._device)).cpu() for part in torch.from_numpy(videos).split(BATCH_SIZE)])
            for videos in (predictions.real, predictions.imagined)
        )
        return frechet_distance(real, imagined)
