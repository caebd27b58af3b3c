"""Play in a world of two resolutions: full frames are shown, and several keys are held together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training.test_two_stage_training import CONFIG, recording

from diamond_fast.config_checks import checked
from diamond_fast.playing.hands import panel_of
from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.playing.source import Source, load_source
from diamond_fast.playing.wire import describe, encode_view
from diamond_fast.replay import Replay, load_recording
from diamond_fast.runs.agents import TrainedAgent
from diamond_fast.spec import MultiBinary
from diamond_fast.world_model import Agent

FULL = (18, 24, 3)


@pytest.fixture
def source(tmp_path):
    cfg = checked(replace(CONFIG, static_dataset=recording(tmp_path / "a", 0), engine="readable"))
    torch.manual_seed(0)
    agent = Agent(cfg, MultiBinary(5)).eval().requires_grad_(False)
    for weight in agent.parameters():  # fresh blocks begin with zeros, and know no actions
        torch.nn.init.normal_(weight, std=0.3)
    replay = load_recording(tmp_path / "a")
    return Source("moving column", agent, cfg, replay, "a recording", (), panel_of(cfg, MultiBinary(5), replay, ()))


def played(session, actions=(("0",), (), ("1",))):
    session.restart()
    frames = [session.view().frame]
    for held in actions:
        session.hold(held)
        session.step()
        frames.append(session.view().frame)
    return np.stack(frames)


def test_full_frames_are_played_again_with_the_same_seed(source, tmp_path):
    session = Session(source, Recorder(tmp_path / "r", source.frame_shape, action=source.recorded_action), horizon=3)
    frames = played(session)
    assert frames.shape == (4, *FULL)
    assert np.array_equal(frames, played(session))
    assert not np.array_equal(frames[1:], played(session, (("2",), ("3",), ("4",)))[1:])
    view = session.view()
    assert view.over == "cut"
    assert view.trajectory.shape == (2, *FULL)
    assert len(view.noise_levels) == 2
    assert encode_view(view, 15.0)
    assert [key["name"] for key in describe(session, 10.0)["controls"]["keys"]] == ["0", "1", "2", "3", "4"]
    first = frames[0]
    starts = [
        frame
        for episode in range(source.replay.num_episodes)
        for frame in source.replay.episode(episode).full_obs
        if np.array_equal(frame, first)
    ]
    assert starts  # play begins at a real frame, in full
    session.close()


def test_what_was_recorded_is_shown_in_full_and_dreamt_on_from(source, tmp_path):
    recorder = Recorder(tmp_path / "r", source.frame_shape, action=source.recorded_action)
    session = Session(source, recorder, horizon=5)
    session.seek(1, 7)
    assert np.array_equal(session.view().frame, source.replay.episode(1).full_obs[7])
    session.step()
    assert np.array_equal(session.view().frame, source.replay.episode(1).full_obs[8])
    act = source.replay.episode(1).act[7]
    assert session.view().action == tuple(act.tolist())
    session.dream_from_here()
    assert np.array_equal(session.view().frame, source.replay.episode(1).full_obs[8])
    session.record(True)
    for held in (("0",), ("4",)):
        session.hold(held)
        session.step()
    session.close()
    again = Replay.load(tmp_path / "r" / "journal")
    assert again.action == MultiBinary(5)
    assert again.frame_shape == FULL
    assert again.episode(0).act.tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_published_starts(source, tmp_path):
    rng, act = np.random.default_rng(0), np.eye(5, dtype=np.uint8)[:4]
    pictures = {}
    for number in range(2):
        folder = tmp_path / "spawn" / str(number)
        folder.mkdir(parents=True)
        for name, size in (("low_res", (6, 8)), ("full_res", (18, 24))):
            pictures[number, name] = rng.integers(256, size=(4, 3, *size), dtype=np.uint8)
            np.save(folder / f"{name}.npy", pictures[number, name])
        np.save(folder / "act.npy", act)
    weights = tmp_path / "model" / "csgo.pt"
    trained = TrainedAgent(source.agent, replace(source.cfg, static_dataset=None), "csgo", weights=weights)
    loaded = load_source(trained, torch.device("cpu"))
    session = Session(loaded, Recorder(tmp_path / "r", loaded.frame_shape))
    seen = []
    for _ in range(12):
        frame = session.view().frame
        seen += [n for n in range(2) if np.array_equal(frame, pictures[n, "full_res"][-1].transpose(1, 2, 0))]
        session.next_episode()
    assert len(seen) == 12
    assert set(seen) == {0, 1}
    session.step()
    assert session.view().frame.shape == FULL
    session.close()
    np.save(tmp_path / "spawn" / "1" / "low_res.npy", np.zeros((4, 3, 6, 9), np.uint8))
    with pytest.raises(ValueError, match=r"1/low_res\.npy: expected uint8 \[4, 3, 6, 8\], got uint8 \[4, 3, 6, 9\]"):
        load_source(trained, torch.device("cpu"))
