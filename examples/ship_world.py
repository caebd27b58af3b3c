"""Makes the world model that comes with the package, and its policy, from runs of --preset demo: see docs/demo.md.

python examples/ship_world.py runs/demo1 runs/demo2 --average 3 --policy runs/clone --recording boxing-test.journal \
    --out diamond_fast/demo
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import diamond_fast
from diamond_fast.presets import PRESETS
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.demo import write_demo
from diamond_fast.runs.metrics import read_metrics

CURVES = ("epoch", "seconds", "denoiser/loss", "denoiser/held_out_loss")


def average(run: Path, num_checkpoints: int) -> dict[str, torch.Tensor]:
    """The mean of an agent's weights over the newest checkpoints of its run: less noise of the last updates."""
    files = sorted((run / "checkpoints").glob("*.json"))[-num_checkpoints:]
    if len(files) < num_checkpoints:
        raise SystemExit(f"--average: {run} keeps {len(files)} checkpoints, asked for {num_checkpoints}")
    states = [load_agent(file=file).agent.state_dict() for file in files]
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def scores(run: Path) -> dict[str, Any]:
    """What the policy of a run scored in the game when it was last evaluated."""
    evaluations = sorted((run / "evaluations").glob("*/evaluation.json"))
    if not evaluations:
        raise SystemExit(f"--policy: {run} was not evaluated; python -m diamond_fast.evaluate --run {run}")
    return json.loads(evaluations[-1].read_text())["returns"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", type=Path, help="a run of a world model alone, and those that went on from it"
    )
    parser.add_argument("--recording", type=Path, required=True, help="a journal of games it was not trained on")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--policy", type=Path, metavar="RUN", help="a run whose policy comes along")
    parser.add_argument("--average", type=int, default=1, metavar="N", help="newest checkpoints of the last run")
    args = parser.parse_args()
    stages = []
    for run in args.runs:
        trained = load_agent(run=run)
        update, lines = trained.config.denoiser_update, read_metrics(run / "metrics.jsonl")
        lines = [line for line in lines if line["epoch"] <= (trained.epoch or 0)]
        updates = update.steps_first_epoch + (len(lines) - 1) * update.steps_per_epoch
        stages.append(
            {
                "updates": updates,
                "batch_size": update.batch_size,
                "lr": update.lr,
                "num_autoregressive_steps": trained.config.num_autoregressive_steps,
                "hours": round(lines[-1]["seconds"] / 3600, 2),
                "curves": {name: [line.get(name) for line in lines] for name in CURVES},
            }
        )
    trained.agent.load_state_dict(average(args.runs[-1], args.average))
    config = replace(trained.config, world_model=PRESETS["demo"].world_model)  # how frames are drawn
    policy: dict[str, Any] = {}
    if args.policy is not None:
        player = load_agent(run=args.policy)
        trained.agent.actor_critic = player.agent.actor_critic
        config = replace(
            config, actor_critic=player.config.actor_critic, actor_critic_update=player.config.actor_critic_update
        )
        policy = {"policy": scores(args.policy)}
    made: dict[str, Any] = {"licence": "MIT", "how": "docs/demo.md", "version": diamond_fast.__version__}
    made |= {"checkpoints_averaged": args.average, "stages": stages} | policy
    write_demo(args.out, trained.agent, config, args.recording, made)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.2f} MB, from {trained.source}")


if __name__ == "__main__":
    main()
