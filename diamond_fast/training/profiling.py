"""Where a run's time goes: each phase measured on its own, then recorded for a trace viewer."""

import gzip
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from diamond_fast.config import RunConfig
from diamond_fast.engine.graphs import WARM_UP_CALLS
from diamond_fast.engine.world import at_play
from diamond_fast.envs.acting import Player
from diamond_fast.timing import wait_for
from diamond_fast.training.trainer import Trainer
from diamond_fast.training.update import Update

STEPS_FIRST = 500  # of real experience, to train on
STEPS_PER_TURN = 50
MOST_TURNS = 20
ENOUGH_SECONDS = 5.0  # per phase: what a turn takes is known by then, and one that takes longer is not repeated
TRACED_TURNS = 2  # of turns that do not take long


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
    cut_short: bool = False
    """Whether ``unit`` is only the beginning of what an epoch has so often."""


def with_room(cfg: RunConfig) -> RunConfig:
    """The same settings with a replay buffer that takes all that is collected to measure, however short the run."""
    c = cfg.collection
    needed = STEPS_FIRST + (MOST_TURNS + 1) * STEPS_PER_TURN
    room = needed + (MOST_TURNS + 2) * c.num_envs  # each stretch is rounded up to whole vector steps
    return replace(cfg, collection=replace(c, num_steps_total=max(c.num_steps_total, room)))


def profile_run(trainer: Trainer, trace: Path, say: Callable[[str], None] = print) -> list[Phase]:
    """Measures every phase of a new run, then runs each again under the profiler, but for the test game.

    A game is as many calls of the policy as collecting, thousands of times, and would be most of the trace.

    Args:
        trainer: of a run that may be thrown away, its settings :func:`with_room`; nothing of it was run yet.
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
    turns["save"] = ("checkpoint", 1 / cfg.checkpoint_every, partial(_save, trainer))

    phases, traced = [], {}
    for name, (unit, per_epoch, turn) in turns.items():
        say(f"measuring {name}")
        watch = drawing.get(name)
        warm_up = 0 if watch is None else WARM_UP_CALLS + 2 if trainer.device.type == "cuda" else 1
        num_turns, total, prepared = _measure(turn, warm_up, trainer.device, watch)
        share = None if watch is None else prepared / total
        phases.append(Phase(name, unit, total / num_turns, share, per_epoch, _peak_bytes(trainer.device)))
        quick = watch is not None and total / num_turns * TRACED_TURNS < ENOUGH_SECONDS
        traced[name] = TRACED_TURNS if quick else 1
    if trainer.evaluator.plays:
        say("measuring evaluate")
        phases.insert(-1, _measure_game(trainer))

    say("recording the trace")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at the first start: the profiler's log is nobody's concern
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (trainer.device.type == "cuda")
    with profile(activities=activities) as recorded:
        for name, (*_, turn) in turns.items():
            for _ in range(traced[name]):
                with record_function(f"diamond: {name}"):
                    turn()
    _export(recorded, trace)
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
    lines += [
        f"{p.name.capitalize()} takes longer: a game was left after {p.unit}, before its end."
        for p in phases
        if p.cut_short
    ]
    return "\n".join(lines)


class _Stopwatch:
    """Adds up the seconds an update spends drawing batches."""

    def __init__(self, update: Update, device: torch.device):
        self.seconds = 0.0
        self._draw = update.objective.draw
        self._device = device
        update.objective.draw = self._timed_draw  # type: ignore[method-assign] # the update calls the watch instead

    def _timed_draw(self):
        wait_for(self._device)
        started = time.perf_counter()
        with record_function("diamond: prepare"):
            inputs = self._draw()
        wait_for(self._device)
        self.seconds += time.perf_counter() - started
        return inputs


def _measure(
    turn: Callable[[], object], warm_up: int, device: torch.device, watch: _Stopwatch | None
) -> tuple[int, float, float]:
    """(turns, seconds in all, seconds of them spent preparing).

    The turns that warm up do not count, unless a single one takes so long that its warming up is lost in it.
    """
    seconds: list[float] = []
    prepared: list[float] = []
    wait_for(device)
    while len(seconds) <= warm_up or (len(seconds) < warm_up + MOST_TURNS and sum(seconds[warm_up:]) < ENOUGH_SECONDS):
        started, before = time.perf_counter(), watch.seconds if watch else 0.0
        turn()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
        prepared.append((watch.seconds if watch else 0.0) - before)
        if seconds[-1] > ENOUGH_SECONDS and device.type != "cuda":  # there the first ones compile and capture
            return 1, seconds[-1], prepared[-1]
    return len(seconds) - warm_up, sum(seconds[warm_up:]), sum(prepared[warm_up:])


def _measure_game(trainer: Trainer) -> Phase:
    """A test game, left after a while: some take half an hour."""
    cfg = trainer.cfg.evaluation
    env = trainer.evaluator.make_test_env(num_envs=1)
    player = Player(1, trainer.cfg.seed, env.action)
    policy = at_play(trainer.agent.actor_critic, trainer.path)
    started = time.perf_counter()
    try:
        obs, _ = env.reset(seed=trainer.cfg.seed)
        over, num_steps = False, 0
        while not over and time.perf_counter() - started < ENOUGH_SECONDS:
            obs, _, end, trunc, _ = env.step(player.act(policy, obs))
            over, num_steps = bool(end[0] or trunc[0]), num_steps + 1
    finally:
        seconds = time.perf_counter() - started
        env.close()
    per_epoch = cfg.num_episodes / cfg.every
    unit = "game" if over else f"{num_steps} steps"
    return Phase("evaluate", unit, seconds, None, per_epoch, _peak_bytes(trainer.device), not over)


def _peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _collect(trainer: Trainer, num_steps: int) -> None:
    c = trainer.cfg.collection
    policy = at_play(trainer.agent.actor_critic, trainer.path)
    assert trainer.collector is not None
    trainer.collector.collect(policy, trainer.replay, num_steps, c.epsilon, c.policy_temperature)


def _save(trainer: Trainer) -> None:
    trainer._save()  # in a thread of its own, which is waited for here
    trainer._finish_saving()


def _export(recorded: profile, trace: Path) -> None:
    """Write a trace, compressed in blocks: the profiler would do it line by line, of which there are millions."""
    trace.parent.mkdir(parents=True, exist_ok=True)
    plain = trace.with_suffix("")
    try:
        recorded.export_chrome_trace(str(plain))
        with open(plain, "rb") as text, gzip.open(trace, "wb", compresslevel=5) as packed:
            shutil.copyfileobj(text, packed, 2**20)
    finally:
        plain.unlink(missing_ok=True)


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
