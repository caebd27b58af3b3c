"""Collection: the policy plays real games, every step goes into the replay buffer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diamond_fast.envs.acting import Player, Policy
from diamond_fast.envs.real import RealEnv
from diamond_fast.replay import Replay


@dataclass
class Collected:
    """What one call of :meth:`Collector.collect` brought."""

    num_steps: int = 0
    """Environment steps taken."""
    returns: list[float] = field(default_factory=list)
    """Sum of rewards of every episode that ended, in the order they ended."""
    lengths: list[int] = field(default_factory=list)
    """Steps of those episodes."""
    seconds: float = 0.0
    """Spent, as far as the caller measured it."""

    def add(self, later: "Collected") -> None:
        """Append what a later call brought."""
        self.num_steps += later.num_steps
        self.returns += later.returns
        self.lengths += later.lengths
        self.seconds += later.seconds


class Collector:
    """Plays on where the last call stopped: frames, LSTM state, running returns and random numbers carry over.

    Args:
        env: real environments; they are reset before the first step.
        seed: of the games and of the actions.
    """

    def __init__(self, env: RealEnv, seed: int):
        self.env = env
        self._seed = seed
        self._player = Player(env.num_envs, seed, env.action)
        self._obs: np.ndarray | None = None
        self._returns = np.zeros(env.num_envs, np.float64)
        self._lengths = np.zeros(env.num_envs, np.int64)

    def begin(self) -> np.ndarray:
        """Reset the environments, unless games are under way. The first ``collect`` does it if this was not called.

        Returns:
            The frames that the environments stand at.

        Raises:
            EnvironmentFailedError: an environment raised something, or took too long.
        """
        if self._obs is None:
            self._obs, _ = self.env.reset(seed=self._seed)
        return self._obs

    def collect(
        self,
        policy: Policy | None,
        replay: Replay,
        num_steps: int,
        epsilon: float = 0.0,
        temperature: float = 1.0,
        advance: Callable[[int], None] = lambda steps: None,
    ) -> Collected:
        """Take steps and commit them to the replay buffer.

        Args:
            policy: draws the actions (None: all are random), with its LSTM state zeroed where an episode ended.
            replay: takes one ``append`` per vector step.
            num_steps: environment steps, all environments together; rounded up to whole vector steps.
            epsilon: probability that all actions of a vector step are uniformly random (one draw for all of them, as
                published).
            temperature: divides the logits.
            advance: told after every vector step how many environment steps it was.

        Raises:
            ValueError: an argument is out of range.
            EnvironmentFailedError: an environment raised something, or took too long.
        """
        if num_steps < 0:
            raise ValueError(f"num_steps: expected at least 0, got {num_steps}")
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon: expected a probability, got {epsilon}")
        if not temperature > 0:
            raise ValueError(f"temperature: expected above 0, got {temperature}")
        obs = self.begin()
        collected, last_step = Collected(), None
        for _ in range(math.ceil(num_steps / self.env.num_envs)):
            act = self._player.act(policy, obs, epsilon, temperature)
            self.env.send(act)
            if last_step is not None:  # stored while the games play the next one
                self._store(last_step, replay, collected)
            next_obs, rew, end, trunc, info = self.env.recv()
            last_step = obs, act, rew, end, trunc, info["final_obs"]
            self._obs = obs = next_obs
            self._player.forget(end | trunc)
            advance(self.env.num_envs)
        if last_step is not None:
            self._store(last_step, replay, collected)
        replay.commit()
        return collected

    def _store(self, step: tuple[np.ndarray, ...], replay: Replay, collected: Collected) -> None:
        replay.append(*step)
        _, _, rew, end, trunc, _ = step
        collected.num_steps += len(rew)
        self._returns += rew
        self._lengths += 1
        ended = end | trunc
        if ended.any():
            collected.returns += self._returns[ended].tolist()
            collected.lengths += self._lengths[ended].tolist()
            self._returns[ended] = 0
            self._lengths[ended] = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the collector stands, as tensors and arrays. Empty before the first ``collect``."""
        if self._obs is None:
            return {}
        return {
            "env": self.env.state_dict(),
            "player": self._player.state_dict(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict``, bit for bit.

        Raises:
            ValueError, RuntimeError: the environments cannot go back there, see :meth:`RealEnv.load_state_dict`.
        """
        if not state:
            return
        self._obs = self.env.load_state_dict(state["env"])
        self._player.load_state_dict(state["player"])
        self._returns = state["returns"].copy()
        self._lengths = state["lengths"].copy()
