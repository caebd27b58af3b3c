"""``python -m diamond_fast.sweep``: games, seeds and grids of settings as runs on one machine, Slurm or Ray."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from shutil import which
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from diamond_fast import report, train
from diamond_fast.cli import fail, parse, parse_known, user_errors
from diamond_fast.domains.atari.games import ATARI_100K
from diamond_fast.one_line import counted
from diamond_fast.runs.output import lasting_output
from diamond_fast.runs.progress import duration
from diamond_fast.runs.signals import stop_signals
from diamond_fast.settings import NonNegativeFloat, PositiveInt, check_limits
from diamond_fast.sweeps.attempts import OVER, note, standings
from diamond_fast.sweeps.folder import Planned, SweepFolder
from diamond_fast.sweeps.plan import Share, plan
from diamond_fast.sweeps.show import LOOK_EVERY, Display, as_table, summary, write_page
from diamond_fast.sweeps.worker import PATIENCE

PROGRAM = "python -m diamond_fast.sweep"
OWN = ("--game", "--seed", "--out", "--resume", "--dry-run", "--profile")
"""Flags of a run that a sweep sets itself."""
CLUSTER_CORES = 4
EXIT_FAILED = 1


@dataclass(frozen=True)
class SweepArgs:
    """Train many agents: every game, with every seed and every combination of a grid. Further flags go to each run.

    The paper's runs, on the GPUs of this machine:
        python -m diamond_fast.sweep --out sweeps/paper --games all --seeds 5 --preset atari100k --then report

    Two settings against each other, as jobs of Slurm:
        python -m diamond_fast.sweep --out sweeps/steps --games Boxing Pong --seeds 3 --engine slurm \\
            --preset atari100k --grid world-model.sampler.num-steps 1 3

    What it would take, without starting it:
        python -m diamond_fast.sweep --out sweeps/paper --games all --seeds 5 --preset atari100k --dry-run

    The same command again goes on with what is unfinished. Looking on, from anywhere that sees the folder:
        python -m diamond_fast.sweep status sweeps/paper

    Stop it; begin failed runs anew:
        python -m diamond_fast.sweep cancel sweeps/paper
        python -m diamond_fast.sweep retry --failed sweeps/paper
    """

    out: Annotated[Path, arg(metavar="DIR")]
    """The sweep is written to this folder; one that is there already is gone on with."""
    games: tuple[str, ...] = ()
    """These games, or: all, for the 26 of Atari 100k. Leave it out for another world, such as --preset catch."""
    seeds: PositiveInt = 1
    """Runs of each: with seeds 0, 1, 2 and so on."""
    grid: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="SETTING VALUE VALUE ...")] = ()
    """A setting's dotted name and its values: one run with each. Several grids: every combination."""
    engine: Literal["local", "slurm", "ray"] = "local"
    """local: processes on this machine. slurm: jobs, through submitit. ray: tasks of a Ray cluster. What computes the
    networks is a setting of the runs: --grid engine readable."""
    concurrent: Annotated[PositiveInt | None, arg(metavar="N", help_behavior_hint="(default: as many as fit)")] = None
    """At most so many runs at a time."""
    gpus_per_run: Annotated[
        NonNegativeFloat | None, arg(metavar="X", help_behavior_hint="(default: 1; 0 on a machine without)")
    ] = None
    """GPUs of a run. 0.25: four runs share one; with Slurm they are one job."""
    cores_per_run: Annotated[
        PositiveInt | None, arg(metavar="N", help_behavior_hint="(default: this machine's, shared out; of a cluster 4)")
    ] = None
    """Cores of a run."""
    minutes_per_job: PositiveInt = 24 * 60
    """Slurm: a job's time. A run that needs more saves, leaves, and is queued up again."""
    partition: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the cluster's own)")] = None
    """Slurm: the partition."""
    slurm: tuple[str, ...] = ()
    """Slurm: more of sbatch's options, such as account=me qos=low."""
    address: Annotated[
        str | None, arg(metavar="auto|HOST:PORT", help_behavior_hint="(default: one is started here)")
    ] = None
    """Ray: the cluster's address; auto for the one this node belongs to."""
    then: Literal["nothing", "report"] = "nothing"
    """report: in the end, set the runs beside the published agents."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the runs and what they would cost, then stop."""


@dataclass(frozen=True)
class SweepName:
    """Which sweep."""

    folder: Positional[Path]
    """Its folder."""


