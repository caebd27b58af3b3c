"""What it takes to bring environments back to where they stand: a seed each, and the actions since."""

from itertools import chain

import numpy as np

from diamond_fast.spec import Action


class ActionHistory:
    """Seeds and actions of N environments that repeat themselves under the same seed and the same actions.

    Environment i works through seeds of its own, number 0, 1, 2, ...: each a function of the base seed, i and
    the number.
    """

    def __init__(self, num_envs: int, action: Action):
        self._action = action
        self._base_seeds = np.zeros(num_envs, np.int64)
        self._numbers = np.full(num_envs, -1, np.int64)
        self._actions: list[list[np.ndarray]] = [[] for _ in range(num_envs)]

    def rebase(self, base_seeds: np.ndarray) -> None:
        """Start over with other base seeds (int64 [N], at least 0)."""
        self._base_seeds[:] = base_seeds
        self._numbers[:] = -1

    def next_seed(self, env: int) -> int:
        """Turn to the environment's next seed and forget its actions. Returns the seed, 31 bits."""
        self._numbers[env] += 1
        return self.restart(env)

    def restart(self, env: int) -> int:
        """Forget the environment's actions. Returns its seed, 31 bits."""
        self._actions[env].clear()
        entropy = (int(self._base_seeds[env]), env, int(self._numbers[env]))
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

    def record(self, env: int, action: np.ndarray) -> None:
        self._actions[env].append(action)

    def length(self, env: int) -> int:
        """Actions since the seed."""
        return len(self._actions[env])

    def state_dict(self) -> dict[str, np.ndarray]:
        """``base_seeds``, ``seed_numbers``, ``lengths`` int64 [N], ``actions`` [sum of lengths, ...]."""
        return {
            "base_seeds": self._base_seeds.copy(),
            "seed_numbers": self._numbers.copy(),
            "lengths": np.array([len(actions) for actions in self._actions], np.int64),
            "actions": np.array(list(chain(*self._actions)), self._action.dtype).reshape(-1, *self._action.shape),
        }

    def load_seeds(self, state: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Take over the seeds of a ``state_dict``. Returns the actions to repeat, [length, ...] per environment.

        Raises:
            ValueError: the state is not one of this number of environments, or of this game.
        """
        num_envs = len(self._actions)
        lengths = state["lengths"]
        for key in ("base_seeds", "seed_numbers", "lengths"):
            if state[key].shape != (num_envs,):
                raise ValueError(f"state: expected {key} of {num_envs} environments, got shape {state[key].shape}")
        if lengths.min() < 0 or lengths.sum() != len(state["actions"]):
            raise ValueError(f"state: {len(state['actions'])} actions do not have the lengths {lengths.tolist()}")
        if reason := self._action.why_not(state["actions"]):
            raise ValueError(f"state: actions: {reason}; it belongs to another game")
        self._base_seeds[:] = state["base_seeds"]
        self._numbers[:] = state["seed_numbers"]
        return np.split(state["actions"], np.cumsum(lengths)[:-1])
