"""Makes the world model that comes with the package from a run of --preset demo: see docs/demo.md.

python examples/ship_world.py runs/demo runs/demo-slower --recording breakout-test.journal --out diamond_fast/demo
"""

import argparse
from pathlib import Path

import diamond_fast
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.demo import write_demo
from diamond_fast.runs.metrics import read_metrics

CURVES = ("epoch", "seconds", "denoiser/loss", "denoiser/held_out_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", type=Path, help="a run of a world model alone, and those that went on from it"
    )
    parser.add_argument("--recording", type=Path, required=True, help="a journal of games it was not trained on")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
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
                "hours": round(lines[-1]["seconds"] / 3600, 2),
                "curves": {name: [line.get(name) for line in lines] for name in CURVES},
            }
        )
    made = {"licence": "MIT", "how": "docs/demo.md", "version": diamond_fast.__version__, "stages": stages}
    write_demo(args.out, trained.agent, trained.config, args.recording, made)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.2f} MB, from {trained.source}")


if __name__ == "__main__":
    main()
