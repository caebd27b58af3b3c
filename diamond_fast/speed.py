"""How fast this machine computes in these networks on the path of a run, now and with nothing else to do."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from diamond_fast.config import RunConfig
from diamond_fast.engine.choose import choose_path, set_matmul_precision
from diamond_fast.engine.contest import Work, told_nothing
from diamond_fast.engine.graphs import WARM_UP_CALLS, Captured
from diamond_fast.engine.path import Path
from diamond_fast.engine.world import next_frame_sampler, trained
from diamond_fast.one_line import one_line
from diamond_fast.spec import Action, Spec
from diamond_fast.timing import Timing, timed, wait_for
from diamond_fast.training.objectives import DenoiserObjective
from diamond_fast.training.trial import path_that_works, random_replay
from diamond_fast.training.update import Update
from diamond_fast.world_model import Agent, Denoiser

MEASURE_FOR = 1.0  # seconds, and two calls at least
BUSY = 0.5  # processes that want to run, for each core of this machine


@dataclass(frozen=True)
class Speed:
    """FLOP/s in these networks."""

    forward: float
    training: float


@dataclass(frozen=True)
class MeasuredSpeed:
    """What this machine does."""

    now: Speed
    """On average while it was measured, with the threads that a run uses; on busy processors at most."""
    best: Speed
    """Speed of the fastest calls. On busy processors: what one thread does while it has one, times the threads."""
    load: str = ""
    """How busy the processors are with other work, in a few words; empty if they are not."""
    threads: int = 0
    """Number of torch's threads on a CPU; 0 on a GPU."""
    engine: str = ""
    """What it was measured with, in a few words."""


def measure_speed(
    config: RunConfig, num_actions: Action | int, device: torch.device, cuda_graphs: bool = True
) -> MeasuredSpeed:
    """Time the denoiser, the largest network, drawing frames and in updates as a run does them: a few seconds.

    The path is the one that a run takes, chosen and tried in the same way; on a GPU the update is captured as there.

    On busy processors threads wait for each other, and how much they do together in a second says little about the
    machine: a call that took 0.2 s of one processor's time took 1 to 9 s with two threads next to five other processes.
    So one thread is timed there, by the time it had a processor for itself. The share of the time in which it had one
    is the most that several threads can get.

    Raises:
        Exception: of any kind, if not even the readable networks work.
    """
    on_gpu = device.type == "cuda"
    config = replace(config, memory="none")  # the same convolutions
    load = "" if on_gpu else _load()
    batch_size = config.denoiser_update.batch_size if on_gpu else 1 if load else 2
    threads = torch.get_num_threads()
    set_matmul_precision(config.precision)
    model = Agent(config, num_actions).denoiser
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
    work = Work.of(model, config.world_model.sampler, config.actor_critic_update.batch_size)
    path = choose_path(device, config.precision, config.engine, cuda_graphs, work)
    path = path_that_works(config, model.spec.action, path)
    with _num_threads(1 if load else threads):
        while True:
            try:
                calls = _forward_and_training(config, model, path, batch_size)
                times = [timed(call, MEASURE_FOR, at_least=1 if load else 2) for call, _ in calls]
                break
            except Exception as error:  # a compiler, a driver or a kernel can fail in any way
                if (slower := path.slower()) is None:
                    raise
                print(f"Left out: {path.what} ({one_line(error)}). {slower.loses}", file=sys.stderr, flush=True)
                path = slower
    measured = _speed(times, [flops for _, flops in calls], load, 0 if on_gpu else threads)
    return replace(measured, engine=path.what)


