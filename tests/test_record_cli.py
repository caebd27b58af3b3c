"""Games recorded by the command line: what is stored is what happened, whoever plays and however often it stopped."""

import sys

import gymnasium
import numpy as np
import pytest

from diamond_fast.record import main
from diamond_fast.replay import load_recording
from diamond_fast.replay.sizes import AreaResize
from diamond_fast.spec import Discrete

CATCH = "diamond_fast/Catch-v0"


def run(*arguments: object) -> int:
    return main(list(map(str, arguments)))


@pytest.fixture
def bots(tmp_path, monkeypatch):
    """A module of players."""
    (tmp_path / "bots.py").write_text(
        "def left(frame, rng):\n    return 0 if frame.shape == (32, 32, 3) and rng.random() < 2 else 1\n"
        "def wrong(frame, rng):\n    return 9\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bots", raising=False)


def test_episodes_are_those_of_the_game(tmp_path):
    assert run("--env", CATCH, "--out", tmp_path / "out", "--episodes", 4, "--test", 0.25, "--seed", 5) == 0
    train, test = (load_recording(tmp_path / "out" / half) for half in ("train", "test"))
    assert [train.num_episodes, test.num_episodes, train.action] == [3, 1, Discrete(3)]
    episodes = [*map(train.episode, range(3)), test.episode(0)]
    assert len({tuple(episode.act) for episode in episodes}) > 1
    env = gymnasium.make(CATCH)
    for episode, seeds in zip(episodes, np.random.SeedSequence(5).spawn(4), strict=True):
        rng = np.random.default_rng(seeds)
        frame, _ = env.reset(seed=int(rng.integers(2**31)))
        resize = AreaResize(frame.shape[:2], (64, 64))
        for t in range(len(episode.act)):
            np.testing.assert_array_equal(episode.obs[t], resize(frame))
            frame, reward, terminated, truncated, _ = env.step(int(episode.act[t]))
            assert (reward, terminated, truncated) == (episode.rew[t], episode.end[t], episode.trunc[t])
        assert terminated
        np.testing.assert_array_equal(episode.final_obs, resize(frame))


def test_a_script_in_two_sizes_cut_short(tmp_path, bots):
    sizes = ("--full-size", 32, "--frame-size", 16, "--max-steps", 3, "--episodes", 2, "--player", "bots:left")
    assert run("--env", CATCH, "--out", tmp_path / "out", *sizes) == 0
    replay = load_recording(tmp_path / "out")
    assert (replay.frame_shape, replay.full_shape, replay.lengths.tolist()) == ((16, 16, 3), (32, 32, 3), [3, 3])
    episode = replay.episode(1)
    assert (episode.act.tolist(), episode.trunc.tolist()) == ([0, 0, 0], [False, False, True])
    np.testing.assert_array_equal(episode.obs, AreaResize((32, 32), (16, 16))(episode.full_obs))


def test_a_recording_that_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
    from diamond_fast.replay import importing

    store = importing._store
    assert run("--env", CATCH, "--out", tmp_path / "whole", "--episodes", 5) == 0

    def stops(item, *rest):
        if item.name == "episode 3":
            raise KeyboardInterrupt
        return store(item, *rest)

    monkeypatch.setattr(importing, "_store", stops)
    with pytest.raises(KeyboardInterrupt):
        run("--env", CATCH, "--out", tmp_path / "out", "--episodes", 5)
    monkeypatch.undo()
    assert run("--env", CATCH, "--out", tmp_path / "out", "--episodes", 5) == 0
    for file in (tmp_path / "whole" / "train").iterdir():
        assert (tmp_path / "out" / "train" / file.name).read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "Cach-v0"], 'unknown environment "Cach-v0"'),
        (["--env", "CartPole-v1"], "CartPole-v1"),
        (["--env", CATCH, "--player", "nobody:left"], "--player nobody:left: No module named 'nobody'"),
        (["--env", CATCH, "--player", "bots:number"], "--player bots:number: expected random or module:function"),
        (["--env", CATCH, "--player", "left"], "--player left: expected random or module:function"),
        (
            ["--env", CATCH, "--player", "bots:wrong"],
            "--player: gave an action that is none of Discrete(n=3)",
        ),
        (["--env", CATCH, "--episodes", "0"], "--episodes: must be"),
        (["--env", CATCH, "--env-kwargs", "[]"], "--env-kwargs: must be a JSON object"),
        (["--env", CATCH, "--full-size", "65"], "--full-size: must be the same multiple of --frame-size (64 64)"),
    ],
)
def test_what_cannot_be(tmp_path, bots, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("--out", tmp_path / "out", *arguments)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in printed
    assert printed.count("\n") == 1
