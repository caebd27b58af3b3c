"""The examples do what they say."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_fast_denoiser(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fast_denoiser.py"])
    runpy.run_path(str(EXAMPLES / "fast_denoiser.py"), run_name="__main__")
    assert capsys.readouterr().out.count("(8, 3, 64, 64)") == 2


def test_a_formulation_in_one_file(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import straight_line

    losses = straight_line.main(updates=40)
    assert np.mean(losses[-10:]) < 0.7 * losses[0]


def test_an_open_future(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["open_future.py", "--teacher-updates", "1", "--updates", "1", "--samples", "4"])
    runpy.run_path(str(EXAMPLES / "open_future.py"), run_name="__main__")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["way"] for row in rows][:3] == ["teacher, n = 1", "teacher, n = 3", "student, pseudo-huber"]
    assert len(rows) == 5
    assert (rows[1]["from the teacher"], rows[1]["the teacher's column"]) == (0, 1)
    assert all(row["from the teacher"] > 0 for row in rows[2:])


def test_own_game(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    import own_game

    own_game.main("--out", str(tmp_path / "run"))
    assert "Return:" in capsys.readouterr().out
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [0, 1, 1]
    assert len(epochs[-1]["final_test/returns"]) == 1


def test_the_world_model_as_an_environment(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import world_model_as_environment

    returns = world_model_as_environment.main(num_envs=3, steps=18)
    assert len(returns) >= 3  # each episode ends after 15 steps at the latest
    assert all(r == int(r) and abs(r) <= 15 for r in returns)


def test_scripted_players(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    import scripted_players

    from diamond_fast.domains.atari.env import AtariSlot
    from diamond_fast.replay import load_recording

    scripted_players.main(["catch", str(tmp_path / "catch.journal"), "--steps", "120", "--noise", "0"])
    recording = load_recording(tmp_path / "catch.journal")
    assert recording.lengths.tolist() == [49, 49, 49]
    assert recording.reward_counts.tolist() == [0, 132, 15]  # five balls a game, none missed

    slot = AtariSlot("Breakout", 64)
    frame, _ = slot.reset(0)
    before, act, score = frame, 0, 0.0
    for _ in range(160):
        act = scripted_players.play_breakout(frame, before, act)
        slot.send(np.int64(act))
        step = slot.recv()
        frame, before, score = step.frame.copy(), frame, score + step.reward
        assert step.lives >= 4  # one who does not look has lost them all by then
    slot.close()
    assert score >= 3

    for play, lost in ((scripted_players.play_pong, range(1)), (lambda *_: 0, range(3, 10))):
        slot = AtariSlot("Pong", 64)
        frame, _ = slot.reset(0)
        before, act, rewards = frame, 0, []
        for _ in range(250):
            act = play(frame, before, act)
            slot.send(np.int64(act))
            step = slot.recv()
            frame, before = step.frame.copy(), frame
            rewards.append(step.reward)
        slot.close()
        assert rewards.count(-1) in lost  # it returns every ball, and one who stands still hardly any

    slot = AtariSlot("Boxing", 48)
    frame, _ = slot.reset(0)
    before, act, apart = frame, 0, []
    for _ in range(120):
        act = scripted_players.play_boxing(frame, before, act)
        slot.send(np.int64(act))
        frame, before = slot.recv().frame.copy(), frame
        ring = frame[9:40, 11:38]
        white, black = (np.argwhere(seen).mean(0) for seen in (ring.min(-1) > 190, ring.max(-1) < 30))
        apart.append(np.linalg.norm(white - black))
    slot.close()
    assert apart[0] > 15
    assert np.mean(apart[60:]) < 10


def test_long_dreams(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    import long_dreams

    from diamond_fast.replay import load_recording
    from diamond_fast.runs.demo import FOLDER, RECORDING

    game = load_recording(FOLDER / RECORDING).episode(0).obs
    for seen, least in (
        (long_dreams.white(game), long_dreams.WHITE_LEAST),
        (long_dreams.black(game), long_dreams.BLACK_LEAST),
    ):
        assert (seen.sum((-2, -1)) >= least).mean() > 0.99  # both are there in the real game
    assert 0.1 < long_dreams.arm_out(game).mean() < 0.3

    long_dreams.main(["--places", "2", "--frames", "10"])
    said = capsys.readouterr().out
    assert "frame 10: white in 2 of 2, black in 2 of 2" in said
    assert "left held for 8 steps: white goes" in said


@pytest.mark.parametrize("frames", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_a_dream_stays_sharp_and_keeps_its_boxers(frames, monkeypatch):
    """Of the demo, from places of the game that comes with it. A blurred dream has half of the edges."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import long_dreams

    from diamond_fast.engine.choose import choose_path
    from diamond_fast.replay import load_recording
    from diamond_fast.runs.demo import FOLDER, RECORDING, load_demo

    agent, cfg = load_demo()
    replay, path = load_recording(FOLDER / RECORDING), choose_path(torch.device("cpu"), cfg.precision, cfg.engine)
    seen = long_dreams.dream(agent, cfg, replay, path, places=4, frames=frames)
    for boxer, least in ((long_dreams.white, long_dreams.WHITE_LEAST), (long_dreams.black, long_dreams.BLACK_LEAST)):
        assert (boxer(seen.imagined).sum((-2, -1)) >= least).mean() > 0.9
    assert 0.8 < long_dreams.edges(seen.imagined[:, -20:]) / long_dreams.edges(seen.real[:, -20:]) < 1.2


def test_clone_player(monkeypatch, tmp_path, capsys):
    """A player who only ever does one thing is learned soon; the run that is written can be begun with."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import clone_player

    from diamond_fast.presets import PRESETS
    from diamond_fast.replay import Replay
    from diamond_fast.replay.buffer import Episode
    from diamond_fast.runs.agents import agent_of_settings

    rew, end = np.array([0, 2, -5], np.float32), np.array([False, False, True])
    episode = Episode(obs=rew, act=rew, rew=rew, end=end, trunc=end & False, final_obs=None)
    np.testing.assert_allclose(clone_player.returns_of(episode, 0.5), [0.25, 0.5, -1])
    rng = np.random.default_rng(0)
    replay = Replay.open(tmp_path / "player.journal", (48, 48, 3), capacity=100)
    for t in range(60):
        frames, end = rng.integers(256, size=(2, 1, 48, 48, 3), dtype=np.uint8), np.array([t == 59])
        replay.append(frames[0], np.array([3]), np.ones(1, np.float32), end, ~end & False, frames[1])
    replay.commit()
    replay.close()
    few = ["--updates", "12", "--batch-size", "2", "--lr", "0.02"]
    monkeypatch.setattr(clone_player, "warmed_up", lambda lr, warmup, update: lr)
    clone_player.main([str(tmp_path / "player.journal"), "--out", str(tmp_path / "clone"), *few])
    cfg = replace(PRESETS["demo"], world_model_only=False, model_free=True)
    policy = agent_of_settings(tmp_path / "clone", cfg).actor_critic
    assert policy.num_actions == 4
    logits, value = clone_player.outputs(policy, torch.rand(1, 6, 3, 48, 48))
    assert (logits.argmax(-1) == 3).all()
    assert value.mean() > 0.5
