"""Datasets of Minari: pictures and actions as they were, and what is refused."""

import gymnasium
import numpy as np
import pytest

from diamond_fast.replay import load_recording
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
