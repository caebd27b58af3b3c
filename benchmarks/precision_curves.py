"""Whether training in bfloat16 is as good as in float32: the same losses, updates and seeds in both.

    python benchmarks/precision_curves.py --game Boxing --steps 5000 --updates 150 --seeds 3

Records real steps with random actions, then trains the denoiser and the reward/end model of the quick preset on them,
from the same weights and with the same batches and noise in both precisions. Writes one JSON line: the mean loss over
the last third of the updates, and the mean difference with its 95 % interval over seeds (Student's t).
"""

import argparse
import json
from dataclasses import replace

import numpy as np
import torch

from diamond_fast.config import RunConfig
from diamond_fast.domains.environments import make_real_env
from diamond_fast.engine.choose import choose_path, fast_dtype
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.presets import PRESETS
from diamond_fast.replay import Replay
from diamond_fast.training.collect import Collector
from diamond_fast.training.make_updates import make_updates
from diamond_fast.world_model import Agent

MODELS = ("denoiser", "reward_end")


def record(cfg: RunConfig, steps: int) -> tuple[Replay, int]:
    """Real steps of a policy that has not learned anything, and how many actions there are."""
    env = make_real_env(cfg.game, cfg.env_id, 1, cfg.frame_size, done_on_life_loss=True)
    replay = Replay(cfg.frame_shape, capacity=steps)
    Collector(env, seed=0).collect(Agent(cfg, env.action.n).actor_critic, replay, steps)
    env.close()
    return replay, env.action.n


def losses(cfg: RunConfig, replay: Replay, num_actions: int, num_updates: int, seed: int) -> dict[str, np.ndarray]:
    """The loss of every update, by model."""
    torch.manual_seed(seed)
    updates = make_updates(cfg, Agent(cfg, num_actions), replay, choose_path(torch.device("cpu"), cfg.precision), seed)
    curves = {}
    for name in MODELS:
        torch.manual_seed(seed)
        curves[name] = np.array([updates[name].step()["loss"].item() for _ in range(num_updates)])
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="Boxing")
    parser.add_argument("--steps", type=int, default=5000, help="real steps to train on")
    parser.add_argument("--updates", type=int, default=150, help="of each model")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    cfg = replace(PRESETS["quick"], game=args.game)
    replay, num_actions = record(cfg, args.steps)
    curves = {
        precision: [
            losses(replace(cfg, precision=precision), replay, num_actions, args.updates, seed)
            for seed in range(args.seeds)
        ]
        for precision in ("fp32", "bf16")
    }
    report = {"game": args.game, "steps": args.steps, "updates": args.updates, "seeds": args.seeds}
    report["bf16_is"] = str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    for name in MODELS:
        late = {p: np.array([c[name][-args.updates // 3 :].mean() for c in runs]) for p, runs in curves.items()}
        difference = late["bf16"] - late["fp32"]
        report[name] = {
            "fp32": round(float(late["fp32"].mean()), 4),
            "bf16": round(float(late["bf16"].mean()), 4),
            "difference": round(float(difference.mean()), 5),
            "difference_ci95": round(float(ci95(difference)), 5),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
