"""The denoiser in others' engines, at tiny size: the same frames, and what becomes of an engine that fails."""

from pathlib import Path

import pytest
import rival_engines
import rivals
import torch
from rival_engines import ENGINES, why_missing
from workloads import TINY, contexts, make_denoiser

from diamond_fast.config import SamplerConfig
from diamond_fast.world_model import DiffusionSampler

CPU = torch.device("cpu")
SAMPLER = SamplerConfig(num_steps=2)


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return make_denoiser(TINY.denoiser, CPU).eval()


@pytest.fixture(scope="module")
def frames():
    return contexts(2, 16, 16, CPU)


@pytest.fixture(scope="module")
def export(denoiser, frames, tmp_path_factory):
    if any(why_missing(engine) for engine in ENGINES):
        pytest.skip("; ".join(filter(None, map(why_missing, ENGINES))))
    return rivals.Export(denoiser, frames, tmp_path_factory.mktemp("export"))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_draws_the_same_frames(export, denoiser, frames, engine):
    other = export.denoiser_in(engine, threads=1)
    noise = torch.manual_seed(1), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        level = torch.full((2,), 1.5)
        expected = denoiser.double().inner_model(
            noise[1].double(), level.double(), export.inputs[2].double(), frames.act
        )
        denoiser.float()
        got = other.inner_model(noise[1], level, export.inputs[2], frames.act)
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-5
    drawn = []
    for each in (denoiser, other):
        torch.manual_seed(2)
        drawn.append(DiffusionSampler(each, SAMPLER).sample(*frames)[0])
    assert (drawn[0] - drawn[1]).abs().max() <= 2 / 255 + 1e-6  # a grey level, if rounding falls on its edge


def test_an_engine_that_computes_something_else_is_refused(export, monkeypatch):
    monkeypatch.setattr(export, "expected", 1.01 * export.expected)
    with pytest.raises(RuntimeError, match=r"^9\.9e-03 away from the readable network, more than 0\.0001$"):
        export.denoiser_in("onnxruntime", threads=1)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed: its process was ended by SIGSEGV"),
        ("raise ValueError('no such operator')", "failed: ValueError: no such operator"),
    ],
)
def test_an_engine_that_crashes_is_left_out_with_a_reason(denoiser, frames, tmp_path, monkeypatch, code, said):
    (tmp_path / "rival_engines.py").write_text(code)
    monkeypatch.setattr(rivals, "__file__", str(tmp_path / "rivals.py"))
    monkeypatch.setattr(rivals, "why_missing", lambda engine: None)
    monkeypatch.setattr(torch.onnx, "export", lambda model, inputs, path, **_: Path(path).touch())
    assert rivals.in_engines(denoiser, frames, tmp_path, ["OpenVINO"]) == ({}, {"OpenVINO": said})


def test_a_missing_engine_names_the_extra(denoiser, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(rival_engines, "find_spec", lambda name: None)
    found, left_out = rivals.in_engines(denoiser, frames, tmp_path)
    assert found == {}
    assert left_out["OpenVINO"] == "openvino and onnx not installed: pip install -e '.[rivals]'"
