"""Where dreams begin, and what plays in them."""

import numpy as np
import pytest

from diamond_fast.playing.starts import MOST_PICTURES, PICTURE_WIDTH, pictures, spread_places


def moments(session, steps):
    frames, actions = [session.view().frame], []
    for _ in range(steps):
        session.step()
        frames.append(session.view().frame)
        actions.append(session.view().action)
    return np.stack(frames), actions


def test_places_are_spread_and_can_be_looked_back_from(source):
    places = spread_places(source)
    assert len(places) == len(set(places)) == MOST_PICTURES
    assert places == sorted(places)
    assert {episode for episode, _ in places} >= {0, source.replay.num_episodes - 1}
    assert all(3 <= step < source.replay.lengths[episode] for episode, step in places)
    for shown in pictures(source):
        assert shown["size"] == (24, 24)
        assert len(shown["rgb"]) == 24 * 24 * 3 * 4 // 3
    assert PICTURE_WIDTH >= 24


def test_a_dream_begins_at_the_moment_that_was_picked(source, make_session):
    session = make_session(seed=8, horizon=50)
    session.start(2, 11)
    np.testing.assert_array_equal(session.view().frame, source.replay.episode(2).obs[11])
    first, _ = moments(session, 1)
    session.restart()
    again, _ = moments(session, 1)
    np.testing.assert_array_equal(first, again)
    other = make_session(seed=8, horizon=50)
    other.seek(2, 11)
    other.dream_from_here()
    np.testing.assert_array_equal(first, moments(other, 1)[0])
    session.next_episode()
    assert not np.array_equal(session.view().frame, first[0])
    with pytest.raises(ValueError, match="step: expected 0 to"):
        session.start(2, 10**6)


def test_a_picture_is_the_whole_context(make_session):
    picture = np.random.default_rng(0).integers(256, size=(24, 24, 3), dtype=np.uint8)
    session = make_session(seed=8)
    session.start_from_picture(picture.tobytes())
    np.testing.assert_array_equal(session.view().frame, picture)
    state = session._world._env.state
    assert (state.obs[0] == state.obs[0, -1]).all()
    assert state.act[0, :3].tolist() == [1, 1, 1]  # nothing was done
    session.step()
    assert session.view().world == "model"
    with pytest.raises(ValueError, match=r"picture: expected 1728 bytes, a frame of \(24, 24, 3\), got 3"):
        session.start_from_picture(b"abc")


def test_recorded_actions_are_played_in_a_dream(source, make_session):
    session = make_session(seed=8, horizon=1000)
    session.start(1, 40)
    session.set_controller("recorded")
    np.testing.assert_array_equal(session.view().frame, source.replay.episode(1).obs[40])
    expected = source.replay.episode(1).act[40:].tolist()
    done = []
    while not session.over and len(done) < 50:
        session.step()
        done.append(session.view().action)
    assert done == expected[: len(done)]
    assert len(done) == len(expected) or session.over == "end"
    session.step()  # on to what was recorded next
    np.testing.assert_array_equal(session.view().frame, source.replay.episode(2).obs[3])
    session.switch_world("real")
    assert session.view().controller == "human"
