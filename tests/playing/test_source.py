import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diamond_fast.playing import source as sources
from diamond_fast.playing.frame_rate import measure_frame_rate
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.replay import Replay
from diamond_fast.runs import agents, checkpoint
from diamond_fast.runs.folder import RunFolder
from diamond_fast.world_model import Agent


def load(run=None, file=None, pretrained=None, game=None):
    return sources.load_source(agents.load_agent(run, file, pretrained, game), torch.device("cpu"))


@pytest.fixture
def run(source, tmp_path):
    """The folder of a run with two checkpoints."""
    folder = RunFolder.create(tmp_path / "run", source.cfg)
    replay = Replay.open(folder.replay / "journal", (24, 24, 3), capacity=1000)
    for i in range(3):
        replay.append_episode(source.replay.episode(i))
    replay.commit()
    replay.close()
    for epoch in (1, 2):
        tensors = {name: model.state_dict() for name, model in source.agent.named_children()}
        tensors["actor_critic"]["critic_linear.bias"] = torch.tensor([float(epoch)])
        checkpoint.save(folder.checkpoints, epoch, tensors, {})
    return folder


def test_a_run_brings_its_newest_agent_and_its_experience(run, source):
    got = load(run=run.path)
    assert (got.title, got.cfg, got.action_names) == ("Catch-v0", source.cfg, ("LEFT", "NOOP", "RIGHT"))
    assert got.agent.actor_critic.critic_linear.bias.item() == 2
    assert torch.equal(
        got.agent.denoiser.inner_model.conv_out.weight, source.agent.denoiser.inner_model.conv_out.weight
    )
    assert got.replay.num_episodes == 3
    np.testing.assert_array_equal(got.replay.episode(1).obs, source.replay.episode(1).obs)


def test_a_checkpoint_of_a_run(run):
    got = load(file=run.checkpoints / "epoch_000001.json")
    assert got.agent.actor_critic.critic_linear.bias.item() == 1


def test_the_real_game_need_not_be_installed(run, source, tmp_path):
    """The world model knows its number of actions, and the run holds frames to start from."""
    elsewhere = RunFolder.create(tmp_path / "elsewhere", replace(source.cfg, env_id="NotInstalled-v3"))
    for folder in ("checkpoints", "replay"):
        shutil.copytree(run.path / folder, elsewhere.path / folder, dirs_exist_ok=True)
    got = load(run=elsewhere.path)
    assert (got.title, got.action_names) == ("NotInstalled-v3", ("0", "1", "2"))
    session = Session(got, Recorder(tmp_path / "recordings", (24, 24, 3)))
    session.step()
    assert session.view().step == 1
    with pytest.raises(ValueError, match="NotInstalled"):
        session.switch_world("real")
    session.step()
    assert session.view().world == "model"
    session.close()

    (elsewhere.replay / "journal").unlink()
    Replay.open(elsewhere.replay / "journal", (24, 24, 3)).close()
    with pytest.raises(ValueError, match=r"start from real frames, of which none are here: .*NotInstalled"):
        load(run=elsewhere.path)


def test_a_run_without_experience_gets_random_steps(run):
    (run.replay / "journal").unlink()
    Replay.open(run.replay / "journal", (24, 24, 3)).close()
    got = load(run=run.path)
    assert (got.replay.num_steps, got.replay_name) == (sources.NUM_RANDOM_STEPS, "random play")
    actions = np.concatenate([got.replay.episode(i).act for i in range(got.replay.num_episodes)])
    assert (np.bincount(actions) > 120).all()  # of 500, evenly: 167 +- 11 each


def test_a_published_file_gets_random_steps_of_its_game(source, tmp_path, monkeypatch):
    agent = Agent(source.cfg, num_actions=18)
    monkeypatch.setattr(agents, "load_official", lambda path: agent)  # its networks are the paper's: too slow here
    monkeypatch.setattr(agents, "RunConfig", lambda game: replace(source.cfg, game=game, env_id=None))
    got = load(file=tmp_path / "Boxing.pt")
    assert (got.title, len(got.action_names)) == ("Boxing", 18)
    assert got.replay.num_steps == sources.NUM_RANDOM_STEPS
    with pytest.raises(ValueError, match="the agent knows 18 actions, Pong has 6"):
        load(file=tmp_path / "best.pt", game="Pong")


def test_what_cannot_be_played_is_said(run, tmp_path):
    model_free = tmp_path / "model_free"
    folder = RunFolder.create(model_free, replace(run.read_config(), model_free=True))
    checkpoint.save(folder.checkpoints, 1, checkpoint.load_latest(run.checkpoints).tensors, {})
    with pytest.raises(ValueError, match="no such folder"):
        load(run=tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no such file"):
        load(file=tmp_path / "Boxing.pt")
    with pytest.raises(ValueError, match="did you mean Boxing"):
        load(pretrained="Boxng")
    with pytest.raises(ValueError, match="model-free run has no world model"):
        load(run=model_free)
    manifest = run.checkpoints / "epoch_000002.json"
    manifest.write_text(json.dumps({"no": "manifest"}))
    with pytest.raises(ValueError, match="checksum"):
        load(file=manifest)


def test_the_frame_rate_is_that_of_the_dream(source, monkeypatch):
    """By a clock that moves by 1 with each evaluation of the denoiser."""
    clock = []
    hook = source.agent.denoiser.inner_model.register_forward_hook(lambda *_: clock.append(1))

    def timed(frame, seconds):
        for _ in range(3):
            before = len(clock)
            frame()
            yield SimpleNamespace(wall=len(clock) - before)

    monkeypatch.setattr("diamond_fast.playing.frame_rate.timed", timed)
    assert measure_frame_rate(source, 1) == 1
    assert measure_frame_rate(source, 12) == pytest.approx(1 / 12)
    hook.remove()
