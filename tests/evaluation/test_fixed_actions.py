"""World models that are known to do what they are told, or not: pictures that move as they are steered."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD

from diamond_fast.engine.choose import Path
from diamond_fast.evaluation import open_loop
from diamond_fast.evaluation.fixed_actions import Effect, five_actions, imagine, obedience, turning_in
from diamond_fast.replay import Replay
from diamond_fast.spec import Box
from diamond_fast.world_model import Agent

SIZE, HORIZON = 32, 6
REGION = (0, 0, SIZE, SIZE)
PATH = Path(torch.device("cpu"), torch.float32, "readable", False, "a test")
CFG = replace(SMALL_WORLD, frame_size=SIZE, world_model=replace(SMALL_WORLD.world_model, horizon=HORIZON))


def ground(rng):
    """A texture that is the same at opposite sides. -> uint8 [SIZE,SIZE,3]"""
    coarse = rng.random((SIZE // 4, SIZE // 4)).repeat(4, 0).repeat(4, 1)
    smooth = sum(np.roll(coarse, (y, x), (0, 1)) for y in range(-2, 3) for x in range(-2, 3)) / 25
    return (255 * smooth[..., None]).repeat(3, 2).astype(np.uint8)


def moved(frame, steering, acceleration, axes=(0, 1)):
    """Down with the speed, and against the way the wheel turns."""
    return np.roll(frame, (round(2 + acceleration), round(-2 * steering)), axes)


class Obeys:
    def sample(self, obs, act, randn):
        noise = 0.02 * randn(*obs[:, -1].shape, device=obs.device)
        frames = [moved(x.numpy(), *a.tolist(), axes=(1, 2)) for x, a in zip(obs[:, -1], act[:, -1], strict=True)]
        return torch.from_numpy(np.stack(frames)) + noise, None


class Ignores(Obeys):
    def sample(self, obs, act, randn):
        return super().sample(obs, torch.zeros_like(act), randn)


class TurnsTheWrongWay(Obeys):
    def sample(self, obs, act, randn):
        return super().sample(obs, act * torch.tensor([-1.0, 1.0]), randn)


@pytest.fixture(scope="module")
def recording():
    """Six drives, each with a steering and an acceleration of its own."""
    rng, replay = np.random.default_rng(0), Replay((SIZE, SIZE, 3), capacity=200, action=Box(2))
    for steering, acceleration in ((-1, 0), (1, 0), (0, 1), (0, -1), (-1, 1), (1, -1)):
        frame, act = ground(rng), np.array([[steering, acceleration]], np.float32)
        for t in range(20):
            after, end = moved(frame, steering, acceleration), np.array([t == 19])
            replay.append(frame[None], act, np.zeros(1, np.float32), end, ~end & False, after[None])
            frame = after
    replay.commit()
    return replay


def found_of(model, recording, monkeypatch, moments=6):
    monkeypatch.setattr(open_loop, "next_frame_sampler", lambda *_: model)
    told = five_actions(np.concatenate([recording.episode(i).act for i in range(6)]))
    agent = Agent(CFG, Box(2))
    rollouts = imagine(agent, recording, CFG, PATH, told, 0, moments, batch_size=4)
    return obedience(rollouts, turning_in(recording, HORIZON, 12, REGION), REGION), rollouts, told


def test_a_model_that_obeys_is_measured_exactly(recording, monkeypatch):
    found, rollouts, told = found_of(Obeys(), recording, monkeypatch)
    assert told["left"].tolist() == [-1, 0]
    assert told["faster"].tolist() == [0, 1]
    assert found.recorded_turning < -0.99  # whoever steers to the right sees the scenery go left
    for name, right, down in (("straight", 0, 2), ("left", 2, 2), ("right", -2, 2), ("slower", 0, 1), ("faster", 0, 3)):
        assert found.horizontal[name].mean == pytest.approx(right, abs=0.15), name
        assert found.speed[name].mean == pytest.approx(np.hypot(right, down), abs=0.15), name
    assert found.turning.mean == pytest.approx(4, abs=0.2)
    assert found.pace.mean == pytest.approx(2, abs=0.2)
    assert found.obeys
    assert rollouts.imagined["left"].shape == (6, HORIZON, SIZE, SIZE, 3)


@pytest.mark.parametrize("model", [Ignores(), TurnsTheWrongWay()])
def test_a_model_that_does_not_obey_fails(model, recording, monkeypatch):
    assert not found_of(model, recording, monkeypatch)[0].obeys


def test_one_moment_is_too_few(recording, monkeypatch):
    assert not found_of(Obeys(), recording, monkeypatch, moments=1)[0].obeys


def test_an_effect_is_beyond_doubt_if_its_whole_interval_is():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 1, 400)
    effect = Effect.of(values)
    assert (effect.mean, effect.ci95) == pytest.approx((values.mean(), 1.966 * values.std(ddof=1) / 20), rel=1e-3)
    assert effect.is_positive
    assert not Effect.of(values - values.mean()).is_positive
    assert not Effect.of(np.zeros(5)).is_positive


def test_nothing_is_said_of_recordings_that_are_too_short(recording):
    cfg = replace(CFG, world_model=replace(CFG.world_model, horizon=30))
    agent = Agent(CFG, Box(2))
    assert imagine(agent, recording, cfg, PATH, {"straight": np.zeros(2)}, 0, 3) is None
    assert turning_in(recording, 30, 3, REGION) == 0


def test_the_command_writes_figures_and_pictures(recording, monkeypatch, tmp_path, capsys):
    from diamond_fast import five_actions as command
    from diamond_fast.runs.agents import TrainedAgent

    cfg = replace(CFG, domain="driving", engine="readable", precision="fp32")
    monkeypatch.setattr(command.AgentFlags, "load", lambda self: TrainedAgent(Agent(CFG, Box(2)), cfg, "here"))
    monkeypatch.setattr(command, "domain_of", lambda cfg: replace(command_domain(), load_recording=lambda _: recording))
    for model, code in ((Obeys(), 0), (Ignores(), 1)):
        monkeypatch.setattr(open_loop, "next_frame_sampler", lambda *_, model=model: model)
        out = tmp_path / str(code)
        arguments = ["--run", "r", "--held-out", str(tmp_path), "--moments", "6", "--out", str(out), "--device", "cpu"]
        assert command.main([*arguments, "--region", "0", "0", "32", "32"]) == code
        assert json.loads((out / "five_actions.json").read_text())["obeys"] == (code == 0)
        assert (out / "five_actions_2.png").stat().st_size > 1_000
    printed = capsys.readouterr().out
    assert "It does what it is told." in printed
    assert "It does not do what it is told" in printed
    for wrong, said in (
        (["--region", "0", "0", "4", "32"], "--region: must be"),
        (["--out", str(tmp_path)], "exists"),
        (["--horizon", "17"], "the longest has 20"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command.main([*arguments[:4], *wrong])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err


def command_domain():
    from diamond_fast.domains import DOMAINS

    return DOMAINS["driving"]
