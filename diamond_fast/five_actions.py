"""``python -m diamond_fast.five_actions``: does a world model of driving do what it is told?"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from diamond_fast.agent_flags import AgentFlags
from diamond_fast.cli import parse, user_errors
from diamond_fast.config import CountInt, PositiveInt, Seed
from diamond_fast.domains import domain_of
from diamond_fast.runs.output import lasting_output
from diamond_fast.settings import check_limits, require_there

if TYPE_CHECKING:  # torch is slow to import, and --help needs none of it
    from diamond_fast.evaluation.fixed_actions import Effect, Obedience, Region

PROGRAM = "python -m diamond_fast.five_actions"
EXIT_IGNORES = 1
PICTURED = 3
"""Moments of which there is a picture."""
_AHEAD = 0.6  # of the height: below it are the car and its instruments, which do not move


@dataclass(frozen=True)
class FiveActionsArgs(AgentFlags):
    """Imagine the same moments of a recording straight on, to the left, to the right, slower and faster, and measure
    by optical flow what the actions change. Exit code 1 if the world model does not turn and change its speed as told.

        python -m diamond_fast.five_actions --run runs/driving-20260101-120000-seed0 --held-out drives/test

    Actions are two numbers, steering and acceleration, and as strong as the recording often has them: its quantiles at
    5, 50 and 95 %.
    """

    held_out: Annotated[Path | None, arg(metavar="PATH")] = None
    """Take moments from this recording. It is needed."""
    moments: PositiveInt = 16
    """Imagine so many."""
    horizon: Annotated[PositiveInt | None, arg(help_behavior_hint="(default: the run's)")] = None
    """Imagine so many frames of each."""
    region: Annotated[tuple[CountInt, ...], arg(metavar="TOP LEFT BOTTOM RIGHT")] = ()
    """Measure motion in these pixels (bottom and right lie outside), without what never moves, such as a bonnet. If it
    is not given, they are the upper six tenths."""
    seed: Seed = 0
    """The seed fixes the noise."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: five_actions/<name>-<time>)")] = None
    """Write five_actions.json and the pictures to this new folder."""


@lasting_output()
def main(argv: Sequence[str] | None = None) -> int:
    args = parse(FiveActionsArgs, argv, prog=PROGRAM)
    with user_errors():
        check_limits(args)
        return five_actions(args)


def five_actions(args: FiveActionsArgs) -> int:
    """
    Raises:
        ValueError, OSError: something asked for does not exist or does not fit.
    """
    import numpy as np

    from diamond_fast.devices import resolve_device
    from diamond_fast.engine.choose import choose_path, set_matmul_precision
    from diamond_fast.engine.contest import Work
    from diamond_fast.evaluation import fixed_actions
    from diamond_fast.evaluation.fixed_actions_picture import save_rows
    from diamond_fast.evaluation.open_loop import spread
    from diamond_fast.replay.fitting import check_fits
    from diamond_fast.runs.pictures import pictured_times
    from diamond_fast.spec import Box

    if args.held_out is None:
        raise ValueError("--held-out: a recording is needed, which moments are taken from; for instance drives/test")
    require_there(args.held_out, "held_out")
    device, trained = resolve_device(args.device), args.load()
    agent, config = trained.agent, trained.config
    if agent.spec.action != Box(2):
        raise ValueError(f"--run: expected a world of two numbers, steering and acceleration, got {agent.spec.action}")
    config = replace(
        config, world_model=replace(config.world_model, horizon=args.horizon or config.world_model.horizon)
    )
    replay = domain_of(config).load_recording(args.held_out)
    check_fits("--held-out", args.held_out, replay, config.frame_shape, agent.spec.action)
    context, horizon = agent.spec.context, config.world_model.horizon
    if not spread(replay.lengths, context + horizon, count=1):
        raise ValueError(
            f"--held-out {args.held_out}: no episode has {context} frames to see and {horizon} to imagine (--horizon); "
            f"the longest has {max(replay.lengths, default=0)}"
        )
    height, width, _ = config.frame_shape
    region = _region(args.region or (0, 0, int(_AHEAD * height), width), height, width)
    out = args.out or Path("five_actions") / f"{config.title}-{time.strftime('%Y%m%d-%H%M%S')}"
    if out.exists():
        raise ValueError(f"--out {out}: exists already; name a new folder")

    set_matmul_precision(config.precision)
    agent.to(device).eval()
    path = choose_path(
        device,
        config.precision,
        config.engine,
        work=Work.of(agent.denoiser, config.world_model.sampler, min(32, args.moments)),
    )
    told = fixed_actions.five_actions(np.concatenate([replay.episode(i).act for i in range(replay.num_episodes)]))
    rollouts = fixed_actions.imagine(agent, replay, config, path, told, args.seed, args.moments)
    assert rollouts is not None  # an episode is long enough
    recorded = fixed_actions.turning_in(replay, config.world_model.horizon, 4 * args.moments, region)
    found = fixed_actions.obedience(rollouts, recorded, region)
    out.mkdir(parents=True)
    _write(out / "five_actions.json", found, {name: action.tolist() for name, action in told.items()}, rollouts)
    times = tuple(pictured_times(config.world_model.horizon))
    for moment in range(min(PICTURED, len(rollouts.last_seen))):
        save_rows(out / f"five_actions_{moment}.png", rollouts, moment, times)
    print(said(found))
    print(f"Written: {out}")
    return 0 if found.obeys else EXIT_IGNORES


def _region(given: tuple[int, ...], height: int, width: int) -> "Region":
    match given:
        case (top, left, bottom, right) if top + 8 <= bottom <= height and left + 8 <= right <= width:
            return top, left, bottom, right
    shown = " ".join(map(str, given))
    raise ValueError(
        f"--region: must be top, left, bottom and right within {height} x {width} pixels, 8 or more apart, got {shown}"
    )


def _write(path: Path, found: "Obedience", told: dict[str, Any], rollouts: Any) -> None:
    from diamond_fast.runs.durable import strict_json, write_durably
    from diamond_fast.runs.metrics import plain

    moments, horizon = next(iter(rollouts.imagined.values())).shape[:2]
    results = {"unit": "pixels a frame", "moments": moments, "horizon": horizon, "actions": told, "obeys": found.obeys}
    write_durably(path, (strict_json(plain(results | asdict(found)), indent=2) + "\n").encode())


def said(found: "Obedience") -> str:
    """The figures, for people."""

    def shown(effect: "Effect") -> str:
        return f"{effect.mean:+.2f} ± {effect.ci95:.2f}"

    lines = ["Motion of the picture in pixels a frame, with 95 % intervals over moments:"]
    lines += [
        f"  {name:9}to the right {shown(found.horizontal[name])}, speed {shown(found.speed[name])}"
        for name in found.horizontal
    ]
    lines += [
        f"left less right: {shown(found.turning)}, counted as the recording turns (r = {found.recorded_turning:+.2f})",
        f"faster less slower: {shown(found.pace)}",
        "It does what it is told." if found.obeys else "It does not do what it is told, or too few moments show it.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
