"""Where a run's time goes: each phase measured on its own, then recorded for a trace viewer."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from diamond_fast.training.capture import WARM_UP_CALLS
from diamond_fast.training.evaluate import evaluate
from diamond_fast.training.trainer import Trainer
from diamond_fast.training.update import Update

STEPS_FIRST = 500  # of real experience, to train on
STEPS_PER_TURN = 50
MOST_TURNS = 20
ENOUGH_SECONDS = 10.0  # per phase
TRACED_TURNS = 2


@dataclass(frozen=True)
class Phase:
    """What one phase costs."""

    name: str
    unit: str
    """What is done once in ``seconds``."""
    seconds: float
    preparing: float | None
    """Share of it spent before losses and gradients: drawing the batch, for the policy playing in imagination."""
    per_epoch: float
    """Units in an epoch after the first."""
    peak_bytes: int | None
    """Of GPU memory, all phases before included; None on a CPU."""


def profile_run(trainer: Trainer, trace: Path, say: Callable[[str], None] = print) -> list[Phase]:
    """Measures every phase of a new run, then runs each again under the profiler, but for the test game.

    A game is as many calls of the policy as collecting, thousands of times, and would be most of the trace.

    Args:
        trainer: of a run that may be thrown away; nothing of it was run yet.
        trace: file for the Chrome trace, ``.json.gz``.
        say: told what is being done.

    Times are of the wall, without the profiler, which slows things down.
    """
    cfg = trainer.cfg
    collects = cfg.static_dataset is None and not cfg.model_free
    turns: dict[str, tuple[str, float, Callable[[], object]]] = {}
    if collects:
        say(f"collecting {STEPS_FIRST} steps to train on")
        _collect(trainer, STEPS_FIRST)
        per_epoch = cfg.collection.steps_per_epoch / STEPS_PER_TURN
        turns["collect"] = (f"{STEPS_PER_TURN} steps", per_epoch, partial(_collect, trainer, STEPS_PER_TURN))
    drawing = {}
    for name, update in trainer.updates.items():
        with update.autocast():
            update.objective.begin_epoch()
        drawing[name] = _Stopwatch(update, trainer.device)
        turns[name] = ("update", update.cfg.steps_per_epoch, update.step)
    turns["evaluate"] = ("game", cfg.evaluation.num_episodes / cfg.evaluation.every, partial(_play, trainer))
    turns["save"] = ("checkpoint", 1 / cfg.checkpoint_every, partial(_save, trainer))

    phases = []
    for name, (unit, per_epoch, turn) in turns.items():
        say(f"measuring {name}")
        warm_up = WARM_UP_CALLS + 2 if trainer.device.type == "cuda" else 1
        for _ in range(warm_up if name in drawing else 0):
            turn()
        watch = drawing.get(name)
        if watch is not None:
            watch.seconds = 0.0
        num_turns, total = _measure(turn, trainer.device)
        share = None if watch is None else watch.seconds / total
        peak = torch.cuda.max_memory_allocated(trainer.device) if trainer.device.type == "cuda" else None
        phases.append(Phase(name, unit, total / num_turns, share, per_epoch, peak))

    say("recording the trace")
    with _profiler(trainer.device) as recorded:
        for name, (*_, turn) in turns.items():
            if name == "evaluate":
                continue
            for _ in range(TRACED_TURNS if name in drawing else 1):
                with record_function(f"diamond: {name}"):
                    turn()
    trace.parent.mkdir(parents=True, exist_ok=True)
    recorded.export_chrome_trace(str(trace))
    return phases


def as_table(phases: list[Phase]) -> str:
    """One line per phase, and what an epoch of them adds up to."""
    epoch = sum(p.seconds * p.per_epoch for p in phases)
    lines = [f"{'phase':<13}{'time':>11}  {'per':<11}{'preparing':>10}{'of an epoch':>13}{'GPU memory':>12}"]
    for p in phases:
        preparing = "" if p.preparing is None else f"{p.preparing:.0%}"
        memory = "" if p.peak_bytes is None else f"{p.peak_bytes / 2**30:.2f} GiB"
        share = f"{p.seconds * p.per_epoch / epoch:.1%}"
        lines.append(f"{p.name:<13}{_time(p.seconds):>11}  {p.unit:<11}{preparing:>10}{share:>13}{memory:>12}".rstrip())
    lines.append(
        f"An epoch after the first: {_time(epoch)}. "
        "Preparing: drawing the batch; for the policy, playing in imagination."
    )
    return "\n".join(lines)


class _Stopwatch:
    """Adds up the seconds an update spends drawing batches."""

    def __init__(self, update: Update, device: torch.device):
        self.seconds = 0.0
        self._draw = update.objective.draw
        self._device = device
        update.objective.draw = self._timed_draw

    def _timed_draw(self):
        _wait(self._device)
        started = time.perf_counter()
        with record_function("diamond: prepare"):
            inputs = self._draw()
        _wait(self._device)
        self.seconds += time.perf_counter() - started
        return inputs


def _measure(turn: Callable[[], object], device: torch.device) -> tuple[int, float]:
    """(turns, seconds in all)."""
    _wait(device)
    started, num_turns = time.perf_counter(), 0
    while num_turns < MOST_TURNS and (num_turns == 0 or time.perf_counter() - started < ENOUGH_SECONDS):
        turn()
        _wait(device)
        num_turns += 1
    return num_turns, time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _collect(trainer: Trainer, num_steps: int) -> None:
    c = trainer.cfg.collection
    policy = trainer.agent.actor_critic
    trainer.collector.collect(policy, trainer.replay, num_steps, c.epsilon, c.policy_temperature)


def _play(trainer: Trainer) -> None:
    env = trainer.make_test_env(num_envs=1)
    try:
        evaluate(trainer.agent.actor_critic, env, num_episodes=1, seed=trainer.cfg.seed)
    finally:
        env.close()


def _save(trainer: Trainer) -> None:
    trainer._save()  # in a thread of its own, which is waited for here
    trainer._finish_saving()


def _profiler(device: torch.device) -> AbstractContextManager[profile]:
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    return profile(activities=activities)


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
