"""Any order of appends, ends, commits, crashes, reopenings and draws, against the buffer in plain Python."""

import copy
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from replay_model import SHAPE, Model, append_steps

from diamond_fast.replay import Replay
from diamond_fast.spec import Box, Discrete, MultiBinary

WEIGHTS = (0.1, 0.1, 0.1, 0.7)


class ReplayMachine(RuleBasedStateMachine):
    @initialize(
        num_envs=st.integers(1, 3),
        seed=st.integers(0, 1000),
        num_threads=st.integers(0, 2),
        action=st.sampled_from([None, Discrete(6), MultiBinary(51), Box(3)]),
    )
    def start(self, num_envs, seed, num_threads, action):
        self.action = action
        self.folder = Path(tempfile.mkdtemp())
        self.path, self.num_envs, self.num_threads = self.folder / "journal", num_envs, num_threads
        self.rng = np.random.default_rng(seed)
        self.model = Model(num_envs)
        self.open(None)
        self.commits = [(self.replay.commit(), copy.deepcopy(self.model))]

    def open(self, length: int | None) -> None:
        self.replay = Replay.open(self.path, SHAPE, self.num_envs, 2000, length, self.action)
        self.segments = self.replay.segments(8, 4, WEIGHTS, beyond_end=True, num_threads=self.num_threads)

    @rule(data=st.data(), num_steps=st.integers(1, 6))
    def append(self, data, num_steps):
        flags = st.lists(st.sampled_from([False, False, False, True]), min_size=self.num_envs, max_size=self.num_envs)
        ends, truncs = ([data.draw(flags) for _ in range(num_steps)] for _ in range(2))
        for step in append_steps(self.replay, self.rng, ends, truncs):
            self.model.append(**step)

    @rule()
    def close_episodes(self):
        self.replay.close_episodes()
        self.model.close_episodes()

    @rule()
    def commit(self):
        length = self.replay.commit()
        self.model.commit()
        if length == self.commits[-1][0]:  # nothing new
            self.commits.pop()
        self.commits.append((length, copy.deepcopy(self.model)))

    @rule(torn=st.integers(0, 60), garbage=st.binary(max_size=40))
    def crash(self, torn, garbage):
        """The machine stops while something is written behind the last commit."""
        self.replay.close()
        length, self.model = self.commits[-1][0], copy.deepcopy(self.commits[-1][1])
        tail = b"RCRD"[:torn] + garbage
        with open(self.path, "ab") as file:
            file.write(tail)
        self.open(None)
        assert self.path.stat().st_size == length

    @rule(data=st.data())
    def go_back_to_a_checkpoint(self, data):
        self.replay.close()
        kept = data.draw(st.integers(1, len(self.commits)))
        del self.commits[kept:]
        length, self.model = self.commits[-1][0], copy.deepcopy(self.commits[-1][1])
        self.open(length)

    @precondition(lambda self: sum(self.model.visible) >= 4)
    @rule()
    def sample(self):
        batch = next(self.segments)
        for row in range(8):
            index, start = batch.episode[row].item(), batch.start[row].item()
            steps, length = self.model.episodes[index], self.model.visible[index]
            final = self.model.finals.get(index)
            for j, t in enumerate(range(start, start + 4)):
                real = 0 <= t < length
                assert batch.mask_padding[row, j] == real
                if real:
                    obs, act, rew, end, trunc = steps[t]
                    np.testing.assert_array_equal(batch.frames[row, j], obs)
                    np.testing.assert_array_equal(batch.act[row, j], act)
                    assert [batch.rew[row, j], batch.end[row, j], batch.trunc[row, j]] == [rew, end, trunc]
                else:
                    is_final = final is not None and t == length
                    assert batch.pixel_mask[row, j] == is_final
                    assert not batch.act[row, j].any()
                    np.testing.assert_array_equal(batch.frames[row, j], final if is_final else np.zeros(SHAPE))

    @invariant()
    def the_same_is_visible(self):
        self.model.check(self.replay)

    def teardown(self):
        if hasattr(self, "replay"):
            self.replay.close()
            shutil.rmtree(self.folder)


class TestReplayMachine(ReplayMachine.TestCase):
    settings = settings(max_examples=15, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestReplayMachineForLonger(ReplayMachine.TestCase):
    settings = settings(max_examples=500, stateful_step_count=60, deadline=None)
