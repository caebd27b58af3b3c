"""Does a world model remember what is behind it? It turns fully round in imagination, once it has done so for real.

python examples/turning_back.py --run runs/with --beside runs/without --recording turns --out turned
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from diamond_fast.agent_flags import AgentFlags
from diamond_fast.cli import parse, user_errors
from diamond_fast.config import PositiveInt, Seed
from diamond_fast.settings import CountInt

PICTURES = 3


@dataclass(frozen=True)
class Args(AgentFlags):
    """Turn fully round in imagination, with each of several runs; write turning.json and a picture of a few turns."""

    beside: Annotated[tuple[Path, ...], arg(metavar="DIR")] = ()
    """Hold these runs beside it, which turn at the same moments."""
    recording: Annotated[Path, arg(metavar="PATH")] = Path()
    """Begin at the full turns in this recording, which the models were not trained on."""
    turn: Annotated[str, arg(metavar="JSON")] = '{"mouse_x": [1.0]}'
    """An action that turns; of named parts, those that are missing are at rest."""
    steps: PositiveInt = 24
    """It has turned fully round after so many steps."""
    watched: CountInt = 24
    """It sees so many steps of the same turn for real before it imagines one; 0: it has not seen what is behind it."""
    turns: PositiveInt = 32
    """Take the first so many turns at most."""
    seed: Seed = 0
    """The seed fixes the noise."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("turned")
    """Write to this folder."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    from diamond_fast.devices import resolve_device
    from diamond_fast.domains import domain_of
    from diamond_fast.engine.choose import choose_path
    from diamond_fast.engine.contest import Work
    from diamond_fast.engine.cpu_training import with_modules
    from diamond_fast.evaluation.fixed_actions import Rollouts
    from diamond_fast.evaluation.fixed_actions_picture import save_rows
    from diamond_fast.evaluation.held_actions import action_row
    from diamond_fast.evaluation.open_loop import imagine_from
    from diamond_fast.evaluation.turning_back import turning_errors, turns_in
    from diamond_fast.replay.fitting import check_fits

    args = parse(Args, argv, prog="python examples/turning_back.py")
    with user_errors():
        runs = [args.load(), *(replace(args, run=run, checkpoint=None, pretrained=None).load() for run in args.beside)]
        names = [runs[0].source if args.run is None else args.run.name, *(run.name for run in args.beside)]
        if len(set(names)) < len(names):
            raise ValueError(f"--beside: folders must have different names, got {', '.join(names)}")
        action, context = runs[0].agent.spec.action, max(trained.agent.spec.context for trained in runs)
        replay = domain_of(runs[0].config).load_recording(args.recording)
        for trained in runs:
            check_fits("--recording", args.recording, replay, trained.config.frame_shape, trained.agent.spec.action)
        try:
            row = action_row(action, json.loads(args.turn))
        except ValueError as error:
            raise ValueError(f"--turn: {error}") from None
        steps = args.watched + args.steps
        found = turns_in(replay, row, steps, context)[: args.turns]
        if not found:
            raise ValueError(f"--recording {args.recording}: --turn is never held for {steps} steps there")
        device = resolve_device(args.device)
        args.out.mkdir(parents=True, exist_ok=True)
    imagined = {}
    for name, trained in zip(names, runs, strict=True):
        agent = with_modules(trained.agent.to(device).eval(), upsampler=None)  # small frames can be compared
        cfg = trained.config
        cfg = replace(cfg, world_model=replace(cfg.world_model, horizon=args.steps))
        path = choose_path(device, cfg.precision, cfg.engine, work=Work.of(agent.denoiser, cfg.world_model.sampler, 32))
        starts = [(episode, first + context - agent.spec.context) for episode, first in found]
        seen = imagine_from(agent, replay, cfg, path, args.seed, starts, watched=args.watched)
        imagined[name] = seen.imagined
    errors = turning_errors(seen.last_seen, seen.real, imagined)
    for way, parts in errors.items():
        print(f"{way}: " + ", ".join(f"{part} {mean:.1f} ± {ci:.1f}" for part, (mean, ci) in parts.items()))
    results = {"turns": len(found), "steps": args.steps, "watched": args.watched, "errors": errors}
    (args.out / "turning.json").write_text(json.dumps(results, indent=1))
    rows = Rollouts(seen.last_seen, {"real": seen.real, **imagined})
    times = tuple(sorted({max(1, args.steps * k // 8) for k in range(1, 9)}))
    for moment in range(min(PICTURES, len(found))):
        save_rows(args.out / f"turn_{moment}.png", rows, moment, times)
    return results


if __name__ == "__main__":
    main(sys.argv[1:])
