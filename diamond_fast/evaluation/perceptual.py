"""Perceptual distances of imagined frames from real ones, LPIPS and FID: torchmetrics' networks, weights from files.

Nothing is fetched: a cluster without internet measures what a laptop measures.
"""

import pickle
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.evaluation.open_loop import Predictions
from diamond_fast.frames import to_float
from diamond_fast.one_line import one_line

LEAST_SIZE = 64  # pixels; AlexNet's layers need about as many, smaller frames are enlarged
BATCH_SIZE = 64
FID_WIDTH = 2048


class Perceptual:
    """LPIPS (AlexNet; Zhang et al. 2018) and FID (Heusel et al. 2017), each if its weights are given.

    Args:
        lpips_weights: torchvision's ImageNet weights of AlexNet, ``alexnet-owt-7be5be79.pth``.
        fid_weights: torch-fidelity's weights of Inception, ``weights-inception-2015-12-05-6726825d.pth``.
        device: where the networks run.

    Raises:
        ValueError: what is needed is not installed, or a file holds other weights.
        OSError: a file cannot be read.
    """

    def __init__(self, lpips_weights: Path | None, fid_weights: Path | None, device: torch.device):
        self._device = device
        self._lpips: Any = None
        self._fid: Any = None
        if lpips_weights is not None:
            self._lpips = _built(_lpips, "--lpips-weights", lpips_weights).to(device)
        if fid_weights is not None:
            self._fid = _built(_fid, "--fid-weights", fid_weights).to(device)

    @property
    def fid_width(self) -> int:
        """How many numbers FID describes a frame by; 0 if it is not measured."""
        return FID_WIDTH if self._fid is not None else 0

    @torch.no_grad()
    def distances(self, predictions: Predictions) -> dict[str, Any]:
        """
        Returns:
            ``lpips``: mean over segments after 1, 2, ... steps, a list [K]; ``fid``: of all frames, whatever their
            step; ``fid_frames``: how many there are on either side. None what is not measured. FID depends on the
            number of frames: compare equal numbers only.
        """
        measured = dict.fromkeys(("lpips", "fid", "fid_frames"))
        if self._lpips is not None:
            steps = range(_steps(predictions))
            measured["lpips"] = [self._lpips_of(predictions.real[:, k], predictions.imagined[:, k]) for k in steps]
        if self._fid is not None:
            measured["fid"] = self._fid_of(predictions)
            measured["fid_frames"] = len(predictions.real) * _steps(predictions)
        return measured

    def _lpips_of(self, real: np.ndarray, imagined: np.ndarray) -> float:
        self._lpips.reset()
        for a, b in zip(self._batches(real), self._batches(imagined), strict=True):
            self._lpips.update(*(_enlarged(to_float(x)) for x in (a, b)))
        return self._lpips.compute().item()

    def _fid_of(self, predictions: Predictions) -> float:
        self._fid.reset()
        for frames, real in ((predictions.real, True), (predictions.imagined, False)):
            for batch in self._batches(frames.reshape(-1, *frames.shape[2:])):
                self._fid.update(batch.movedim(-1, 1), real=real)
        return self._fid.compute().item()

    def _batches(self, frames: np.ndarray) -> list[Tensor]:
        """uint8 [N,H,W,C] in parts, on the device."""
        return [part.to(self._device) for part in torch.from_numpy(np.ascontiguousarray(frames)).split(BATCH_SIZE)]


def _steps(predictions: Predictions) -> int:
    return predictions.real.shape[1]


def _enlarged(x: Tensor) -> Tensor:
    if min(x.shape[-2:]) >= LEAST_SIZE:
        return x
    return F.interpolate(x, scale_factor=-(-LEAST_SIZE // min(x.shape[-2:])), mode="bilinear").clamp(-1, 1)


def _built(build: Any, flag: str, weights: Path) -> Any:
    for package in ("torchmetrics", "torchvision", "torch_fidelity"):
        if find_spec(package) is None:
            raise ValueError(f"{flag}: {package} is not installed; pip install 'diamond_fast[perceptual]'")
    try:
        # The libraries unpickle whatever the file holds: only a file of plain tensors may come that far.
        torch.load(weights, map_location="cpu", weights_only=True)
        import diamond_fast.drawing  # noqa: F401 (torchmetrics imports matplotlib; with this it always can)

        return build(weights)
    except (ImportError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{flag} {weights}: {one_line(error)}") from None


def _lpips(weights: Path) -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:  # the file lies there under the name torchvision looks for
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        (checkpoints / AlexNet_Weights.IMAGENET1K_V1.url.rpartition("/")[2]).symlink_to(weights.resolve())
        torch.hub.set_dir(folder)
        try:
            return LearnedPerceptualImagePatchSimilarity("alex")
        finally:
            torch.hub.set_dir(before)


def _fid(weights: Path) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=FID_WIDTH, feature_extractor_weights_path=str(weights))
