"""The whole loop on the small catching game, with networks and schedules cut down to seconds."""

import hashlib
import itertools
import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from interrupted_runs import Killed
from interrupted_runs import go_on as train

from diamond_fast.config import (
    ActorCriticConfig,
    ActorCriticLossConfig,
    CollectionConfig,
    DenoiserConfig,
    EvaluationConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    UpdateConfig,
    WorldModelConfig,
)
from diamond_fast.config_checks import checked
from diamond_fast.domains.catch.env import Catch
from diamond_fast.replay import Replay
from diamond_fast.runs import checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.metrics import read_metrics
from diamond_fast.runs.nested import flatten
from diamond_fast.training import trainer as trainer_module
from diamond_fast.training.evaluator import Evaluator
from diamond_fast.training.finite import NonFiniteError
from diamond_fast.training.trainer import Trainer
from diamond_fast.world_model import Agent

UPDATE = UpdateConfig(steps_first_epoch=3, steps_per_epoch=2, batch_size=2, lr_warmup_steps=2)
TINY = RunConfig(
    env_id="diamond_fast/Catch-v0",
    frame_size=12,
    num_final_epochs=2,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=8, depths=(1,), channels=(4,), attn_depths=(0,))),
    denoiser_update=UPDATE,
    reward_end=RewardEndConfig(lstm_dim=4, cond_channels=4, depths=(1,), channels=(4,), attn_depths=(0,)),
    reward_end_update=UPDATE,
    actor_critic=ActorCriticConfig(lstm_dim=4, channels=(4, 4), down=(1, 1)),
    actor_critic_update=UPDATE,
    actor_critic_loss=ActorCriticLossConfig(backup_every=6),
    world_model=WorldModelConfig(SamplerConfig(num_steps=1), horizon=5, num_batches_to_preload=2),
    collection=CollectionConfig(
        num_steps_total=300, first_epoch_min=200, first_epoch_max=250, first_epoch_threshold_rew=5, steps_per_epoch=50
    ),
    evaluation=EvaluationConfig(every=2, num_episodes=2, num_final_episodes=3, num_envs=2),
)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    """Drawing takes as long as these small runs do. The run of ``whole`` is made before this, with its pictures."""
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)