@dataclass(frozen=True)
class ToRetry(SweepName):
    """Which runs may be gone on with."""

    failed: FlagCreatePairsOff[bool] = False
    """Those that failed. It may be left out: no others ever need it."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        with user_errors():
            what = ToRetry if argv[0] == "retry" else SweepName
            return COMMANDS[argv[0]](SweepFolder.open(parse(what, argv[1:], prog=f"{PROGRAM} {argv[0]}").folder))
    with user_errors():
        args, settings = parse_known(SweepArgs, argv, prog=PROGRAM)
        check_limits(args)
        runs = planned(args, settings)
        if args.dry_run:
            return dry_run(args, runs)
        drive = engine(args)
        sweep = SweepFolder.create(args.out, shlex.join([*PROGRAM.split(), *argv]), runs)
    with ExitStack() as held:
        with user_errors():
            held.enter_context(sweep.only_driver())
        sweep.cancelled_file.unlink(missing_ok=True)
        stop = held.enter_context(stop_signals(3 * PATIENCE))  # the runs save first
        stop.how_to_go_on = sweep.command
        display = held.enter_context(Display(sweep))
        print(f"{counted(len(runs), 'run')}: {args.out}\nPage: {args.out / 'index.html'}", flush=True)
        drive(sweep, display.tick)
    found = standings(sweep)
    print(f"{args.out}: {summary(found)}")
    for s in found:
        if s.state == "failed":
            print(f"{s.name}: {s.line}", file=sys.stderr)
    if args.then == "report" and any(s.epochs for s in found):
        report.main([str(args.out), "--out", str(args.out / "report")])
    if any(s.state != "finished" for s in found):
        print(f"Go on: {sweep.command}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED)


def planned(args: SweepArgs, settings: Sequence[str]) -> list[Planned]:
    """The runs, each held against what a run takes.

    Raises:
        ValueError: as the trainer's command line, or a flag that the sweep sets itself.
        SystemExit: as the trainer's command line.
    """
    for word in settings:
        if (name := word.partition("=")[0].replace("_", "-")) in OWN:
            instead = {"--game": "; take --games", "--seed": "; take --seeds, the number of them"}.get(name, "")
            raise ValueError(f"{name}: a sweep sets it for each run{instead}")
    for name, *_ in args.grid:
        if f"--{name.lstrip('-')}" in OWN:
            raise ValueError(f"--grid {name}: a sweep sets it for each run")
    games = ATARI_100K if args.games == ("all",) else args.games
    worlds: list[tuple[str, tuple[str, ...]]] = [(game, ("--game", game)) for game in games]
    if not worlds:
        first = train.read_command_line([*settings, *_first_of(args.grid)])
        worlds = [(first.config.title, ())]
    settings = [*settings, *_preset(args, settings, worlds[0][1])]
    runs = plan(worlds, args.grid, range(args.seeds), settings)
    of_first = [run for run in runs if run.argv[:2] == runs[0].argv[:2]]
    others = [run for run in runs if run.argv[1] not in ATARI_100K]
    for run in {(run.variant, run.argv[:2]): run for run in [*of_first, *others]}.values():  # not every seed
        train.read_command_line(run.argv)
    return runs


def _first_of(grid: Sequence[Sequence[str]]) -> list[str]:
    return [word for name, *values in grid for word in (f"--{name.lstrip('-')}", *values[:1])]


def _preset(args: SweepArgs, settings: Sequence[str], world: Sequence[str]) -> list[str]:
    """What ``--preset auto`` would be, written out: all runs should have the same, wherever they run."""
    if train.read_command_line([*world, *settings, *_first_of(args.grid)]).preset != "auto":
        return []
    if args.engine != "local":
        raise ValueError(
            f"--preset: name one with --engine {args.engine}, since its nodes may differ from this machine"
        )
    import torch

    return ["--preset", "atari100k" if torch.cuda.is_available() else "quick"]


Drive = Callable[[SweepFolder, Callable[[], None]], None]


def engine(args: SweepArgs) -> Drive:
    """Works on a sweep, with what it is given here.

    Raises:
        ValueError: it is not installed, or cannot give what is asked for.
    """
    if args.engine == "local":
        from diamond_fast.sweeps import local

        share, gpus, cores = _local_share(args)
        places = local.slots(share, gpus, cores)
        return lambda sweep, tick: local.drive(sweep, places, tick)
    package = {"slurm": "submitit", "ray": "ray"}[args.engine]
    if find_spec(package) is None:
        raise ValueError(
            f"--engine {args.engine}: {package} is not installed; pip install 'diamond_fast[{args.engine}]'"
        )
    if args.engine == "ray":
        from diamond_fast.sweeps import on_ray

        share = _cluster_share(args) if args.address else _local_share(args)[0]
        on_ray.connect(share, args.address)
        return lambda sweep, tick: on_ray.drive(sweep, share, tick)
    from diamond_fast.sweeps import slurm

    share = _cluster_share(args)
    if which("sbatch") is None:
        raise ValueError("--engine slurm: there is no sbatch here; call this from a node that can submit jobs")
    queue = slurm.Queue(args.minutes_per_job, args.partition, args.slurm)

    def drive(sweep: SweepFolder, tick: Callable[[], None]) -> None:
        try:
            slurm.drive(sweep, share, queue, tick)
        except slurm.Refused as error:
            fail(str(error))

    return drive


def _cluster_share(args: SweepArgs) -> Share:
    gpus = 1.0 if args.gpus_per_run is None else args.gpus_per_run
    if gpus > 1 and gpus % 1:
        raise ValueError(f"--gpus-per-run: expected a whole number or a fraction of 1, got {gpus:g}")
    return Share(args.concurrent, gpus, args.cores_per_run or CLUSTER_CORES)


def _local_share(args: SweepArgs) -> tuple[Share, list[str], list[int]]:
    """What a run gets here, this machine's GPUs, and the cores that this process may use."""
    import torch

    from diamond_fast.threads import allowed_cores

    cores, number = allowed_cores(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if len(visible) == number and all(visible) else [str(i) for i in range(number)]
    gpus_per_run = float(bool(gpus)) if args.gpus_per_run is None else args.gpus_per_run
    at_a_time = args.concurrent or (int(len(gpus) / gpus_per_run) if gpus and gpus_per_run else 1)
    return Share(args.concurrent, gpus_per_run, args.cores_per_run or max(1, len(cores) // at_a_time)), gpus, cores


def dry_run(args: SweepArgs, runs: Sequence[Planned]) -> None:
    """The runs, and the hours they would take by this machine's speed."""
    from diamond_fast.devices import resolve_device
    from diamond_fast.estimate import estimate, measure_speed

    seconds, device = 0.0, resolve_device("auto")
    for variant, group in groupby(sorted(runs, key=lambda run: run.variant), key=lambda run: run.variant):
        alike = list(group)
        config = train.read_command_line(alike[0].argv).config
        action = train.action_of(config)
        one = estimate(config, action).seconds(measure_speed(config, action, device).now)
        seconds += len(alike) * one
        print(f"{variant or 'all'}: {counted(len(alike), 'run')} of {duration(one)} each, such as {alike[0].name}")
    what = "GPU" if device.type == "cuda" else "machine"
    print(
        f"{counted(len(runs), 'run')}, {seconds / 3600:,.1f} {what}-hours one after the other on one {what} like this "
        f"({device}), without playing games"
    )
    if (at_a_time := min(args.concurrent or 1, len(runs))) > 1:
        print(f"{seconds / 3600 / at_a_time:,.1f} hours with {at_a_time} at a time, each on a {what} of its own")


def status(sweep: SweepFolder) -> None:
    """The table; on a terminal it refreshes until the sweep is over, or Ctrl-C."""
    found = standings(sweep)
    if Console().is_terminal and any(s.state not in OVER for s in found):
        with suppress(KeyboardInterrupt), Display(sweep) as display:
            while any(s.state not in OVER for s in standings(sweep)):
                display.tick()
                time.sleep(LOOK_EVERY)
    else:
        write_page(sweep, found)
        Console().print(as_table(found))
    print(f"Page: {sweep.path / 'index.html'}")


def cancel(sweep: SweepFolder) -> None:
    sweep.cancelled_file.touch()
    print(f"Told every run to save and leave. Go on: {sweep.command}")


def retry(sweep: SweepFolder) -> None:
    failed = [s.name for s in standings(sweep) if s.state == "failed"]
    for name in failed:
        note(sweep, name, "retry")
    if failed:
        print(f"{counted(len(failed), 'failed run')} may be gone on with: {', '.join(failed)}. Do so: {sweep.command}")
    else:
        print("No run has failed.")


COMMANDS: dict[str, Callable[[SweepFolder], None]] = {"status": status, "cancel": cancel, "retry": retry}


if __name__ == "__main__":
    main()
