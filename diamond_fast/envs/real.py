"""Real environments: games of any world behind one vectorised interface."""

import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from diamond_fast.config import Place
from diamond_fast.envs.action_history import ActionHistory
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.envs.process_slot import ProcessSlot
from diamond_fast.envs.slot import Slot
from diamond_fast.envs.spaces import action_space, checked_actions
from diamond_fast.envs.timed_worker import MainThreadWorker, TimedWorker


class RealEnv(VectorEnv):
    """N games of a kind, stepped together; an episode that ends is followed by the next in the same step.

    ``reset`` and ``step`` return uint8 frames [N,H,W,C]. ``step`` takes actions [N,...], of the dtype and shape that
    ``action`` says, and returns float32 rewards [N] and bool terminations and truncations [N]; its info holds

    - ``final_obs`` uint8 [N,H,W,C]: the frames the actions led to, equal to the observations where no episode ended
      (``_final_obs`` bool [N] says where one did);
    - ``game_over`` bool [N]: the game itself ended or was cut short, not only a life;
    - ``lives`` int64 [N]: lives left in the game on the screen, 0 in games without.

    Results are awaited on a thread of the environment's own: ``send`` returns at once, ``recv`` waits for that thread.

    Args:
        make_slot: makes one game.
        num_envs: how many.
        done_on_life_loss: a lost life terminates the episode, and the same game goes on in the next one.
        timeout: seconds to wait for a step; then the environment is of no more use.
        start_timeout: seconds to wait for one game to be made, and for its first episode; as ``timeout`` if None.
        name: of the game, for errors.
        runs_in: where games run: in a thread for all of them, in a process for each, or in the main thread, without
            time limits. Made in another thread, ``main`` becomes ``process``.
        max_steps: a game is cut short after so many steps; never if None.

    Raises:
        ValueError: ``num_envs`` is below 1.
        EnvironmentFailedError: it took too long. What ``make_slot`` raises is passed on.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        make_slot: Callable[[], Slot],
        num_envs: int,
        done_on_life_loss: bool,
        timeout: float = 60.0,
        start_timeout: float | None = None,
        name: str = "",
        runs_in: Place = "thread",
        max_steps: int | None = None,
    ):
        self.closed = True  # nothing to close until the slots are there
        if num_envs < 1:
            raise ValueError(f"num_envs: expected at least 1, got {num_envs}")
        self.name = name
        self.num_envs = num_envs
        self.done_on_life_loss = done_on_life_loss
        self.active = np.ones(num_envs, bool)
        """Environments that are stepped. The others stand still: the last frame, no reward, no end."""
        self._max_steps = max_steps
        self._start_timeout = num_envs * (timeout if start_timeout is None else start_timeout)
        in_main_thread = runs_in == "main" and threading.current_thread() is threading.main_thread()
        if runs_in != "thread" and not in_main_thread:
            make_slot = partial(ProcessSlot, make_slot, name)
        self._worker = MainThreadWorker() if in_main_thread else TimedWorker(timeout)
        try:
            self._slots = self._start(lambda: [make_slot() for _ in range(num_envs)])
        except BaseException:
            self._worker.close()
            raise
        self.closed = False
        self.frame, self.action = self._slots[0].frame, self._slots[0].action
        self.single_observation_space = spaces.Box(0, 255, self.frame.shape, np.uint8)
        self.single_action_space = action_space(self.action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._history = ActionHistory(num_envs, self.action)
        self._seeded = False
        self._obs: Any = None  # once reset: uint8 [N,H,W,C]
        self._lives = np.zeros(num_envs, np.int64)
        self._fewest_lives = np.zeros(num_envs, np.int64)
        self._game_lengths = np.zeros(num_envs, np.int64)

    # --- Gymnasium's interface --------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game in every environment.

        Args:
            seed: of the run, or one per environment; None goes on with the seeds that follow from the last one given,
                and draws one if there was none.
            options: ignored.

        Raises:
            ValueError: a seed is negative, or their number is not that of the environments.
        """
        if seed is None and not self._seeded:
            seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1)
        if seed is not None:
            base_seeds = np.asarray(seed, np.int64)
            if base_seeds.shape not in ((), (self.num_envs,)) or base_seeds.min() < 0:
                raise ValueError(f"seed: expected an integer of at least 0 or {self.num_envs} of them, got {seed}")
            self._history.rebase(base_seeds)
            self._seeded = True
        seeds = [self._history.next_seed(i) for i in range(self.num_envs)]
        self._start(self._begin, seeds)
        return self._obs, {"lives": self._lives.copy()}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one action in every environment, see the class. Raises what ``send`` and ``recv`` raise."""
        self.send(actions)
        return self.recv()

    def send(self, actions: np.ndarray) -> None:
        """Start a step and return at once.

        Raises:
            TypeError: actions are of another kind, such as fractions instead of integers.
            ValueError: actions are not of shape [N, ...], or one is out of range.
            RuntimeError: the environment was not reset, or ``recv`` was not called after the last ``send``.
        """
        self._check_ready()
        self._step(checked_actions(self.action, actions, self.num_envs), np.flatnonzero(self.active).tolist())

    def recv(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Wait for the step that ``send`` started and return its results.

        Raises:
            EnvironmentFailedError: an environment did not answer in time, or raised something.
        """
        return self._result("--env-timeout")

    def close_extras(self, **kwargs: Any) -> None:
        if sys.is_finalizing():  # threads no longer run, and a wait for one would never end
            return
        if self._worker.busy and not self._worker.lost:
            with suppress(Exception):  # of a step nobody waits for any more
                self._worker.result()
        try:
            if not self._worker.lost:  # a game that is stuck cannot be closed: its thread keeps it
                self._start(lambda: [slot.close() for slot in self._slots])
        except EnvironmentFailedError as error:  # nobody needs it any more, and what was done with it counts
            print(f"{error} (while it was closed)", file=sys.stderr, flush=True)
        finally:
            self._worker.close()

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Where every environment stands: its seed, the actions since, and a checksum of its frame.

        Raises:
            RuntimeError: the environment was not reset, or a step is under way.
        """
        self._check_ready()
        return self._history.state_dict() | {"frame_crc32": self._checksums()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> np.ndarray:
        """Go back to a state by repeating the actions since each environment's seed; then all goes on bit for bit.

        Returns:
            The frames the environments stand at, uint8 [N,H,W,C].

        Raises:
            ValueError: the state is not one of this number of environments, or of this game.
            RuntimeError: an environment did not come back to the same frame: it does not repeat itself.
        """
        histories = self._history.load_seeds(state)
        self._seeded = True
        self._start(self._begin, [self._history.restart(i) for i in range(self.num_envs)])
        lengths = np.array([len(actions) for actions in histories])
        for t in range(lengths.max()):
            stepped = np.flatnonzero(t < lengths).tolist()
            self._step({i: histories[i][t] for i in stepped}, stepped)
            self.recv()
        wrong = np.flatnonzero(self._checksums() != state["frame_crc32"])
        if wrong.size:
            raise RuntimeError(
                f"state: environments {wrong.tolist()} did not come back to the same frame; "
                "was the state made by another version, or does the environment draw unseeded random numbers?"
            )
        return self._obs

    def _checksums(self) -> np.ndarray:
        return np.array([zlib.crc32(np.ascontiguousarray(frame).data) for frame in self._obs], np.int64)

    def _start(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what may take as long as a start."""
        self._worker.submit(function, *args)
        return self._result("--env-start-timeout", self._start_timeout)

    def _result(self, flag: str, timeout: float | None = None) -> Any:
        try:
            return self._worker.result(timeout)
        except TimeoutError as error:
            raise EnvironmentFailedError(f"{self.name}: {error}; a larger {flag} waits longer") from None

    def _step(self, actions: np.ndarray | dict[int, np.ndarray], stepped: list[int]) -> None:
        for i in stepped:
            self._slots[i].send(actions[i])
            self._history.record(i, actions[i])
        self._worker.submit(self._finish, stepped)

    # --- on the environment's thread --------------------------------------------------------------------------------

    def _begin(self, seeds: list[int]) -> None:
        begun = [slot.reset(seed) for slot, seed in zip(self._slots, seeds, strict=True)]
        self._obs = np.stack([frame for frame, _ in begun])
        self._lives = np.array([lives for _, lives in begun], np.int64)
        self._fewest_lives = self._lives.copy()
        self._game_lengths[:] = 0

    def _finish(self, stepped: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        next_obs = self._obs.copy()
        rewards = np.zeros(self.num_envs, np.float32)
        terminations, truncations = np.zeros((2, self.num_envs), bool)
        first_frames: dict[int, np.ndarray] = {}
        for i in stepped:
            next_obs[i], rewards[i], terminations[i], truncations[i], lives, first_frame = self._slots[i].recv()
            self._game_lengths[i] += 1
            if self._max_steps is not None and self._game_lengths[i] >= self._max_steps and not terminations[i]:
                truncations[i] = True
            if terminations[i] or truncations[i]:
                self._game_lengths[i] = 0
                if first_frame is None or self._history.length(i) >= self._slots[i].seed_lasts:
                    first_frame, lives = self._slots[i].reset(self._history.next_seed(i))
                first_frames[i] = first_frame
            self._lives[i] = lives
        game_over = terminations | truncations
        # Some games count lives down and up again within a game: only a new low is a loss.
        lost_life = ~game_over & (self._lives < self._fewest_lives)
        self._fewest_lives = np.where(game_over, self._lives, np.minimum(self._lives, self._fewest_lives))
        if self.done_on_life_loss:
            terminations |= lost_life
        obs = next_obs
        if first_frames:
            obs = next_obs.copy()
            for i, frame in first_frames.items():
                obs[i] = frame
        self._obs = obs
        info = {
            "final_obs": next_obs,
            "_final_obs": terminations | truncations,
            "game_over": game_over,
            "lives": self._lives.copy(),
        }
        return obs, rewards, terminations, truncations, info

    # --- checks -----------------------------------------------------------------------------------------------------

    def _check_ready(self) -> None:
        if self._obs is None:
            raise RuntimeError("reset() must be called first")
        self._worker.check_free()