def everything(path):
    """The newest checkpoint, replay included, as one flat mapping to checksums."""
    saved = checkpoint.load_latest(path / "checkpoints")
    tensors, tree = flatten({"tensors": saved.tensors, "state": saved.state})
    return {
        **{name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in tensors.items()},
        "tree": json.dumps(tree, sort_keys=True),
        "replay": hashlib.sha256((path / "replay" / "journal").read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    result, trainer = train(TINY, path)
    return path, result, trainer


def test_a_run_leaves_what_it_promises(whole):
    path, result, trainer = whole
    assert len(result.returns) == 3
    assert trainer.num_epochs == 4
    assert trainer.env_steps == trainer.replay.num_steps == 300
    lines = read_metrics(path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4, 4]
    assert [line["env_steps"] for line in lines] == [200, 250, 300, 300, 300, 300]
    assert lines[1]["denoiser/updates"] == 3
    assert lines[2]["denoiser/updates"] == 2
    assert "collect/seconds" in lines[2]
    assert "collect/seconds" not in lines[3]  # the last epochs only train
    assert sum(map(sum, lines[1]["reward_end/confusion_reward"])) > 0
    for line in (lines[2], lines[4]):
        assert line["test/lengths"] == [49, 49]
        assert line["denoiser/held_out_loss"] > 0
        assert line["reward_end/held_out_reward/recall/0"] >= 0
    assert lines[5]["final_test/returns"] == result.returns.tolist()
    drawn = {p.name for p in (path / "pictures").iterdir()}
    assert sorted(drawn - {"strip.png"}) == [  # a strip comes after some seconds, which such a run may not take
        "epoch_000002.png",
        "epoch_000004.png",
        "imagined.gif",
        "index.html",
        "learning_curves.png",
        "version.js",
    ]
    page = trainer.folder.page.read_text()
    assert "4 epochs and 300 real steps" in page
    assert "The run has ended" in page
    assert 'src="epoch_000004.png?' in page
    assert [p.name for p in trainer.folder.newest_pictures()] == [
        "epoch_000004.png",
        "imagined.gif",
        "learning_curves.png",
    ]


@pytest.mark.parametrize("stop_after", [0, 1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_resuming_is_exact(whole, tmp_path, stop_after):
    """Stopped after an epoch and continued, everything equals the run that was not, bit for bit."""
    path, result, _ = whole
    stopped, _ = train(TINY, tmp_path / "run", stop_after)
    assert stopped is None
    continued, _ = train(TINY, tmp_path / "run")
    assert everything(tmp_path / "run") == everything(path)
    assert continued.returns.tolist() == result.returns.tolist()
    timings = ("seconds", "per_second")
    for a, b in zip(
        read_metrics(path / "metrics.jsonl"), read_metrics(tmp_path / "run" / "metrics.jsonl"), strict=True
    ):
        assert {k: v for k, v in a.items() if not k.endswith(timings)} == {
            k: v for k, v in b.items() if not k.endswith(timings)
        }


def test_a_resumed_run_asks_for_the_path_it_began_with(tmp_path, monkeypatch):
    choose, asked = trainer_module.choose_path, []

    def choose_path(*args):
        asked.append(args[-1])
        return choose(*args[:2], "readable")

    monkeypatch.setattr(trainer_module, "choose_path", choose_path)
    train(TINY, tmp_path / "run", stop_after=0)
    train(TINY, tmp_path / "run", stop_after=1)
    assert asked == [None, "readable"]


def test_a_long_epoch_is_saved_in_its_middle(whole, tmp_path, monkeypatch):
    """Killed there, no more is lost than since then; and saving changes nothing of what is computed."""
    monkeypatch.setattr("diamond_fast.training.trainer.SAVE_EVERY", 0.0)
    path, done = tmp_path / "run", []
    save = Trainer._save

    def saved_or_killed(self):
        save(self)
        done.append(self.updates["actor_critic"].done)
        if done[-1] == 2:
            self._saving.wait()
            raise Killed

    with monkeypatch.context() as m:
        m.setattr(Trainer, "_save", saved_or_killed)
        assert train(TINY, path)[0] is None
    saved = checkpoint.load_latest(path / "checkpoints")
    assert saved.epoch == 0
    assert saved.state["updates"]["actor_critic"]["done"] == 2
    assert saved.state["updates"]["denoiser"]["num_updates"] == UPDATE.steps_first_epoch
    train(TINY, path)
    assert everything(path) == everything(whole[0])


def test_stopped_before_the_first_checkpoint(whole, tmp_path, monkeypatch):
    path = tmp_path / "run"

    def killed(self):
        raise Killed

    with monkeypatch.context() as m:
        m.setattr(Trainer, "_rarer_rewards", killed)
        assert train(TINY, path)[0] is None
    assert (path / "replay" / "journal").stat().st_size > 1000
    train(TINY, path)
    assert everything(path) == everything(whole[0])


def test_the_seed_decides(whole, tmp_path):
    other = replace(TINY, seed=1)
    train(other, tmp_path / "run")
    assert everything(tmp_path / "run") != everything(whole[0])


def test_initial_collection_goes_on_until_rewards_were_seen(tmp_path):
    cfg = replace(TINY, collection=replace(TINY.collection, first_epoch_threshold_rew=1_000))
    _, trainer = train(cfg, tmp_path / "run", stop_after=0)
    assert trainer.env_steps == 250  # the most it may take
    assert trainer.num_epochs == 1 + 2


def test_several_environments_and_bf16(tmp_path):
    cfg = replace(TINY, precision="bf16", collection=replace(TINY.collection, num_envs=2))
    result, trainer = train(cfg, tmp_path / "run")
    assert trainer.env_steps == 300
    assert len(result.returns) == 3
    assert all(p.dtype == torch.float32 for p in trainer.agent.parameters())


def test_a_finished_run_is_not_played_again(whole, monkeypatch):
    path, result, _ = whole
    monkeypatch.setattr(Evaluator, "_play", None)
    again, _ = train(TINY, path)
    assert again.returns.tolist() == result.returns.tolist()
    assert again.mean == result.mean
    assert [line["epoch"] for line in read_metrics(path / "metrics.jsonl")] == [0, 1, 2, 3, 4, 4]


def test_an_agent_for_another_game_is_refused(tmp_path):
    cfg = checked(TINY)
    with pytest.raises(ValueError, match="it knows 7 actions, diamond_fast/Catch-v0 has 3"):
        Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"), Agent(cfg, num_actions=7))


def test_static_dataset(whole, tmp_path):
    """Trained from what another run collected, nothing is collected, and resuming is exact."""
    journal = whole[0] / "replay" / "journal"
    cfg = replace(TINY, static_dataset=str(journal))
    content = journal.read_bytes()
    result, trainer = train(cfg, tmp_path / "a")
    assert trainer.num_epochs == cfg.num_final_epochs
    assert trainer.env_steps == 300
    assert len(result.returns) == 3
    assert "collect/seconds" not in read_metrics(tmp_path / "a" / "metrics.jsonl")[0]
    train(cfg, tmp_path / "b", stop_after=1)
    train(cfg, tmp_path / "b")
    saved = [checkpoint.load_latest(tmp_path / name / "checkpoints").tensors["denoiser"] for name in "ab"]
    assert all(torch.equal(a, saved[1][name]) for name, a in saved[0].items())
    assert journal.read_bytes() == content


def test_a_recording_of_another_game_is_refused(tmp_path):
    for shape, action, message in (
        ((16, 16, 3), 0, "its frames are 16x16x3, the networks' 12x12x3; .* --frame-size 12 makes them so"),
        ((12, 12, 3), 5, "its actions go from 5 to 5, expected 0 to 2"),
        ((12, 12, 3), -1, "its actions go from -1 to -1, expected 0 to 2"),
    ):
        path = tmp_path / f"journal{action}"
        replay = Replay.open(path, shape, capacity=20)
        frame, yes = np.zeros((1, *shape), np.uint8), np.ones(1, bool)
        for _ in range(20):
            replay.append(frame, np.array([action]), np.zeros(1, np.float32), yes, ~yes, frame)
        replay.commit()
        replay.close()
        with pytest.raises(ValueError, match=message):
            train(replace(TINY, static_dataset=str(path)), tmp_path / f"run{action}")


class Restless(Catch):
    """A game that does not repeat itself: how many games there were before decides where the balls fall."""

    games = itertools.count()

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=next(self.games), options=options)


def test_a_game_that_does_not_repeat_itself_starts_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Restless, "games", itertools.count())
    monkeypatch.setitem(gymnasium.registry, "Restless-v0", gymnasium.envs.registration.EnvSpec("Restless-v0", Restless))
    cfg = replace(TINY, env_id="Restless-v0")
    train(cfg, tmp_path / "run", stop_after=1)
    result, trainer = train(cfg, tmp_path / "run")
    assert "Starting new games" in capsys.readouterr().out
    assert len(result.returns) == 3
    assert trainer.env_steps == 300
    lengths = trainer.replay.lengths
    assert lengths.max() <= 49  # no episode was glued together from two games
    assert lengths.sum() == 300


def test_model_free(tmp_path):
    cfg = replace(TINY, model_free=True)
    result, trainer = train(cfg, tmp_path / "a")
    assert trainer.num_epochs == cfg.num_final_epochs
    assert trainer.env_steps == (3 + 2) * 6 * 2  # updates, steps a rollout, environments
    assert list(trainer.updates) == ["actor_critic"]
    assert len(result.returns) == 3
    train(cfg, tmp_path / "b", stop_after=1)
    train(cfg, tmp_path / "b")
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_applied(tmp_path):
    cfg = checked(TINY)
    trainer = Trainer(cfg, RunFolder.create(tmp_path / "run", cfg), torch.device("cpu"))
    try:
        trainer._collect_initially()
        update = trainer.updates["denoiser"]
        before = [p.clone() for p in trainer.agent.denoiser.parameters()]
        loss = update.objective.loss
        update.objective.loss = lambda *inputs: (loss(*inputs)[0] * float("nan"), {})
        with pytest.raises(NonFiniteError, match="denoiser: update 1 has loss nan"):
            update.step()
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.agent.denoiser.parameters(), strict=True))
    finally:
        trainer.close()
