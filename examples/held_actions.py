"""Does a world model do what its actions say? It holds one from the same starts, and measures motion.

python examples/held_actions.py --run runs/doom --recording doom/test --out held --actions \\
    '{"nothing": {}, "left": {"mouse_x": [-0.5]}, "right": {"mouse_x": [0.5]}, "forward": {"keys": [1, 0, 0, 0]}}'
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from tyro.conf import arg

from diamond_fast.agent_flags import AgentFlags
from diamond_fast.cli import parse, user_errors
from diamond_fast.config import PositiveInt, Seed

COLUMNS = (1, 3, 6, 10, 15, 20)


@dataclass(frozen=True)
class Args(AgentFlags):
    """Imagine what follows if one action is held, for each of several, and write a picture and effects.json."""

    recording: Annotated[Path, arg(metavar="PATH")] = Path()
    """Start from moments of this recording, which the model was not trained on."""
    actions: Annotated[str, arg(metavar="JSON")] = "{}"
    """An action for each name; of named parts, those that are missing are at rest. All are compared to the first."""
    starts: PositiveInt = 16
    """Begin at so many moments."""
    horizon: PositiveInt = 20
    """Imagine so many frames."""
    seed: Seed = 0
    """The seed fixes the noise."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("held")
    """Write to this folder."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    from diamond_fast.devices import resolve_device
    from diamond_fast.domains import domain_of
    from diamond_fast.engine.choose import choose_path
    from diamond_fast.engine.contest import Work
    from diamond_fast.evaluation import fixed_actions, held_actions
    from diamond_fast.replay.fitting import check_fits

    args = parse(Args, argv, prog="python examples/held_actions.py")
    with user_errors():
        trained = args.load()
        cfg, agent = trained.config, trained.agent
        cfg = replace(cfg, world_model=replace(cfg.world_model, horizon=args.horizon))
        replay = domain_of(cfg).load_recording(args.recording)
        check_fits("--recording", args.recording, replay, cfg.frame_shape, agent.spec.action)
        rows = {}
        for name, given in json.loads(args.actions).items():
            try:
                rows[name] = held_actions.action_row(agent.spec.action, given)
            except ValueError as error:
                raise ValueError(f"--actions: {name}: {error}") from None
        if not rows:
            raise ValueError("--actions: name at least one")
        device = resolve_device(args.device)
        agent.to(device).eval()
        path = choose_path(device, cfg.precision, cfg.engine, work=Work.of(agent.denoiser, cfg.world_model.sampler, 32))
        args.out.mkdir(parents=True, exist_ok=True)
    rollouts = fixed_actions.imagine(agent, replay, cfg, path, rows, args.seed, args.starts)
    if rollouts is None:
        raise SystemExit(f"--horizon {args.horizon}: no episode of {args.recording} is so long")
    found = held_actions.effects(rollouts)
    results: dict[str, Any] = {}
    for name, row in rows.items():
        imagined = {effect: values.tolist() for effect, values in found[name].items()}
        recorded = held_actions.recorded_effects(replay, row, count=100)
        results[name] = {"imagined": imagined, "recorded": {k: v.tolist() for k, v in recorded.items()}}
        for kind, effects in results[name].items():
            print(f"{name:>10} {kind}: " + ", ".join(f"{k} {v[0]:.2f} ± {v[1]:.2f}" for k, v in effects.items()))
    (args.out / "effects.json").write_text(json.dumps({"epoch": trained.epoch, "effects": results}, indent=1))
    for start, last_seen in enumerate(rollouts.last_seen[:3]):
        save(args.out / f"actions_{start}.png", last_seen, [frames[start] for frames in rollouts.imagined.values()])
    return results


def save(file: Path, last_seen: np.ndarray, imagined: list[np.ndarray]) -> None:
    """A row for each action: the last real frame, and imagined ones [K,H,W,3] at the steps in ``COLUMNS``."""
    times = [t for t in COLUMNS if t <= len(imagined[0])]
    rows = [np.concatenate([last_seen, *frames[np.array(times) - 1]], axis=1) for frames in imagined]
    Image.fromarray(np.concatenate(rows)).quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
