"""Real environments of a world: its games behind one vectorised interface."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diamond_fast.config import Place, RunConfig
from diamond_fast.domains import domain_of
from diamond_fast.envs.real import RealEnv
from diamond_fast.envs.slot import Slot
from diamond_fast.spec import Frame


def make_env(cfg: RunConfig, num_envs: int, done_on_life_loss: bool) -> RealEnv:
    """The game of a run, as its settings say. Without ``done_on_life_loss``, games have the length of test games.

    Raises:
        ValueError, EnvironmentFailedError: as :func:`make_real_env`, or the run has a recording and no game.
    """
    make_slot = domain_of(cfg).make_slot
    if make_slot is None:
        raise ValueError(f"{cfg.name}: the run has a recording and no game to play")
    return RealEnv(
        partial(make_slot, cfg),
        num_envs,
        done_on_life_loss,
        cfg.env_timeout,
        cfg.env_start_timeout,
        cfg.name,
        cfg.env_runs_in,
        max_steps=None if done_on_life_loss else cfg.evaluation.max_steps,
    )


def make_real_env(
    game: str | None,
    env_id: str | None,
    num_envs: int,
    frame_size: int | tuple[int, int],
    done_on_life_loss: bool,
    timeout: float = 60.0,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    start_timeout: float | None = None,
    runs_in: Place = "thread",
    max_steps: int | None = None,
) -> RealEnv:
    """Make an Atari game or a Gymnasium environment; exactly one of ``game`` and ``env_id`` is given.

    Args:
        game: Atari game by its usual name, e.g. Boxing.
        env_id: Gymnasium id of an environment with image observations.
        num_envs: games played together.
        frame_size: of the frames in pixels: height and width, or one number for both.
        done_on_life_loss: a lost life ends the episode, and the same game goes on in the next one.
        timeout: seconds to wait for a step before giving up.
        env_kwargs: arguments of the Gymnasium environment.
        start_timeout: seconds to wait for an environment to be made, and to begin; as ``timeout`` if None.
        runs_in: where games run: in a thread for all of them, in a process for each, or in the main thread, without
            time limits. Made in another thread, ``main`` becomes ``process``.
        max_steps: a game is cut short after so many steps; never if None.

    Raises:
        ValueError: an argument is out of range, or there is no such environment, or it is not of this kind.
        EnvironmentFailedError: the environment raised something, or took too long.
    """
    if (game is None) == (env_id is None):
        raise ValueError(f"game, env_id: expected exactly one of the two, got {game!r} and {env_id!r}")
    if min(Frame.of_size(frame_size).shape) < 1:
        raise ValueError(f"frame_size: expected at least 1, got {frame_size}")
    make_slot: Callable[[], Slot]
    if game is not None:
        from diamond_fast.domains.atari.env import AtariSlot  # the emulator is loaded only where it is played

        make_slot = partial(AtariSlot, game, frame_size)
    else:
        assert env_id is not None
        from diamond_fast.domains.gym.adapter import GymSlot

        make_slot = partial(GymSlot, env_id, frame_size, env_kwargs)
    name = game or env_id or ""
    return RealEnv(make_slot, num_envs, done_on_life_loss, timeout, start_timeout, name, runs_in, max_steps=max_steps)
