"""The replay buffer in plain Python, and random steps for both."""

import numpy as np

from diamond_fast.replay import Replay
from diamond_fast.spec import Action, Box, Mixed, MultiBinary

SHAPE = (2, 3, 1)


def random_actions(action: Action | None, rng: np.random.Generator, n: int) -> np.ndarray:
    """n actions of a world in which this is done at each step."""
    match action:
        case MultiBinary(k):
            return rng.integers(0, 2, (n, k), np.uint8)
        case Box(k):
            return rng.standard_normal((n, k), np.float32)
        case Mixed():
            return action.sample(rng.random, (n,))
    return rng.integers(0, 6, n)


def append_steps(replay: Replay, rng: np.random.Generator, ends: np.ndarray, truncs: np.ndarray) -> list[dict]:
    """Appends random vector steps that end as told, [T, N] each, and returns them."""
    steps = []
    for end, trunc in zip(ends, truncs, strict=True):
        n = len(end)
        step = {
            "obs": rng.integers(0, 256, (n, *replay.frame_shape), np.uint8),
            "act": random_actions(replay.action, rng, n),
            "rew": rng.integers(-2, 3, n).astype(np.float32),
            "end": np.asarray(end, bool),
            "trunc": np.asarray(trunc, bool),
            "final_obs": rng.integers(0, 256, (n, *replay.frame_shape), np.uint8),
        }
        replay.append(**step)
        steps.append(step)
    return steps


def random_steps(replay: Replay, rng: np.random.Generator, num_steps: int) -> list[dict]:
    """Appends random vector steps, one in ten of which ends, one in ten is cut off."""
    ends, truncs = rng.random((2, num_steps, replay.num_envs)) < 0.1
    return append_steps(replay, rng, ends, truncs)


def assert_same(a: Replay, b: Replay) -> None:
    """Both hold the same episodes."""
    np.testing.assert_array_equal(a.lengths, b.lengths)
    assert a.action == b.action
    for i in range(a.num_episodes):
        for left, right in zip(a.episode(i), b.episode(i), strict=True):
            np.testing.assert_array_equal(left, right)


class Model:
    """The buffer in plain Python: per environment a list of steps; episodes in the order they became visible."""

    def __init__(self, num_envs: int) -> None:
        self.running: list[list | None] = [None] * num_envs
        self.episodes: list[list] = []  # lists of (obs, act, rew, end, trunc), shared with `running`
        self.visible: list[int] = []
        self.finals: dict[int, np.ndarray] = {}

    def publish(self, steps: list) -> int:
        index = next((i for i, episode in enumerate(self.episodes) if episode is steps), len(self.episodes))
        if index == len(self.episodes):
            self.episodes.append(steps)
            self.visible.append(0)
        self.visible[index] = len(steps)
        return index

    def append(self, obs, act, rew, end, trunc, final_obs) -> None:
        for n in range(len(act)):
            if self.running[n] is None:
                self.running[n] = []
            self.running[n].append((obs[n], act[n], rew[n], end[n], trunc[n]))
            if end[n] or trunc[n]:
                self.finals[self.publish(self.running[n])] = final_obs[n]
                self.running[n] = None

    def commit(self) -> None:
        for steps in self.running:
            if steps is not None:
                self.publish(steps)

    def close_episodes(self) -> None:
        self.commit()
        self.running = [None] * len(self.running)

    def check(self, replay: Replay) -> None:
        assert replay.lengths.tolist() == self.visible
        assert (replay.num_episodes, replay.num_steps) == (len(self.visible), sum(self.visible))
        rewards = [step[2] for steps, n in zip(self.episodes, self.visible, strict=True) for step in steps[:n]]
        ends = [step[3] for steps, n in zip(self.episodes, self.visible, strict=True) for step in steps[:n]]
        assert replay.reward_counts.tolist() == [sum(np.sign(r) == s for r in rewards) for s in (-1, 0, 1)]
        assert replay.end_counts.tolist() == [ends.count(False), ends.count(True)]
        for i, (steps, n) in enumerate(zip(self.episodes, self.visible, strict=True)):
            episode = replay.episode(i)
            assert episode.act.dtype == (np.int64 if replay.action is None else replay.action.dtype)
            for stored, column in zip(episode[:5], zip(*steps[:n], strict=True), strict=True):
                np.testing.assert_array_equal(stored, np.stack(column))
            np.testing.assert_array_equal(episode.final_obs, self.finals.get(i))
