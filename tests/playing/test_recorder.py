import threading
import time

import imageio.v3 as imageio
import numpy as np
import pytest

from diamond_fast.playing import recorder
from diamond_fast.replay import Replay


def play_recorded(session, num_steps):
    """Frames, actions and rewards of each episode, and the episodes' last frames."""
    session.record(True)
    episodes, steps = [], []
    while sum(len(steps) for steps, _ in episodes) + len(steps) < num_steps:
        frame = session.view().frame
        session.step()
        view = session.view()
        if view.action is not None:
            steps.append((frame, view.action, view.reward))
        if view.over:
            episodes.append((steps, view.frame))
            steps = []
    if steps:
        episodes.append((steps, None))
    return episodes


@pytest.mark.parametrize(("world", "num_steps"), [("model", 8), ("real", 60)])
def test_episodes_go_into_a_journal_that_training_reads(make_session, world, num_steps):
    session = make_session(world=world, controller="agent", horizon=6)
    episodes = play_recorded(session, num_steps)
    session.record(False)
    session.close()
    replay = Replay.load(session.recorder.folder / "journal")
    assert replay.num_episodes == len(episodes) > 1
    for i, (steps, final) in enumerate(episodes):
        stored = replay.episode(i)
        frames, actions, rewards = zip(*steps, strict=True)
        np.testing.assert_array_equal(stored.obs, np.stack(frames))
        np.testing.assert_array_equal(stored.act, actions)
        np.testing.assert_array_equal(stored.rew, rewards)
        assert (stored.final_obs is None) == (final is None)
        assert bool(stored.end[-1] or stored.trunc[-1]) == (final is not None)
        if final is not None:
            np.testing.assert_array_equal(stored.final_obs, final)


def test_films_show_the_episode(make_session):
    session = make_session(world="real", controller="agent")
    (steps, final), *_ = play_recorded(session, 49)
    session.close()
    assert session.recorder.names == ("episode_001",)
    assert not session.recorder.problem
    frames = np.stack([*(frame for frame, _, _ in steps), final]).repeat(16, axis=1).repeat(16, axis=2)
    gif = imageio.imread(session.recorder.film(0, "gif"))
    assert len(gif) <= len(frames)  # equal frames in a row may be merged
    np.testing.assert_allclose(gif[0].astype(int), frames[0], atol=8)
    film = imageio.imread(session.recorder.film(0, "mp4"))
    assert film.shape == frames.shape
    assert np.abs(film.astype(int) - frames).mean() < 4


def test_leaving_the_world_ends_the_recorded_episode(make_session):
    session = make_session(world="real")
    session.record(True)
    for _ in range(3):
        session.step()
    session.switch_world("replay")
    assert not session.view().recording
    session.step()
    with pytest.raises(ValueError, match="is a recording already"):
        session.record(True)
    session.close()
    replay = Replay.load(session.recorder.folder / "journal")
    assert replay.lengths.tolist() == [3]


def test_a_full_disk_is_told_and_play_goes_on(make_session, tmp_path):
    session = make_session(world="real")
    session.recorder.folder.write_text("a file is in the way")
    session.record(True)
    session.step()
    session.record(False)
    session.recorder.close()
    assert "episode_001: journal and films not written (" in session.view().notice
    session.step()


def test_too_little_memory_for_the_journal_is_told_and_the_film_is_there(make_session, monkeypatch):
    session = make_session(world="real")
    with monkeypatch.context() as patch:
        patch.setattr(Replay, "open", lambda *args, **kwargs: (_ for _ in ()).throw(MemoryError()))
        record_one(session)
        wait_for(lambda: session.recorder.names)
    assert session.view().notice.endswith("episode_001: journal not written (MemoryError)")
    record_one(session)
    session.close()
    assert session.recorder.names == ("episode_001", "episode_002")
    assert Replay.load(session.recorder.folder / "journal").num_episodes == 1
    first, problem = session.recorder.summary()
    assert first == f"Recorded: {session.recorder.folder}: 1 of 2 episodes in the journal, films of 2"
    assert problem == session.view().notice


def record_one(session):
    session.record(True)
    session.step()
    session.record(False)


def wait_for(condition):
    while not condition():
        time.sleep(0.01)


def test_memory_is_reserved_by_need(make_session, monkeypatch):
    capacities, plain = [], Replay.open

    def opened(path, frame_shape, capacity):
        capacities.append(capacity)
        return plain(path, frame_shape, capacity=capacity)

    monkeypatch.setattr(Replay, "open", opened)
    monkeypatch.setattr(recorder, "write_film", lambda *args: None)
    session = make_session(world="real")
    for _ in range(20):
        record_one(session)
    session.close()
    assert capacities == [2, 6, 14, 30]
    assert Replay.load(session.recorder.folder / "journal").lengths.tolist() == [1] * 20


def test_the_end_does_not_wait_for_all_films(make_session, monkeypatch):
    """The first film takes for ever; the journal still gets every episode."""
    begun, plain = threading.Event(), recorder.write_film

    def endless(path, frames, frames_per_second, check):
        begun.set()
        path.write_bytes(b"half a film")
        while True:
            check()
            time.sleep(0.01)

    monkeypatch.setattr(recorder, "SECONDS_TO_CLOSE", 0.1)
    session = make_session(world="real")
    record_one(session)
    wait_for(lambda: session.recorder.names)
    monkeypatch.setattr(recorder, "write_film", endless)
    for _ in range(3):
        record_one(session)
    begun.wait()
    session.close()
    monkeypatch.setattr(recorder, "write_film", plain)
    folder = session.recorder.folder
    assert Replay.load(folder / "journal").num_episodes == 4
    assert sorted(path.name for path in folder.iterdir()) == ["episode_001.gif", "episode_001.mp4", "journal"]
    assert session.recorder.summary() == [
        f"Recorded: {folder}: 4 of 4 episodes in the journal, films of 1",
        "Left out to end in time: the films of 3",
    ]


def test_nothing_recorded_is_nothing_to_tell(make_session):
    session = make_session()
    session.close()
    assert session.recorder.summary() == []
    assert not session.recorder.folder.exists()


def test_only_written_episodes_have_films(make_session):
    empty = make_session().recorder
    for number in (0, -1, 7):
        with pytest.raises(IndexError):
            empty.film(number, "gif")
