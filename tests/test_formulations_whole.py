"""Other formulations than EDM in whole runs: trained with a policy, resumed, judged, played; and what they refuse."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY
from interrupted_runs import go_on

from diamond_fast import evaluate, speed, train
from diamond_fast.config import DenoiserConfig, RunConfig, of_kind
from diamond_fast.config_checks import checked
from diamond_fast.formulations.config import DDPMConfig, FlowConfig, FlowStepsConfig, FlowTimesConfig
from diamond_fast.official import export_official, load_official
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.playing.source import load_source
from diamond_fast.runs import checkpoint
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.nested import flatten
from diamond_fast.world_model import Agent

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    monkeypatch.setattr("diamond_fast.evaluation.results.draw", lambda folder, results, compounding: ([], []))


def settings(formulation):
    collection = replace(TINY.collection, num_steps_total=80)
    cfg = of_kind(replace(TINY, precision="fp32", collection=collection), formulation, "unet")
    return checked(replace(cfg, world_model=cfg.world_model.with_denoising_steps(2)))


def everything(path):
    """Hashes of all weights and optimisers."""
    saved = checkpoint.load_latest(path / "checkpoints")
    tensors, _ = flatten({"tensors": saved.tensors, "updates": saved.state["updates"]})
    return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in tensors.items()}


@pytest.mark.parametrize("formulation", ["ddpm", pytest.param("flow", marks=pytest.mark.slow)])
def test_a_run_with_a_policy_is_resumed_judged_and_played(formulation, tmp_path, monkeypatch):
    cfg = settings(formulation)
    go_on(cfg, tmp_path / "whole")
    assert go_on(cfg, tmp_path / "stopped", stop_after=2)[0] is None
    go_on(cfg, tmp_path / "stopped")
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")
    last = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "actor_critic/loss" in line][-1]
    assert all(np.isfinite(last[f"{name}/loss"]) for name in ("denoiser", "reward_end", "actor_critic"))

    flags = "--episodes 1 --segments 2 --horizon 3 --denoising-steps 4 --out results"
    evaluate.main(["--run", "whole", *flags.split()])
    model = json.loads((tmp_path / "results" / "evaluation.json").read_text())["world_model"]
    assert list(model["pixel_error"]["by_denoising_steps"]) == ["4"]
    assert model["denoiser_loss"] > 0

    source = load_source(load_agent(tmp_path / "whole"), CPU)
    session = Session(source, Recorder(tmp_path / "recordings", (12, 12, 3)))
    try:
        session.step()
        view = session.view()
        assert len(view.trajectory) == len(view.noise_levels) == 3
        session.set_number("denoising_steps", 5)
        session.step()
        assert len(session.view().trajectory) == 6
    finally:
        session.close()
    monkeypatch.setattr(speed, "MEASURE_FOR", 0)
    assert speed.measure_speed(cfg, 3, CPU).now.forward > 0


def refusal(capsys, main, args):
    with pytest.raises(SystemExit) as stop:
        main(args.split())
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1)
    return err.rstrip()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("--denoiser.sigma-data 0.5", "--denoiser.sigma-data: is a setting of --formulation edm, not of ddpm"),
        ("--sigma-distribution.scale=1", "--sigma-distribution.scale: is a setting of --formulation edm, not of ddpm"),
        (
            "--world_model.sampler.order 2",
            "--world-model.sampler.order: is a setting of --formulation edm, not of ddpm",
        ),
        (
            "--world-model.sampler.shift 1",
            "--world-model.sampler.shift: is a setting of --formulation flow, not of ddpm",
        ),
        (
            "--num-autoregressive-steps 1",
            "--num-autoregressive-steps: must be 0, since --formulation ddpm is not trained on frames of its own, "
            "got 1",
        ),
        ("--world-model.sampler.num-steps 0", "--world-model.sampler.num-steps: must be at least 1, got 0"),
        (
            "--world-model.sampler.num-steps 1001",
            "--world-model.sampler.num-steps: must be at most 1000 with --formulation ddpm, got 1001",
        ),
    ],
)
def test_settings_without_a_meaning_are_named(capsys, args, line):
    assert refusal(capsys, train.main, f"--domain catch --formulation ddpm {args}") == line


def test_edm_refuses_settings_of_others(capsys):
    line = refusal(capsys, train.main, "--domain catch --world-model.sampler.shift 3")
    assert line == "--world-model.sampler.shift: is a setting of --formulation flow, not of edm"


def test_a_run_keeps_its_formulation(tmp_path, capsys):
    RunFolder.create(tmp_path / "a", settings("ddpm"))
    line = refusal(capsys, train.main, "--resume a --formulation edm")
    assert line == "--resume a: a run keeps its settings: --formulation is ddpm, not edm"


def test_a_checkpoint_of_another_formulation_is_refused(tmp_path, capsys):
    """Its networks have the same shapes: nothing else would tell them apart."""
    go_on(settings("edm"), tmp_path / "edm", stop_after=0)
    RunFolder.create(tmp_path / "ddpm", settings("ddpm"))
    shutil.copytree(tmp_path / "edm" / "checkpoints", tmp_path / "ddpm" / "checkpoints", dirs_exist_ok=True)
    line = refusal(capsys, evaluate.main, "--run ddpm --episodes 1")
    assert line == (
        "the checkpoint of epoch 0 does not fit config.json: it was trained with --formulation edm, not ddpm"
    )


def test_more_steps_than_there_are_levels_are_refused(tmp_path, capsys):
    go_on(settings("ddpm"), tmp_path / "run", stop_after=0)
    line = refusal(capsys, evaluate.main, "--run run --episodes 1 --denoising-steps 3 1001")
    assert line == "--denoising-steps: must be at most 1000 with this formulation, got 1001"


def test_published_files_say_their_formulation(tmp_path):
    ddpm, edm = settings("ddpm"), settings("edm")
    agent = Agent(ddpm, 3)
    export_official(agent, tmp_path / "ddpm.pt")
    names = torch.load(tmp_path / "ddpm.pt", weights_only=True)
    assert "denoiser.noise_model.conv_in.weight" in names
    assert not any("inner_model" in name for name in names)
    loaded = load_official(tmp_path / "ddpm.pt", ddpm)
    assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), loaded.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"ddpm.pt: holds weights denoiser.noise_model.\*, .* of --formulation edm"):
        load_official(tmp_path / "ddpm.pt", edm)
    export_official(Agent(edm, 3), tmp_path / "edm.pt")
    with pytest.raises(ValueError, match=r"edm.pt: holds weights denoiser.inner_model.\*, .* of --formulation ddpm"):
        load_official(tmp_path / "edm.pt", ddpm)


def test_a_change_of_formulation_takes_defaults_of_its_own():
    edm = RunConfig(game="Pong")
    ddpm = of_kind(edm, "ddpm", "unet")
    assert type(ddpm.denoiser) is DDPMConfig
    assert (ddpm.num_autoregressive_steps, ddpm.denoiser_seq_length) == (0, 5)
    assert (ddpm.denoiser.sigma_offset_noise, ddpm.world_model.sampler.num_steps) == (0.3, 3)
    flow = of_kind(edm, "flow", "unet")
    assert type(flow.denoiser) is FlowConfig
    assert (flow.sigma_distribution, flow.world_model.sampler) == (FlowTimesConfig(), FlowStepsConfig())
    assert flow.num_autoregressive_steps == 1
    assert type(of_kind(ddpm, "edm", "unet").denoiser) is DenoiserConfig
