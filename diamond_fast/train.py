"""``python -m diamond_fast.train``: reads what to train, says what it will do, and does it."""

import io
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

from tyro.conf import FlagCreatePairsOff, arg

from diamond_fast.agent_flags import DEMO
from diamond_fast.cli import expected_failure, is_ordinary, parse, user_errors
from diamond_fast.config import MACHINE_FLAGS, RunConfig, of_kind
from diamond_fast.config_checks import checked
from diamond_fast.domains import DOMAINS, domain_of, has_env
from diamond_fast.one_line import one_line
from diamond_fast.presets import PRESETS, known_presets
from diamond_fast.registry import FORMULATIONS
from diamond_fast.runs.output import lasting_output
from diamond_fast.runs.signals import StopSignals, stop_signals
from diamond_fast.settings import differences, flag, leaves

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    import torch

    from diamond_fast.engine.path import Path as EnginePath
    from diamond_fast.spec import Action
    from diamond_fast.training.process_group import ProcessGroup
    from diamond_fast.training.trainer import Trainer
    from diamond_fast.world_model import Agent

PROGRAM = "python -m diamond_fast.train"
EXIT_FAILED = 1  # numbers that are not finite, a full disk, too little memory


@dataclass(frozen=True)
class TrainArgs:
    """Train DIAMOND: a policy that learns inside a diffusion model of its world.

    The paper's run on a GPU; on a CPU a small one that shows every part at work:
        python -m diamond_fast.train --game Boxing

    The paper's settings in any case, faster arithmetic, another seed:
        python -m diamond_fast.train --game Pong --preset atari100k --precision bf16 --seed 1

    What a run would cost on this machine, without starting it:
        python -m diamond_fast.train --game Freeway --policy-temperature 0.5 --dry-run

    Any Gymnasium environment with images, whatever its actions are, with its arguments:
        python -m diamond_fast.train --env-id CarRacing-v3 --env-kwargs '{"continuous": false}'

    A recording, without any game:
        python -m diamond_fast.train --static-dataset boxing.npz

    The world model alone, judged on another recording:
        python -m diamond_fast.train --world-model-only --static-dataset boxing.npz --held-out more.npz

    Go on where a run stopped:
        python -m diamond_fast.train --resume runs/Boxing-20260101-120000-seed0
    """

    config: Annotated[RunConfig, arg(name="")] = field(default_factory=RunConfig)
    preset: Annotated[
        str,
        arg(
            constructor_factory=lambda: Literal[("auto", *known_presets())],
            help_behavior_hint=lambda default: default.replace("['", "(default: ").replace("']", ")"),
        ),
    ] = "auto"
    """Defaults of all settings below. atari100k: the paper's. quick: small networks, a few minutes on a CPU. catch: a
    small game that is learned on a CPU. auto: the --domain's own, else the paper's with CUDA and quick without."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/<Game>-<time>-seed<seed>)")] = (
        None
    )
    """The run is written to this new folder."""
    resume: Annotated[Path | None, arg(metavar="DIR")] = None
    """Continue the run in this folder, with the settings it has. An --env-id with a module is given again, too."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda|cuda:N")] = "auto"
    """The networks run on this device."""
    init_from: Annotated[str | None, arg(metavar="PATH|GAME")] = None
    """Start from the networks of another run (its folder, or one of its checkpoints/epoch_*.json); from a published
    agent (a .pt file, or a game's name to fetch its agent from the Hub); or from demo, the world model that comes with
    the package, with the settings of --preset demo. From a world model alone a policy can be trained, too: with
    --no-world-model-only."""
    logger: Literal["none", "tensorboard", "wandb"] = "none"
    """The scalars are sent to this dashboard, in addition to metrics.jsonl."""
    cuda_graphs: bool = True
    """On a GPU, launch each update as one CUDA graph. Tried before the run begins, and left out if that fails."""
    open: FlagCreatePairsOff[bool] = False
    """Open the run's page in a browser: imagined frames, curves and phases, which follow the run."""
    profile: FlagCreatePairsOff[bool] = False
    """Measure each phase of such a run on a few updates, print a table, write it with a trace to profiles/ or to the
    folder that --out names, and stop."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the settings and what the run would cost, then stop."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if int(os.environ.get("RANK", 0)) > 0:
        return follow(argv)
    with stop_signals() as stop, ExitStack() as held:
        with user_errors():
            args = read_command_line(argv)
            if args.dry_run:
                return dry_run(args)
            if args.profile:
                return profile(args, held, stop)
            trainer = set_up(args, held, stop)
            if args.open:
                show(trainer.folder.page)
        go_on = train(trainer, stop)
    if go_on is not None:
        restart([*shlex.split(go_on), "--device", args.device, "--logger", args.logger])


def follow(argv: Sequence[str]) -> None:
    """One of torchrun's further processes: says nothing but what ends itself alone, and leaves signals to the first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said), user_errors():
            args = read_command_line(argv)
            if args.dry_run:
                return
            group = _join_process_group(args)
            device = _device(args)
    except SystemExit as stop:
        if stop.code:
            _let_the_first_speak()
            print(said.getvalue(), end="", file=sys.stderr)
        raise

    from diamond_fast.training.finite import NonFiniteError
    from diamond_fast.training.follower import follow as follow_leader
    from diamond_fast.training.process_group import ProcessLostError, leave_process_group

    try:
        follow_leader(group, args.config, device)
        leave_process_group()
    except (ProcessLostError, NonFiniteError):
        _let_the_first_speak()
        os._exit(EXIT_FAILED)
    except Exception as error:
        print(f"process {group.rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_FAILED)


def _let_the_first_speak() -> None:
    """What ends this process ends the first one too, which says so; then torchrun ends this one.

    Were this one the first to leave, torchrun would end the other before it has said anything.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(60)


def read_command_line(argv: Sequence[str]) -> TrainArgs:
    """The arguments with every setting resolved and checked.

    Raises:
        SystemExit: the command line is malformed, or asked for help.
        ValueError: it asks for something that cannot be.
    """
    resume, domain = _last_value(argv, "--resume"), _last_value(argv, "--domain")
    if resume is not None:
        return _read_resumed(argv, Path(resume))
    preset = next(iter(DOMAINS[domain].presets), "auto") if domain in DOMAINS else "auto"
    if _last_value(argv, "--init-from") == DEMO:
        preset = DEMO
    defaults = known_presets().get(_last_value(argv, "--preset") or preset, PRESETS["atari100k"])
    recorded = _recorded_frame_size(argv)
    args = _parse(argv, _of_kind(argv, defaults, recorded), preset)
    if args.preset == "auto" and _device(args).type == "cpu":
        return _parse(argv, _of_kind(argv, PRESETS["quick"], recorded))
    return args


def _recorded_frame_size(argv: Sequence[str]) -> int | tuple[int, int] | None:
    recording = _last_value(argv, "--static-dataset")
    if recording is None or _last_value(argv, "--frame-size") is not None:  # reading one takes a while
        return None
    from diamond_fast.replay.fitting import frame_size_of

    return frame_size_of(Path(recording))


def _of_kind(argv: Sequence[str], defaults: RunConfig, recorded: int | tuple[int, int] | None) -> RunConfig:
    """The defaults with the formulation and the network that are asked for, which decide what flags there are, and with
    frames as they were recorded."""
    formulation, network = _last_value(argv, "--formulation"), _last_value(argv, "--network")
    config = of_kind(defaults, formulation or defaults.formulation, network or defaults.network)
    if recorded is not None and config.upsampling == 1:
        config = replace(config, frame_size=recorded)
    _refuse_settings_of_others(argv, config)
    return config


def _refuse_settings_of_others(argv: Sequence[str], config: RunConfig) -> None:
    """ValueError if a flag is given that only another formulation has."""
    given = {word.partition("=")[0].replace("_", "-") for word in argv}
    own = {flag(path) for path, _, _ in leaves(config)}
    for other in FORMULATIONS:
        theirs = [flag(path) for path, _, _ in leaves(of_kind(config, other, config.network))]
        for name in theirs:
            if name in given - own:
                raise ValueError(f"{name}: is a setting of --formulation {other}, not of {config.formulation}")


def _read_resumed(argv: Sequence[str], folder: Path) -> TrainArgs:
    from diamond_fast.runs.folder import RunFolder

    try:
        config = RunFolder.open(folder).read_config(_last_value(argv, "--env-id"))
    except ValueError as error:
        raise ValueError(f"--resume {error}") from None
    for name in ("formulation", "network"):  # they decide which flags there are
        if (asked := _last_value(argv, flag(name))) not in (None, kept := getattr(config, name)):
            raise ValueError(f"--resume {folder}: a run keeps its settings: {flag(name)} is {kept}, not {asked}")
    args = _parse(argv, config)
    for name in ("preset", "out", "init_from"):
        if getattr(args, name) != getattr(TrainArgs, name):
            raise ValueError(f"{flag(name)}: cannot be combined with --resume, which keeps the run's own settings")
    if changed := [each for each in differences(config, args.config) if each[0] not in MACHINE_FLAGS]:
        listed = ", ".join(f"{flag(path)} is {was}, not {now}" for path, was, now in changed)
        raise ValueError(f"--resume {folder}: a run keeps its settings: {listed}; start another one with --out")
    return args


def _parse(argv: Sequence[str], defaults: RunConfig, preset: str = "auto") -> TrainArgs:
    args = parse(TrainArgs, argv, default=TrainArgs(config=defaults, preset=preset), prog=PROGRAM)
    return replace(args, config=checked(args.config))


def _last_value(argv: Sequence[str], name: str) -> str | None:
    """The value of a flag that decides the defaults of the others, read before they are parsed."""
    values = [
        word.partition("=")[2] if "=" in word else following
        for word, following in zip_longest(argv, argv[1:])
        if word.partition("=")[0].replace("_", "-") == name
    ]
    return values[-1] if values else None


def set_up(args: TrainArgs, held: ExitStack, stop: StopSignals) -> "Trainer":
    """The trainer of a new or a resumed run. ``held`` keeps its folder locked and closes it in the end."""
    from diamond_fast.runs.folder import RunFolder, names_module
    from diamond_fast.runs.metrics import require_installed
    from diamond_fast.training.process_group import leave_process_group
    from diamond_fast.training.trainer import Trainer

    group = _join_process_group(args) if _num_processes() > 1 else None
    device = _device(args)
    if group is not None:
        held.callback(leave_process_group)
    require_installed(args.logger)
    agent = None if args.init_from is None else _agent_to_start_from(args.init_from, args.config)
    if args.resume is None:
        if args.preset == "auto":
            print(_why_this_preset(args, device), flush=True)
        folder = RunFolder.create(args.out or _default_folder(args.config), args.config)
    else:
        folder = RunFolder.open(args.resume)
    held.enter_context(folder.lock())
    program = PROGRAM if group is None else f"torchrun --nproc-per-node {group.size} {PROGRAM.removeprefix('python ')}"
    stop.how_to_go_on = f"{program} --resume {shlex.quote(str(folder.path))}"
    if names_module(args.config):
        stop.how_to_go_on += f" --env-id {shlex.quote(str(args.config.env_id))}"
    for path, _, now in differences(folder.read_config(args.config.env_id), args.config):
        stop.how_to_go_on += f" {flag(path)} {now}"
    try:
        trainer = Trainer(args.config, folder, device, agent, args.logger, args.cuda_graphs, group)
    except Exception:
        if args.resume is None:
            folder.discard()  # nothing was begun, and the same command should work once its cause is mended
        raise
    held.callback(trainer.close)
    along = f" and {group.size - 1} more" if group is not None else ""
    print(f"{args.config.title} on {device}{along}, seed {args.config.seed}: {folder.path}\n{trainer.path}", flush=True)
    return trainer


def _agent_to_start_from(source: str, config: RunConfig) -> "Agent":
    """Raises ValueError, OSError: there is none, or its networks are not those of the settings."""
    if source == DEMO:
        from diamond_fast.runs.agents import demo_of_settings

        return demo_of_settings(config)
    if (path := Path(source)).is_dir() or path.suffix == ".json":
        from diamond_fast.runs.agents import agent_of_settings

        return agent_of_settings(path, config)
    from diamond_fast.official import load_official

    return load_official(source, config)


def _join_process_group(args: TrainArgs) -> "ProcessGroup":
    """The processes torchrun started this one with."""
    from diamond_fast.training.process_group import check_shards, join_process_group

    check_shards(args.config, _num_processes())
    return join_process_group(_device(args))


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def show(page: Path) -> None:
    """Open a run's page, or say where it is."""
    from diamond_fast.browser import open_page

    if not open_page(page.resolve().as_uri()):
        print(f"No browser opens here; the run's page is {page}", flush=True)


def train(trainer: "Trainer", stop: StopSignals) -> str | None:
    """Run to the end; say where the results are, and how to go on.

    Returns:
        the arguments with which a new process goes on on a slower path, if the run's failed; else None.
    """
    from diamond_fast.envs.failure import EnvironmentFailedError
    from diamond_fast.training.process_group import ProcessLostError

    try:
        result = trainer.run(stop)
    except (ProcessLostError, EnvironmentFailedError, FloatingPointError) as error:
        _fail_later(str(error), stop)
    except Exception as error:
        if not is_ordinary(error) and (slower := trainer.path.slower()) is not None:
            if trainer.group is None:
                return _go_on(trainer, error, slower, stop)
            more = " ".join(slower.flags())  # it is torchrun that starts processes
            what, details = _told(trainer, error)
            _fail_later(f"{what}; if it fails again, add {more}. {details}", stop)
        out_of_memory = f"out of memory on {trainer.device}: {_what_to_lower(trainer)}"
        _fail_later(expected_failure(error, out_of_memory), stop)
    for picture in trainer.folder.newest_pictures():
        print(f"Picture: {picture}")
    if result is None:
        print("Return: none, since there is no game to play; diamond_fast.evaluate --held-out judges the world model")
    elif isinstance(result, float):
        print(f"Held-out loss of the denoiser: {result:.4f}")
    else:
        print(f"Return: {result}")
    if trainer.folder.page.exists():
        print(f"Page: {trainer.folder.page}")
    print(f"Resume: {stop.how_to_go_on}")
    return None


def _go_on(trainer: "Trainer", error: Exception, slower: "EnginePath", stop: StopSignals) -> str:
    """Saves what was done before an error that a slower path may not have, and says so. Each path has but one chance.

    The process cannot be trusted from here on: a kernel or a capture that fails may leave the device unusable.
    """
    what, details = _told(trainer, error)
    kept = "what was done is saved" if trainer.save_after_fault() else "the last checkpoint is gone on from"
    print(f"{what}; {kept}. {slower.loses} {details}", file=sys.stderr, flush=True)
    go_on = str(stop.how_to_go_on).partition(PROGRAM)[2]
    stop.how_to_go_on = None
    return shlex.join([*shlex.split(go_on), *slower.flags()])


def _told(trainer: "Trainer", error: Exception) -> tuple[str, str]:
    """That a path has failed, in a few words, and where all that is known of it has been written."""
    faults = trainer.folder.path / "faults.txt"
    with suppress(OSError), faults.open("a") as file:
        file.write(f"{trainer.path}\n{''.join(traceback.format_exception(error))}\n")
    return f"{trainer.path.what} failed ({type(error).__name__}: {one_line(error)})", f"Details: {faults}"


def restart(argv: Sequence[str]) -> None:
    """Becomes the program anew, with these arguments."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *PROGRAM.split()[1:], *argv])


def _fail_later(reason: str, stop: StopSignals) -> NoReturn:
    """One line on what ended a run that had begun, and how to go on with it."""
    print(f"{reason}. Go on from the last checkpoint with: {stop.how_to_go_on}", file=sys.stderr)
    raise SystemExit(EXIT_FAILED)


def _what_to_lower(trainer: "Trainer") -> str:
    """The flags that decide the memory of what the trainer was doing."""
    update = trainer.at_work
    if update is None:
        return (
            "start a new run with a lower --evaluation.num-episodes or --evaluation.max-steps, for which memory is "
            "reserved, or --evaluation.num-envs"
        )
    name = f"{update.name}_update"
    return (
        f"start a new run with {flag(name + '.batch_size')} below {update.cfg.batch_size} and, for the same gradients, "
        f"{flag(name + '.grad_acc_steps')} above {update.cfg.grad_acc_steps}, or use --precision bf16"
    )


def profile(args: TrainArgs, held: ExitStack, stop: StopSignals) -> None:
    """Say where the time of such a run goes, from a few turns of each phase of one that is thrown away."""
    from diamond_fast.training.profiling import as_table, profile_run, with_room

    if args.resume is not None or _num_processes() > 1:
        raise ValueError("--profile: measures a new run in one process; leave out --resume and torchrun")
    out = args.out or Path("profiles") / _default_folder(args.config).name  # not among the runs: it is none
    if out.exists():
        raise ValueError(f"--out {out}: exists already")
    thrown_away = Path(held.enter_context(tempfile.TemporaryDirectory())) / "run"
    args = replace(args, config=with_room(args.config), out=thrown_away, logger="none")
    trainer = set_up(args, held, stop)
    stop.how_to_go_on = None
    table = as_table(profile_run(trainer, out / "trace.json.gz"))
    (out / "phases.txt").write_text(f"{table}\n")
    print(f"{table}\nTrace: {out / 'trace.json.gz'} (open it in chrome://tracing or https://ui.perfetto.dev)")


def dry_run(args: TrainArgs) -> None:
    """Print the settings, what the run would cost, and on what that is based."""
    from diamond_fast.estimate import describe

    device = _device(args)
    for path, _, value in leaves(args.config):
        if value is False:  # a flag that is not given
            continue
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        print(flag(path) if value is True else f"{flag(path)} {shown}")
    if args.preset == "auto" and args.resume is None:
        print(f"\n{_why_this_preset(args, device)}")
    print(
        f"\n{args.config.title} on {device}\n{describe(args.config, action_of(args.config), device, args.cuda_graphs)}"
    )


def _why_this_preset(args: TrainArgs, device: "torch.device") -> str:
    """What ``--preset auto`` became and, if that is not the paper's, what the paper's would take with this engine."""
    if device.type == "cuda":
        return "CUDA is there: taking the paper's settings (--preset atari100k)."
    from diamond_fast.estimate import estimate, measure_speed, time_needed

    paper = replace(PRESETS["atari100k"], engine=args.config.engine, precision=args.config.precision)
    action = action_of(args.config)
    speed = measure_speed(paper, action, device)
    needed = time_needed(estimate(paper, action), speed)
    engine = f" with {speed.engine}" if speed.engine else ""
    return (
        "No CUDA: taking --preset quick, which shows every part of DIAMOND at work in a few minutes but is too short "
        f"to learn. The paper's settings (--preset atari100k) would take, on this machine{engine}: {needed}."
    )


def action_of(config: RunConfig) -> "Action":
    """What a run with these settings chooses from."""
    if not has_env(config):
        from diamond_fast.training.actions import find_action

        replay = domain_of(config).load_recording(Path(str(config.static_dataset)))
        return find_action(config, None, None, None, replay)
    from diamond_fast.domains.environments import make_env

    env = make_env(config, num_envs=1, done_on_life_loss=False)
    try:
        return env.action
    finally:
        env.close()


def _device(args: TrainArgs) -> "torch.device":
    from diamond_fast.devices import resolve_device  # imports torch: after all that can be answered without

    if _num_processes() == 1:
        return resolve_device(args.device)
    from diamond_fast.training.process_group import local_device

    return resolve_device(local_device(args.device))


def _default_folder(config: RunConfig) -> Path:
    return Path("runs") / f"{config.title}-{time.strftime('%Y%m%d-%H%M%S')}-seed{config.seed}"


if __name__ == "__main__":
    main()
