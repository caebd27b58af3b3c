"""Datasets of Minari: pictures and actions as they were, and what is refused."""

import gymnasium
import numpy as np
import pytest

from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.spec import Box, Discrete

minari = pytest.importorskip("minari", reason="minari is not installed: pip install 'diamond_fast[recordings]'")


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Makes a dataset of two episodes, cut off and ended; returns their observations and actions."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def record(observation_space, action_space):
        buffers, last = [], np.arange(5) == 4
        for i in range(2):
            obs = [observation_space.sample() for _ in range(6)]
            act = [action_space.sample() for _ in range(5)]
            rewards, ends, truncs = [1.0, 2.0, 3.0, 4.0, 5.0], list(last & (i == 1)), list(last & (i == 0))
            buffers.append(minari.data_collector.EpisodeBuffer(i, 0, None, obs, act, rewards, ends, truncs, {}))
        minari.create_dataset_from_buffers(
            "pictures/tiny-v0",
            buffers,
            observation_space=observation_space,
            action_space=action_space,
            jpeg_encoding=False,
        )
        return [(np.stack(buffer.observations), np.stack(buffer.actions)) for buffer in buffers]

    return record


def run(*arguments: object) -> int:
    return main(["import", *map(str, arguments)])


RGB = gymnasium.spaces.Box(0, 255, (8, 12, 3), np.uint8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("space", "action"),
    [(gymnasium.spaces.Discrete(6), Discrete(6)), (gymnasium.spaces.Box(-1, 1, (2,), np.float32), Box(2))],
)
def test_pictures_and_actions_are_as_recorded(record, tmp_path, space, action):
    episodes = record(RGB, space)
    assert run("--minari", "pictures/tiny-v0", "--out", tmp_path / "out") == 0
    replay = load_recording(tmp_path / "out")
    assert replay.action == action
    for i, (obs, act) in enumerate(episodes):
        episode = replay.episode(i)
        np.testing.assert_array_equal(episode.obs, obs[:-1])
        np.testing.assert_array_equal(episode.final_obs, obs[-1])
        np.testing.assert_array_equal(episode.act, act)
        assert episode.rew.tolist() == [1, 2, 3, 4, 5]
        assert (bool(episode.end[-1]), bool(episode.trunc[-1])) == (i == 1, i == 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("action", [Discrete(6), Box(2)])
def test_a_recording_goes_out_and_comes_back(tmp_path, monkeypatch, capsys, action):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    rng, no = np.random.default_rng(0), np.zeros(1, bool)
    path = tmp_path / "journal"
    replay = Replay.open(path, (8, 12, 3), capacity=20, action=None if isinstance(action, Discrete) else action)
    for t in range(11):  # an end, a cut, and an episode whose end nobody saw
        act = np.array([t % 6]) if isinstance(action, Discrete) else rng.normal(size=(1, 2)).astype(np.float32)
        frames = rng.integers(256, size=(2, 1, 8, 12, 3), dtype=np.uint8)
        replay.append(frames[0], act, np.full(1, t, np.float32), no | (t == 3), no | (t == 6), frames[1])
    replay.commit()
    replay.close()

    assert main(["export", str(path), "--minari", "mine/tiny-v0"]) == 0
    assert "mine/tiny-v0: 10 steps" in capsys.readouterr().out
    assert run("--minari", "mine/tiny-v0", "--out", tmp_path / "back") == 0
    before, after = Replay.load(path), load_recording(tmp_path / "back")
    assert after.lengths.tolist() == [4, 3, 3]
    for i in range(3):
        old, new, steps = before.episode(i), after.episode(i), int(after.lengths[i])
        np.testing.assert_array_equal(new.obs, old.obs[:steps])
        np.testing.assert_array_equal(new.act, old.act[:steps])
        np.testing.assert_array_equal(new.rew, old.rew[:steps])
        np.testing.assert_array_equal(new.final_obs, old.obs[3] if i == 2 else old.final_obs)
        assert (bool(new.end[-1]), bool(new.trunc[-1])) == (i == 0, i > 0)

    for flags, message in (
        (["--minari", "mine/tiny-v0"], "--minari mine/tiny-v0: cannot be written ("),
        ([], "a second path, --minari: exactly one of them is needed"),
        ([str(tmp_path / "x.npz"), "--minari", "y-v0"], "a second path, --minari: exactly one of them is needed"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["export", str(path), *flags])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith(message)


@pytest.mark.filterwarnings("ignore")
def test_what_is_refused(record, tmp_path, capsys):
    record(gymnasium.spaces.Box(-1, 1, (4,), np.float32), gymnasium.spaces.Discrete(2))
    for name, message in (
        (
            "pictures/tiny-v0",
            "--minari pictures/tiny-v0: episode 0: its observations are no pictures, but float32 [6, 4]",
        ),
        ("not a name", "--minari not a name: cannot be loaded ("),
    ):
        with pytest.raises(SystemExit) as stopped:
            run("--minari", name, "--out", tmp_path / "out")
        assert stopped.value.code == 2
        assert message in (printed := capsys.readouterr().err)
        assert printed.count("\n") == 1
