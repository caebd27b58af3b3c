import imageio.v3 as imageio
import numpy as np
import pytest

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
    assert "episode_001: not recorded" in session.view().notice
    session.step()


def test_only_written_episodes_have_films(make_session):
    recorder = make_session().recorder
    for number in (0, -1, 7):
        with pytest.raises(IndexError):
            recorder.film(number, "gif")
