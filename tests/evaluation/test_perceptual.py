"""LPIPS and FID get the right frames, in the right form; with the real libraries also the right numbers."""

import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from diamond_fast.evaluation import perceptual
from diamond_fast.evaluation.open_loop import Predictions
from diamond_fast.evaluation.perceptual import Perceptual

CPU = torch.device("cpu")


def make_predictions(size=64, segments=3, steps=2):
    rng = np.random.default_rng(0)
    real, imagined = rng.integers(256, size=(2, segments, steps, size, size, 3), dtype=np.uint8)
    return Predictions(real[:, 0], real, imagined)


class FakeLpips:
    """The mean absolute difference."""

    def __init__(self, net):
        assert net == "alex"
        (path,) = (file for file in (perceptual.Path(torch.hub.get_dir()) / "checkpoints").iterdir())
        assert path.name == "alexnet-owt-7be5be79.pth"
        self.weights = torch.load(path)
        self.sizes = set()

    def to(self, device):
        return self

    def reset(self):
        self.differences = []

    def update(self, a, b):
        assert a.dtype == torch.float32
        assert a.shape[1] == 3
        assert min(a.min(), b.min()) >= -1
        assert max(a.max(), b.max()) <= 1
        self.sizes.add(a.shape[-1])
        self.differences += (a - b).abs().mean((1, 2, 3)).tolist()

    def compute(self):
        return torch.tensor(np.mean(self.differences))


class FakeFid:
    """The difference of the mean red level."""

    def __init__(self, feature, feature_extractor_weights_path):
        assert feature == 2048
        self.weights = torch.load(feature_extractor_weights_path)

    def to(self, device):
        return self

    def reset(self):
        self.red = {True: [], False: []}

    def update(self, frames, real):
        assert frames.dtype == torch.uint8
        self.red[real] += frames[:, 0].float().mean((1, 2)).tolist()

    def compute(self):
        self.count = len(self.red[True])
        return torch.tensor(np.mean(self.red[True]) - np.mean(self.red[False]))


@pytest.fixture
def fakes(monkeypatch):
    def module(name, **content):
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    url = "https://somewhere/models/alexnet-owt-7be5be79.pth"
    module("torchmetrics")
    module("torchmetrics.image")
    module("torchmetrics.image.lpip", LearnedPerceptualImagePatchSimilarity=FakeLpips)
    module("torchmetrics.image.fid", FrechetInceptionDistance=FakeFid)
    module("torchvision")
    module("torchvision.models", AlexNet_Weights=SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=url)))
    monkeypatch.setattr(perceptual, "find_spec", lambda name: object())


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.tensor([1.0, 2.0])}, path)
    return path


@pytest.mark.parametrize("batch_size", [2, 64])
def test_frames_arrive_by_step_and_side(fakes, weights, monkeypatch, batch_size):
    monkeypatch.setattr(perceptual, "BATCH_SIZE", batch_size)
    predictions, hub = make_predictions(), torch.hub.get_dir()
    measure = Perceptual(weights, weights, CPU)
    measured = measure.distances(predictions)
    difference = np.abs(predictions.real.astype(float) - predictions.imagined) / 127.5
    assert measured["lpips"] == pytest.approx(difference.mean((0, 2, 3, 4)).tolist(), rel=1e-5)
    red = predictions.real[..., 0].mean() - predictions.imagined[..., 0].mean()
    assert measured["fid"] == pytest.approx(red, rel=1e-3)
    assert measured["fid_frames"] == measure._fid.count == 6
    assert measure._lpips.weights["w"].tolist() == [1, 2]
    assert torch.hub.get_dir() == hub
    assert measure.distances(predictions) == measured  # nothing is left over from the first time


def test_small_frames_are_enlarged(fakes, weights):
    measure = Perceptual(weights, None, CPU)
    measured = measure.distances(make_predictions(24))
    assert measure._lpips.sizes == {72}
    assert measured["fid"] is None
    assert 0 < measured["lpips"][0] < 2


def test_nothing_is_measured_without_weights():
    assert Perceptual(None, None, CPU).distances(make_predictions()) == {"lpips": None, "fid": None, "fid_frames": None}


def test_what_is_missing_is_named(monkeypatch, weights):
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^--fid-weights: torchmetrics is not installed; pip install 'diamond_fast\["):
        Perceptual(None, weights, CPU)


def test_a_file_that_would_run_code_is_refused(fakes, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"w": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text("not weights")
    for name in ("evil.pth", "text.pth"):
        with pytest.raises(ValueError, match=rf"^--lpips-weights .*{name}: "):
            Perceptual(tmp_path / name, None, CPU)
    assert not (tmp_path / "written").exists()
    with pytest.raises(FileNotFoundError):
        Perceptual(None, tmp_path / "nowhere.pth", CPU)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchmetrics") is None, reason="torchmetrics is not installed")
def test_with_the_real_networks_and_random_weights(tmp_path, monkeypatch):
    """Equal frames are at no distance; unequal ones at the Fréchet distance numpy finds between their features."""
    from torch_fidelity import feature_extractor_inceptionv3
    from torchvision.models import alexnet

    class Blank(feature_extractor_inceptionv3.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alex.pth")
    with monkeypatch.context() as m:
        m.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *args, **kwargs: {})
        torch.save(Blank("inception-v3-compat", ["2048"]).state_dict(), tmp_path / "inception.pth")
    measure = Perceptual(tmp_path / "alex.pth", tmp_path / "inception.pth", CPU)
    predictions = make_predictions(24, segments=4, steps=3)
    same = measure.distances(predictions._replace(imagined=predictions.real))
    assert same["lpips"] == [0, 0, 0]
    assert same["fid"] == pytest.approx(0, abs=1e-3)

    measured = measure.distances(predictions)
    assert min(measured["lpips"]) > 0
    features = []
    for frames in (predictions.real, predictions.imagined):
        images = torch.from_numpy(frames).flatten(0, 1).movedim(-1, 1)
        features.append(measure._fid.inception(images).double().numpy())
    (mean, cov), (mean2, cov2) = ((x.mean(0), np.cov(x.T)) for x in features)
    root_trace = np.sqrt(np.linalg.eigvals(cov @ cov2).astype(complex)).real.sum()
    expected = ((mean - mean2) ** 2).sum() + np.trace(cov) + np.trace(cov2) - 2 * root_trace
    assert measured["fid"] == pytest.approx(expected, rel=1e-2)
