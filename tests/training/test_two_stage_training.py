"""A world in two resolutions, learned from a recording: trained, killed, gone on with, judged, estimated."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from crashes.tiny_run import TINY
from interrupted_runs import go_on

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SamplerConfig
from diamond_fast.config_checks import checked
from diamond_fast.engine.path import Path
from diamond_fast.estimate import estimate
from diamond_fast.evaluation import open_loop
from diamond_fast.frames import to_uint8
from diamond_fast.presets import PRESETS
from diamond_fast.replay import load_recording
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.recording import write_recording
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.nested import flatten
from diamond_fast.spec import MultiBinary
from diamond_fast.training.trainer import Trainer
from diamond_fast.training.trial import rehearse
from diamond_fast.upsampling import TwoStageSampler
from diamond_fast.world_model import Agent

READABLE = Path(torch.device("cpu"), torch.float32, "readable", False, "")
INNER = InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(8, 8), attn_depths=(0, 0), context_noise=True)
UPDATE = replace(TINY.denoiser_update, steps_first_epoch=2, steps_per_epoch=2, batch_size=2)
CONFIG = replace(
    TINY,
    env_id=None,
    world_model_only=True,
    precision="fp32",
    frame_size=(6, 8),
    upsampling=3,
    num_autoregressive_steps=4,
    num_final_epochs=3,
    evaluation=replace(TINY.evaluation, every=2),
    denoiser=DenoiserConfig(INNER, sigma_offset_noise=0.1, noise_context=True),
    denoiser_update=UPDATE,
    upsampler=DenoiserConfig(replace(INNER, num_steps_conditioning=1), sigma_offset_noise=0.1),
    upsampler_update=replace(UPDATE, grad_acc_steps=2),
    world_model=replace(TINY.world_model, sampler=SamplerConfig(1, s_cond=0.005)),
)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)


def recording(folder, seed, factor=3):
    """Two episodes in which a bright column moves; buttons say where to."""
    rng = np.random.default_rng(seed)
    episodes = []
    for length in (30, 24):
        act = rng.integers(0, 2, (length, 5)).astype(np.uint8)
        column = (act[:, 0].astype(int) * 2 - 1).cumsum() % 8
        small = np.full((length, 6, 8, 3), 40, np.uint8)
        small[np.arange(length), :, column] = 220
        nothing = np.zeros(length, bool)
        full = small.repeat(factor, axis=1).repeat(factor, axis=2)
        episodes.append(Episode(small, act, np.zeros(length, np.float32), nothing, nothing, None, full))
    write_recording(folder, episodes, MultiBinary(5), full_size=True)
    return str(folder)


def everything(path):
    saved = checkpoint.load_latest(path / "checkpoints")
    tensors, tree = flatten({"tensors": saved.tensors, "state": saved.state})
    sums = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in tensors.items()}
    return sums | {"tree": json.dumps(tree, sort_keys=True)}


def test_both_stages_are_trained_killed_and_gone_on_with_bit_for_bit(tmp_path):
    data, held_out = (recording(tmp_path / str(seed), seed) for seed in range(2))
    cfg = replace(CONFIG, static_dataset=data, held_out=held_out)
    whole, trainer = go_on(cfg, tmp_path / "whole")
    assert list(trainer.updates) == [name for name, _ in trainer.agent.named_children()] == ["denoiser", "upsampler"]
    assert [update.num_updates for update in trainer.updates.values()] == [6, 6]
    for stop_after in (1, 2):
        path = tmp_path / f"stopped{stop_after}"
        assert go_on(cfg, path, stop_after)[0] is None
        again, _ = go_on(cfg, path)
        assert again == whole
        assert everything(path) == everything(tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    for stage in ("denoiser", "upsampler"):
        assert all(line[f"{stage}/loss"] > 0 for line in lines[:3])
        assert lines[1][f"{stage}/held_out_loss"] > 0


def test_batches_hold_both_sizes_of_the_same_moments(tmp_path):
    cfg = checked(replace(CONFIG, static_dataset=recording(tmp_path / "a", 0)))
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"))
    try:
        full, small, pixel_mask, mask = trainer.updates["upsampler"].objective.draw()
        assert full.shape == (2, 3, 18, 24, 3)
        assert torch.equal(full[..., ::3, ::3, :], small)
        assert (small[~pixel_mask] == 0).all()
        assert mask.shape == (2, 3)
        denoisers = trainer.updates["denoiser"].objective.draw()
        assert denoisers[0].shape == (2, 9, 6, 8, 3)
    finally:
        trainer.close()


def test_a_recording_of_one_size_is_refused(tmp_path):
    for factor, message in ((2, "has 12x16x3, the upsampler makes 18x24x3"),):
        cfg = replace(CONFIG, static_dataset=recording(tmp_path / str(factor), 0, factor))
        with pytest.raises(ValueError, match=message):
            go_on(cfg, tmp_path / "run")


def test_learning_enlarges_better(tmp_path):
    """A few dozen updates: the loss on what is held out falls."""
    data, held_out = (recording(tmp_path / str(seed), seed) for seed in range(2))
    update = replace(UPDATE, steps_first_epoch=60, steps_per_epoch=60, batch_size=4, lr=3e-3, lr_warmup_steps=5)
    cfg = replace(
        CONFIG,
        num_autoregressive_steps=0,
        upsampler_autoregressive_steps=0,
        num_final_epochs=2,
        evaluation=replace(TINY.evaluation, every=1),
        denoiser_update=update,
        upsampler_update=update,
        static_dataset=data,
        held_out=held_out,
    )
    go_on(cfg, tmp_path / "run")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert lines[1]["upsampler/loss"] < 0.9 * lines[0]["upsampler/loss"]
    assert lines[1]["upsampler/held_out_loss"] < 1


def test_what_is_imagined_of_held_out_episodes_is_full_frames(tmp_path, monkeypatch):
    """Against both stages drawn together, moment by moment; without noise, whose order is another."""
    monkeypatch.setattr(open_loop, "seeded_randn", lambda device, seed: torch.zeros)
    cfg = checked(replace(CONFIG, static_dataset=recording(tmp_path / "a", 0)))
    replay = load_recording(tmp_path / "a")
    torch.manual_seed(0)
    agent = Agent(cfg, MultiBinary(5))
    for model in (agent.denoiser, agent.upsampler):
        torch.nn.init.normal_(model.inner_model.conv_out.weight, std=0.3)
    predictions = open_loop.imagine_held_out(agent, replay, cfg, READABLE, seed=0, count=2)
    horizon = cfg.world_model.horizon
    assert predictions.real.shape == predictions.imagined.shape == (2, horizon, 18, 24, 3)

    sampler = TwoStageSampler(agent.denoiser, agent.upsampler, cfg.world_model.sampler, cfg.world_model.upsampling)
    batch = replay.cut(open_loop.spread(replay.lengths, 4 + horizon, 2), 4 + horizon, full=True)
    small, full = batch.obs()[:, :4], batch.full_obs()[:, 3:4]
    assert np.array_equal(predictions.real, batch.full_frames[:, 4:].numpy())
    assert np.array_equal(predictions.last_seen, batch.full_frames[:, 3].numpy())
    for k in range(horizon):
        drawn = sampler.sample(small, batch.act[:, k : k + 4], full, torch.zeros)
        small, full = torch.cat((small[:, 1:], drawn.small[:, None]), dim=1), drawn.full[:, None]
        assert np.array_equal(predictions.imagined[:, k], to_uint8(drawn.full).numpy())


def test_a_path_is_tried_on_frames_of_both_sizes():
    begun = []
    rehearse(replace(CONFIG, static_dataset="x"), MultiBinary(5), READABLE, begun.append)
    assert begun == ["device", "networks", "denoiser", "upsampler"]


@pytest.mark.parametrize("name", ["recording", "recording-quick", "doom"])
def test_presets_fit_what_they_are_for(name, monkeypatch):
    monkeypatch.setattr("diamond_fast.estimate.count_flops", lambda call: call() or 0)  # slow, and not asked for here
    total = estimate.__wrapped__(PRESETS[name], MultiBinary(20))
    assert list(total.costs) == ["denoiser", "upsampler"]
    assert total.model_bytes < 8e9


def test_doom_is_learned_at_the_noise_that_its_one_step_begins_with():
    """No other level is ever asked for."""
    cfg = PRESETS["doom"]
    steps = (cfg.world_model.sampler, cfg.world_model.upsampling)
    levels = cfg.sigma_distribution
    for sampler in steps:
        assert sampler.num_steps == 1
        assert abs(np.log(sampler.sigma_max) - levels.loc) < levels.scale
