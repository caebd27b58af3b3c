"""Play in a world of two resolutions: full frames are shown, and several keys are held together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diamond_fast.playing.recorder import Recorder
from diamond_fast.playing.session import Session
from diamond_fast.playing.source import load_source
from diamond_fast.playing.starts import Beginning
from diamond_fast.playing.wire import describe, encode_view
from diamond_fast.playing.worlds import Dream
from diamond_fast.replay import Replay
from diamond_fast.runs.agents import TrainedAgent
from diamond_fast.spec import MultiBinary

FULL = (18, 24, 3)


def played(session, actions=(("0",), (), ("1",))):
    session.restart()
    frames = [session.view().frame]
    for held in actions:
        session.hands.hold(held)
        session.step()
        frames.append(session.view().frame)
    return np.stack(frames)


def test_full_frames_are_played_again_with_the_same_seed(two_stages, make_session):
    session = make_session(of=two_stages, horizon=3)
    session.show_details(True)
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
        for episode in range(two_stages.replay.num_episodes)
        for frame in two_stages.replay.episode(episode).full_obs
        if np.array_equal(frame, first)
    ]
    assert starts  # play begins at a real frame, in full


def test_a_fast_path_writes_over_neither_the_beginning_nor_what_inference_mode_made(two_stages):
    """It keeps its state in the same tensors for every step."""
    source = replace(two_stages, cfg=replace(two_stages.cfg, engine="torch"))
    dream = Dream(source, source.cfg.world_model, seed=0)
    context = source.replay.cut([(0, 2)], source.agent.spec.context, full=True)
    before = context.frames.clone()
    with torch.inference_mode():
        for begin in (dream.begin, lambda: dream.begin_from(Beginning(context))):
            begin()
            dream.step(source.panel.idle)
    assert torch.equal(context.frames, before)


def test_what_was_recorded_is_shown_in_full_and_dreamt_on_from(two_stages, tmp_path):
    recorder = Recorder(tmp_path / "r", two_stages.frame_shape, action=two_stages.recorded_action)
    session = Session(two_stages, recorder, horizon=5)
    session.seek(1, 7)
    assert np.array_equal(session.view().frame, two_stages.replay.episode(1).full_obs[7])
    session.step()
    assert np.array_equal(session.view().frame, two_stages.replay.episode(1).full_obs[8])
    act = two_stages.replay.episode(1).act[7]
    assert session.view().action == tuple(act.tolist())
    session.dream_from_here()
    assert np.array_equal(session.view().frame, two_stages.replay.episode(1).full_obs[8])
    session.record(True)
    for held in (("0",), ("4",)):
        session.hands.hold(held)
        session.step()
    session.close()
    again = Replay.load(tmp_path / "r" / "journal")
    assert again.action == MultiBinary(5)
    assert again.frame_shape == FULL
    assert again.episode(0).act.tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_published_starts(two_stages, tmp_path):
    rng, act = np.random.default_rng(0), np.eye(5, dtype=np.uint8)[:4]
    pictures = {}
    for number in range(2):
        folder = tmp_path / "spawn" / str(number)
        folder.mkdir(parents=True)
        for name, size in (("low_res", (6, 8)), ("full_res", (18, 24))):
            pictures[number, name] = rng.integers(256, size=(4, 3, *size), dtype=np.uint8)
            np.save(folder / f"{name}.npy", pictures[number, name])
        np.save(folder / "act.npy", act)
        np.save(folder / "next_act.npy", act[:3])
    weights = tmp_path / "model" / "csgo.pt"
    trained = TrainedAgent(two_stages.agent, replace(two_stages.cfg, static_dataset=None), "csgo", weights=weights)
    loaded = load_source(trained, torch.device("cpu"))
    assert [acts.tolist() for acts in loaded.following.values()] == [act[:3].tolist()] * 2
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


def test_both_stages_are_seen_and_can_be_drawn_better(two_stages, make_session):
    session = make_session(of=two_stages, horizon=9)
    view = session.view()
    assert (view.quality, view.details, view.small.shape) == ("fast", False, (1, 6, 8, 3))
    episodes = [two_stages.replay.episode(i) for i in range(two_stages.replay.num_episodes)]
    pairs = [(e.obs[t], e.full_obs[t]) for e in episodes for t in range(len(e.act))]
    assert any(np.array_equal(view.small[0], s) and np.array_equal(view.frame, f) for s, f in pairs)
    session.step()
    view = session.view()
    assert (len(view.trajectory), len(view.small), view.noise_levels) == (0, 1, ())
    session.show_details(True)
    session.set_quality("high")
    session.step()
    view = session.view()
    assert view.trajectory.shape == (11, *FULL)
    assert view.small.shape == (4, 6, 8, 3)
    assert (len(view.noise_levels), len(view.small_noise_levels)) == (11, 4)
    np.testing.assert_array_equal(view.trajectory[-1], view.frame)
    assert len(encode_view(view, 1.0)) > 12 * 18 * 24 * 3 + 4 * 6 * 8 * 3
    session.set_quality("fast")
    session.step()
    assert len(session.view().trajectory) == 2
    with pytest.raises(ValueError, match="quality: expected one of fast, high, got 'best'"):
        session.set_quality("best")


def test_a_picture_and_recorded_actions_in_two_sizes(two_stages, make_session):
    session = make_session(of=two_stages, horizon=99)
    picture = np.full(FULL, 200, np.uint8)
    session.start_from_picture(picture.tobytes())
    view = session.view()
    np.testing.assert_array_equal(view.frame, picture)
    np.testing.assert_array_equal(view.small[0], picture[::3, ::3])
    session.step()
    session.start(1, 20)
    following = np.eye(5, dtype=np.uint8)[:2]
    session.source = replace(two_stages, following={1: following})
    session.set_controller("recorded")
    done = []
    while not session.over:
        session.step()
        done.append(session.view().action)
    np.testing.assert_array_equal(done, np.concatenate((two_stages.replay.episode(1).act[20:], following)))
