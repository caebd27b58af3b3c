"""What was recorded while playing can be imported and trained on, whatever the actions are."""

import numpy as np
import pytest

from diamond_fast.replay import load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.fitting import check_fits
from diamond_fast.spec import Box, Discrete, Mixed, MultiBinary

MIXED = Mixed(parts=(("keys", MultiBinary(2)), ("turn", Box(2)), ("weapon", Discrete(3))))


def record(session, held):
    session.record(True)
    frames, actions = [], []
    for keys in held:
        frames.append(session.view().frame)
        session.hands.hold(keys)
        session.step()
        actions.append(session._recent[-1][1])
        if session.over:
            break
    session.close()
    return np.stack(frames), np.stack(actions)


@pytest.mark.parametrize("action", [MultiBinary(3), Box(2), MIXED])
def test_recordings_are_imported_as_they_were_played(untrained_world, make_session, tmp_path, action):
    source = untrained_world(action)
    session = make_session(of=source, horizon=50)
    names = [button.name for button in source.panel.buttons]
    frames, actions = record(session, [names[i : i + 2] for i in range(len(names) - 1)])
    journal = session.recorder.folder / "journal"
    assert main(["import", str(journal), "--out", str(tmp_path / "again")]) == 0
    for path in (journal, tmp_path / "again"):
        replay = load_recording(path)
        assert check_fits("--static-dataset", path, replay, source.replay.frame_shape, action) == action
        np.testing.assert_array_equal(replay.episode(0).obs, frames)
        np.testing.assert_array_equal(replay.episode(0).act, actions)
    assert len(np.unique(actions, axis=0)) > 1


def test_full_frames_become_a_recording_in_two_sizes_again(two_stages, make_session, tmp_path):
    session = make_session(of=two_stages, horizon=50)
    frames, actions = record(session, [["0"], ["1", "4"], [], ["2"]])
    sizes = ("--frame-size", "6", "8", "--full-size", "18", "24")
    journal = session.recorder.folder / "journal"
    assert main(["import", str(journal), "--out", str(tmp_path / "again"), *sizes]) == 0
    replay = load_recording(tmp_path / "again")
    assert (replay.frame_shape, replay.full_shape) == ((6, 8, 3), (18, 24, 3))
    np.testing.assert_array_equal(replay.episode(0).full_obs, frames)
    np.testing.assert_array_equal(replay.episode(0).act, actions)
