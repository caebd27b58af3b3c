"""``python -m diamond_fast.evaluate``: what an agent scores, and how well its world model predicts."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from tyro.conf import FlagCreatePairsOff, arg

from diamond_fast.agent_flags import AgentFlags
from diamond_fast.cli import expected_failure, parse, user_errors
from diamond_fast.config import CountInt, PositiveInt, RunConfig, Seed, with_machine_flags
from diamond_fast.domains import domain_of, has_env
from diamond_fast.envs.failure import EnvironmentFailedError
from diamond_fast.runs.output import lasting_output
from diamond_fast.runs.signals import stop_signals
from diamond_fast.settings import check_limits, require, require_there

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    from diamond_fast.engine.choose import Path as EnginePath
    from diamond_fast.envs.real import RealEnv
    from diamond_fast.evaluation.compounding import Compounding
    from diamond_fast.evaluation.measure import Task
    from diamond_fast.runs.agents import TrainedAgent
    from diamond_fast.spec import Action

PROGRAM = "python -m diamond_fast.evaluate"
EXIT_FAILED = 1


@dataclass(frozen=True)
class EvaluateArgs(AgentFlags):
    """Measure a trained agent: its returns in real games, and its world model on episodes it was not trained on.

    A run's newest checkpoint:
        python -m diamond_fast.evaluate --run runs/Boxing-20260101-120000-seed0

    A published agent, 10 games, errors over 50 imagined frames with 1, 3 and 10 denoising steps:
        python -m diamond_fast.evaluate --pretrained Boxing --episodes 10 --horizon 50 --denoising-steps 1 3 10

    The world model that comes with the package, on a game that comes with it:
        python -m diamond_fast.evaluate --pretrained demo --horizon 100

    The world model alone, on a recording:
        python -m diamond_fast.evaluate --checkpoint Boxing.pt --episodes 0 --held-out boxing.npz

    Two world models side by side, on the same frames:
        python -m diamond_fast.evaluate --run runs/A --beside runs/B --episodes 0 --held-out boxing.npz
    """

    episodes: Annotated[CountInt | None, arg(help_behavior_hint="(default: as at the end of the run; 100)")] = None
    """Play so many real games."""
    held_out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Judge the world model on this recording (a journal, .npz or published dataset folder), not on new games."""
    beside: Annotated[Path | None, arg(metavar="DIR|FILE")] = None
    """Hold another world model beside it, which imagines the same segments: a run's folder, or one checkpoint of it."""
    segments: PositiveInt = 64
    """The future is imagined from so many places in the held-out episodes."""
    horizon: Annotated[PositiveInt | None, arg(help_behavior_hint="(default: the run's; 15)")] = None
    """So many frames are imagined from each place, following the recorded actions."""
    watched: CountInt = 0
    """A memory sees so many frames of an episode before those that the denoiser sees. World models without one imagine
    the same frames."""
    denoising_steps: Annotated[tuple[PositiveInt, ...], arg(help_behavior_hint="(default: the run's; 3)")] = ()
    """Each frame takes so many denoising steps; each number that is given gets a curve of its own."""
    noise_seeds: PositiveInt = 1
    """Each future is imagined so many times, each time with other noise."""
    batch_size: PositiveInt = 32
    """So many futures are imagined together."""
    lpips_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measure LPIPS, with torchvision's AlexNet in this file (alexnet-owt-7be5be79.pth). Nothing is ever fetched."""
    fid_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measure FID, with torch-fidelity's Inception in this file (weights-inception-2015-12-05-6726825d.pth)."""
    table8: FlagCreatePairsOff[bool] = False
    """Compare the world model with the paper's table 8 (appendix M): --held-out is imagined in videos of 16 frames with
    20 denoising steps, unless --horizon and --denoising-steps say otherwise."""
    videos: PositiveInt = 1024
    """Table 8 compares so many videos."""
    fvd_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Measure FVD in table 8, with I3D as StyleGAN-V has it in this file (i3d_torchscript.pt)."""
    score_region: Annotated[tuple[CountInt, ...], arg(metavar="TOP LEFT BOTTOM RIGHT")] = ()
    """The pixels that show the score (bottom and right lie outside): in how many imagined frames can it be read?"""
    seed: Seed = 0
    """The seed fixes every random number of the evaluation."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: RUN/evaluations/<epoch>-<time>)")] = (
        None
    )
    """Write evaluation.json and the pictures to this new folder."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(EvaluateArgs, argv, prog=PROGRAM)
    with stop_signals():
        with user_errors():
            check_limits(args)
            args.check_steps(*args.denoising_steps)
            task, out = set_up(args)
        try:
            from diamond_fast.evaluation.measure import measure

            tell(out, *measure(task))
        except EnvironmentFailedError as error:
            _fail(f"{error}. Without games: --episodes 0 --held-out PATH")
        except Exception as error:
            out_of_memory = f"out of memory on {task.path.device}: take a lower --batch-size or fewer --episodes"
            _fail(expected_failure(error, out_of_memory))
        finally:
            with suppress(OSError):
                out.rmdir()  # if nothing was written


def tell(out: Path, results: "dict[str, Any]", compounding: "Compounding | None") -> None:
    """Print the results, write them down, draw them: in this order, since the next may fail.

    Raises:
        OSError: the disk refused the figures.
        SystemExit: a picture could not be drawn; one line says which and why.
    """
    from diamond_fast.evaluation.results import draw, summary, write

    print(summary(results), flush=True)
    print(f"Written: {write(out, results)}", flush=True)
    files, problems = ([], []) if compounding is None else draw(out, results, compounding)
    for file in files:
        print(f"Written: {file}", flush=True)
    if problems:
        _fail("\n".join(problems))


def _fail(line: str) -> NoReturn:
    """End with what happened after the work had begun."""
    print(line, file=sys.stderr)
    raise SystemExit(EXIT_FAILED)


def set_up(args: EvaluateArgs) -> "tuple[Task, Path]":
    """Load the agent, open the game, and make the folder for the results.

    Raises:
        ValueError, OSError: something asked for does not exist or does not fit.
    """
    from diamond_fast.devices import resolve_device
    from diamond_fast.engine.choose import choose_path, set_matmul_precision
    from diamond_fast.engine.contest import Work
    from diamond_fast.evaluation.measure import Task
    from diamond_fast.evaluation.perceptual import Perceptual
    from diamond_fast.evaluation.table8 import NUM_FRAMES, NUM_STEPS, check_counts
    from diamond_fast.evaluation.videos import VideoDistances
    from diamond_fast.replay.fitting import check_fits

    device = resolve_device(args.device)
    trained = args.load()
    args = replace(args, held_out=args.held_out or trained.recording)
    config = trained.config
    num_episodes = _num_episodes(args, trained)
    horizon, num_steps = config.world_model.horizon, config.world_model.sampler.num_steps
    if args.table8:
        horizon, num_steps = NUM_FRAMES, NUM_STEPS
    world_model = replace(config.world_model, horizon=args.horizon or horizon)
    denoising_steps = args.denoising_steps or (num_steps,)
    for count in denoising_steps:
        world_model.with_denoising_steps(count)  # refuses what the formulation cannot do
    if num_episodes == 0 and (args.held_out is None or config.model_free):
        raise ValueError("--episodes 0: leaves nothing to measure; give a recording with --held-out")
    if config.model_free and args.held_out is not None:
        raise ValueError("--held-out: has no use, the run is model-free and has no world model")
    action, held_out = trained.agent.spec.action, None
    if args.held_out is not None:
        require_there(args.held_out, "held_out")
        held_out = domain_of(config).load_recording(args.held_out)
        check_fits("--held-out", args.held_out, held_out, config.frame_shape, action)
    _check_score_region(args.score_region, config)
    beside = None if args.beside is None else _other(args, trained, denoising_steps)
    remembers = any(it is not None and it.agent.memory is not None for it in (trained, beside))
    require(args.watched == 0 or remembers, "watched", "has no use, for no world model here has a memory")
    require(args.watched == 0 or not args.table8, "watched", "has no use with --table8, which says what is seen")
    perceptual = Perceptual(args.lpips_weights, args.fid_weights, device)
    imagining, videos = replace(config, world_model=world_model), None
    require(args.table8 or args.fvd_weights is None, "fvd_weights", "has no use without --table8")
    if args.table8:
        if held_out is None:
            raise ValueError("--table8: needs a recording that the model was not trained on; give one with --held-out")
        videos = VideoDistances(args.fvd_weights, args.videos, device)
        check_counts(perceptual, held_out, imagining, args.videos)
    out = _new_folder(args, trained)
    env = None if num_episodes == 0 else _open_game(trained.source, config, num_episodes, action)
    set_matmul_precision(config.precision)

    def path_of(which: "TrainedAgent") -> "EnginePath":
        which.agent.to(device).eval()
        work = Work.of(which.agent.denoiser, which.config.world_model.sampler, args.batch_size)
        return choose_path(device, which.config.precision, which.config.engine, work=work)

    path = path_of(trained)
    print(path, flush=True)
    return Task(
        replace(trained, config=imagining),
        path,
        env,
        num_episodes,
        held_out,
        "the games played" if args.held_out is None else str(args.held_out),
        perceptual,
        args.score_region,
        args.videos if args.table8 else args.segments,
        denoising_steps,
        args.noise_seeds,
        args.batch_size,
        args.seed,
        config.reward_end_seq_length,  # whatever --horizon says
        videos,
        args.watched,
        None if beside is None else (beside, path_of(beside)),
    ), out


def _other(args: EvaluateArgs, trained: "TrainedAgent", denoising_steps: tuple[int, ...]) -> "TrainedAgent":
    """The world model of --beside. Raises ValueError, OSError: there is none, or it is of another world."""
    from diamond_fast.runs.agents import load_agent

    path = args.beside
    assert path is not None
    require_there(path, "beside")
    other = load_agent(path) if path.is_dir() else load_agent(file=path, game=args.game)
    for config in (trained.config, other.config):
        require(not config.model_free, "beside", "compares world models, and a model-free run has none")
    for what, this, its in (
        ("frames", trained.config.frame_shape, other.config.frame_shape),
        ("actions", trained.agent.spec.action, other.agent.spec.action),
        ("numbers of past frames seen", trained.agent.spec.context, other.agent.spec.context),
    ):
        require(this == its, "beside", f"{path}: its {what} are {its}, those of {trained.source} {this}")
    for count in denoising_steps:
        other.config.world_model.with_denoising_steps(count)
    return replace(other, config=with_machine_flags(other.config, args))


def _num_episodes(args: EvaluateArgs, trained: "TrainedAgent") -> int:
    """Games to play: none if there is no game, no policy to play it, or a recording to judge the world model on."""
    config, has_policy = trained.config, trained.agent.actor_critic is not None
    if has_env(config) and has_policy:
        usual = config.evaluation.num_final_episodes if trained.recording is None else 0
        return usual if args.episodes is None else args.episodes
    if args.episodes or args.held_out is None:
        what = "--held-out" if not args.episodes else f"--episodes {args.episodes}"
        why = "learned from a recording, without a game to play"
        if not has_policy:
            why = "learned without a policy to play it"
        raise ValueError(f"{what}: {config.name} was {why}; give a recording with --held-out, and no --episodes")
    return 0


def _check_score_region(region: tuple[int, ...], config: RunConfig) -> None:
    height, width, _ = config.frame_shape
    good = len(region) == 4 and region[0] < region[2] <= height and region[1] < region[3] <= width
    message = f"must be top, left, bottom and right within {height} x {width} pixels, got {' '.join(map(str, region))}"
    require(not region or good, "score_region", message)


def _new_folder(args: EvaluateArgs, trained: "TrainedAgent") -> Path:
    """Where the results go, created now: a wrong place should be known before hours of games."""
    name = time.strftime("%Y%m%d-%H%M%S")
    if args.out is not None:
        path = args.out
    elif args.run is not None:
        path = args.run / "evaluations" / f"epoch_{trained.epoch:06d}-{name}"
    else:
        path = Path("evaluations") / f"{trained.config.title}-{name}"
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"--out {path}: exists already; name a new folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _open_game(source: str, config: RunConfig, num_episodes: int, action: "Action") -> "RealEnv":
    from diamond_fast.domains.environments import make_env
    from diamond_fast.runs.agents import check_actions

    num_envs = min(num_episodes, config.evaluation.num_envs)
    env = make_env(config, num_envs, done_on_life_loss=False)
    try:
        check_actions(f"{source}: it", action, config, env.action)
    except ValueError:
        env.close()
        raise
    return env


if __name__ == "__main__":
    main()
