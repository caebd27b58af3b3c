"""Before a run: whether its path works here, tried in a process of its own, which may die of it.

The kernels, the networks, every update and the rollout are run on made-up experience, and captured if there are to be
CUDA graphs: a capture that fails leaves a process that is good for nothing more.
"""

import sys
from collections.abc import Callable
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from diamond_fast.config import RunConfig
from diamond_fast.engine.child import ChildFailedError, answer, ask
from diamond_fast.engine.choose import set_matmul_precision
from diamond_fast.engine.graphs import WARM_UP_CALLS
from diamond_fast.engine.path import Path
from diamond_fast.one_line import one_line
from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.buffer import Episode
from diamond_fast.replay.recording import write_recording
from diamond_fast.spec import Action
from diamond_fast.training.gradients_agree import MOST, gradient_error, without_zeros
from diamond_fast.training.make_updates import make_updates
from diamond_fast.world_model import Agent

TRIED = ("cuda",)
"""Kinds of devices of which one process can lose the use."""
PATIENCE = 600.0  # seconds, in which kernels are compiled


def path_that_works(cfg: RunConfig, action: Action, path: Path) -> Path:
    """The path, or the fastest behind it that works. Says what is left out, why, and what that costs.

    Args:
        cfg, action: of the run.
    """
    while path.device.type in TRIED and not cfg.model_free and (slower := path.slower()) is not None:
        print(f"Trying {path.what} in a process of its own", file=sys.stderr, flush=True)
        part, reason = why_not(cfg, action, path)
        if reason is None:
            return path
        if part in ("start", "device") or ("out of memory" in reason and not path.graphs):
            # not the path's fault; slower ones need more memory, and only graphs can do with less by going
            print(f"Not tried, and taken all the same: {path.what} ({part}: {reason})", file=sys.stderr, flush=True)
            return path
        reason = f"{part}: {reason}"
        print(f"Left out: {path.what} ({reason}). {slower.loses}", file=sys.stderr, flush=True)
        path = slower
    return path


def why_not(cfg: RunConfig, action: Action, path: Path) -> tuple[str, str | None]:
    """Tries a path in a child. The part that was last begun, and how it failed; None if it did not."""
    part = "start"
    try:
        for begun in ask(__name__, (cfg, action, path), PATIENCE):
            part = begun
    except ChildFailedError as failed:
        return part, str(failed)
    return part, None


def main() -> None:
    """The child: says which part begins, and ends with an error if it fails."""
    answer(_rehearse)


def _rehearse(request: Any, say: Callable[[object], None]) -> None:
    cfg, action, path = request
    try:
        rehearse(cfg, action, path, say)
    except Exception as error:
        raise SystemExit(f"{type(error).__name__}: {one_line(error)}") from error


def rehearse(cfg: RunConfig, action: Action, path: Path, begins) -> None:
    """Does the first updates of a run on random frames, as many as it takes to replay each graph twice, and holds the
    gradient behind them against the readable networks'."""
    if path.device.index is not None:
        torch.cuda.set_device(path.device)
    set_matmul_precision(cfg.precision)
    agent = Agent(cfg, action)
    without_zeros(agent)
    begins("device")
    agent.to(path.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
    begins("networks")
    with TemporaryDirectory() as folder:
        updates = make_updates(cfg, agent, _replay_of(cfg, action, FilePath(folder)), path, segments_seed=0)
        for name, update in updates.items():
            begins(name)
            update.train(WARM_UP_CALLS + 2, lambda: None)
            error = gradient_error(update, agent)
            if error is not None and not error <= MOST[path.dtype]:
                raise ArithmeticError(f"its gradient differs from the readable networks' by {error:.1e}")


def _replay_of(cfg: RunConfig, action: Action, folder: FilePath) -> Replay:
    """Frames of two sizes are kept in the folder."""
    if cfg.upsampling > 1:
        return _in_two_sizes(cfg, action, folder, max(_episode_length(cfg), 2 * cfg.upsampler_seq_length))
    return random_replay(cfg, action)


def _episode_length(cfg: RunConfig) -> int:
    return 2 * max(cfg.denoiser_seq_length, cfg.reward_end_seq_length)


def random_replay(cfg: RunConfig, action: Action) -> Replay:
    """Two episodes, each longer than any sequence that is trained on, of frames of one size."""
    rng, length = np.random.default_rng(0), _episode_length(cfg)
    replay = Replay(cfg.frame_shape, 1, 2 * length, action)
    for step in range(2 * length):
        frame, last = rng.integers(256, size=(2, 1, *cfg.frame_shape), dtype=np.uint8)
        end = np.array([step % length == length - 1])
        act = np.zeros((1, *action.shape), action.dtype)
        replay.append(frame, act, rng.integers(-1, 2, size=1).astype(np.float32), end, np.zeros(1, bool), last)
    replay.commit()
    return replay


def _in_two_sizes(cfg: RunConfig, action: Action, folder: FilePath, length: int) -> Replay:
    rng = np.random.default_rng(0)
    small, full = (
        rng.integers(256, size=(length, *shape), dtype=np.uint8) for shape in (cfg.frame_shape, cfg.full_frame_shape)
    )
    act, rew, never = (
        np.zeros((length, *action.shape), action.dtype),
        np.zeros(length, np.float32),
        np.zeros(length, bool),
    )
    episode = Episode(small, act, rew, never, never, None, full)
    write_recording(folder / "recording", [episode] * 2, action, full_size=True)
    return load_recording(folder / "recording")