def _forward_and_training(
    config: RunConfig, model: Denoiser, path: Path, batch_size: int
) -> list[tuple[Callable[[], None], int]]:
    """Two calls, and the FLOPs of each."""
    device = path.device
    obs, act, _ = batch_of_zeros(model.spec, batch_size, model.spec.context, device)
    one_step = config.world_model.with_denoising_steps(1).sampler
    fast, update = next_frame_sampler(model, one_step, path), _update(config, model, path, batch_size)

    def forward() -> None:
        fast.sample(obs, act)
        wait_for(device)

    def train() -> None:
        update.step()
        wait_for(device)

    for _ in range(WARM_UP_CALLS if path.graphs else 0):  # until the update is captured
        train()
    with torch.device("meta"):  # counting needs shapes only
        counted = Denoiser(config.denoiser, model.spec)
    with torch.no_grad():
        forward_flops = count_flops(lambda: denoiser_forward(counted, batch_size))
    of_one_step = count_flops(lambda: denoiser_loss(config, counted, batch_size).backward())
    return [(forward, forward_flops), (train, (1 + config.num_autoregressive_steps) * of_one_step)]


def _update(config: RunConfig, model: Denoiser, path: Path, batch_size: int) -> Update:
    """A run's update of the denoiser, of one batch of so many sequences."""
    replay = random_replay(config, model.spec.action)
    segments = replay.segments(batch_size, config.denoiser_seq_length)
    objective = DenoiserObjective(trained(model, path), segments, config.sigma_distribution)
    cfg = replace(config.denoiser_update, batch_size=batch_size, grad_acc_steps=1)
    captured = partial(Captured, changes_state=True, must=True) if path.graphs else None
    return Update("denoiser", model, objective, cfg, path.autocast, config.on_nonfinite, captured)


def _speed(times: list[list[Timing]], flops: list[int], load: str, threads: int) -> MeasuredSpeed:
    """From timings of forward and training calls: of all threads, or of one if there is other load."""
    if not load:
        now, best = (
            Speed(*(n / of([t.wall for t in timings]) for timings, n in zip(times, flops, strict=True)))
            for of in (fmean, min)
        )
        return MeasuredSpeed(now, best, threads=threads)
    least = [min(timings, key=lambda t: t.cpu) for timings in times]
    best = Speed(*(threads * n / t.cpu for t, n in zip(least, flops, strict=True)))
    share = min(1.0, sum(t.cpu for t in least) / sum(t.wall for t in least))
    return MeasuredSpeed(Speed(share * best.forward, share * best.training), best, load, threads)


def _load() -> str:
    """What else the processors have to do, as the system counts it over the last minute."""
    try:
        load = os.getloadavg()[0]
    except OSError:
        return ""
    cores = os.cpu_count() or 1
    return f"load {load:.1f} on {cores} cores" if load > BUSY * cores else ""


@contextmanager
def _num_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- the denoiser at work, with nothing in its frames ---------------------------------------------------------------


def denoiser_forward(denoiser: Denoiser, n: int) -> Tensor:
    """One evaluation of the denoiser's network for n frames."""
    obs, _, _ = batch_of_zeros(denoiser.spec, n, denoiser.spec.context, denoiser.device)
    told = told_nothing(denoiser.spec, n).to(obs.device)
    return denoiser.inner_model(obs[:, 0], torch.zeros(n, device=obs.device), obs.flatten(1, 2), told)


def denoiser_loss(config: RunConfig, denoiser: Denoiser, n: int) -> Tensor:
    """Its loss on n sequences, of the first frame predicted: each that training predicts costs as much."""
    obs, act, mask = batch_of_zeros(denoiser.spec, n, denoiser.spec.context + 1, denoiser.device)
    return denoiser.loss(obs, act, mask, config.sigma_distribution)


def batch_of_zeros(spec: Spec, n: int, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Frames float32 [N,L,C,H,W], actions [N,L,...] and an all-true mask [N,L]."""
    frame, action = spec.frame, spec.action
    obs = torch.zeros(n, length, frame.channels, frame.height, frame.width, device=device)
    act = torch.from_numpy(np.zeros((n, length, *action.shape), action.dtype)).to(device)
    return obs, act, torch.ones(n, length, dtype=torch.bool, device=device)


class _FlopCount(TorchDispatchMode):
    """Adds up what torch's formulas say of each operation, as ``FlopCounterMode`` does in half as long again, since it
    looks up the module of each."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def count_flops(call: Callable[[], object]) -> int:
    """Counted on readable networks: the counter does not see into compiled programs."""
    with _FlopCount() as count:
        call()
    return count.total
