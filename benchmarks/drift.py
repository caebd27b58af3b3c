"""Whether the fast path's rounding adds up: errors over long imaginations of a trained model, compared with float32's.

    python benchmarks/drift.py --run runs/DIR --horizon 200 --seeds 5

Frames are imagined from real contexts and the actions that were really taken, by the readable float32 sampler and by
FastDenoiser, with the same noise. Errors are against what really happened, in grey levels (0 to 255); the difference of
the two is averaged over segments, and its 95 % interval is over noise seeds. Writes one JSON line.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diamond_fast.config import RunConfig
from diamond_fast.domains.environments import make_real_env
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.evaluation.open_loop import predict_frames, spread
from diamond_fast.frames import to_float
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.replay import Replay
from diamond_fast.runs.agents import load_agent
from diamond_fast.training.collect import Collector
from diamond_fast.world_model import DiffusionSampler


def errors(sampler, frames: torch.Tensor, act: torch.Tensor, context: int, seed: int) -> np.ndarray:
    """Mean absolute error of each imagined frame, over segments and pixels: [horizon]. frames [N,L,C,H,W]."""
    randn = partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    imagined = predict_frames(sampler, frames[:, :context], act, randn)
    return 127.5 * (imagined - frames[:, context:]).abs().mean((0, 2, 3, 4)).numpy()


def play_games(cfg: RunConfig, policy: ActorCritic, num_steps: int) -> Replay:
    """Real games that training has not seen."""
    env = make_real_env(cfg.game, cfg.env_id, 4, cfg.frame_size, done_on_life_loss=False)
    replay = Replay(cfg.frame_shape, num_envs=4, capacity=num_steps + 4)
    Collector(env, seed=2**31 - 1).collect(policy, replay, num_steps)
    env.close()
    return replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder with a trained model and its replay")
    parser.add_argument("--horizon", type=int, default=200, help="imagined steps")
    parser.add_argument("--segments", type=int, default=16, help="of the real experience, at most")
    parser.add_argument("--seeds", type=int, default=5, help="of the noise")
    args = parser.parse_args()

    trained = load_agent(run=args.run)
    cfg, denoiser = trained.config, trained.agent.denoiser
    context = cfg.denoiser.inner_model.num_steps_conditioning
    length = context + args.horizon
    replay = play_games(cfg, trained.agent.actor_critic, num_steps=4 * (args.segments + 4) // 4 * length)
    starts = spread(replay.lengths, length, args.segments)
    if not starts:
        sys.exit(f"--horizon {args.horizon}: no game lasted that long; take a shorter one")
    batch = replay.cut(starts, length)
    frames, act = to_float(batch.frames), batch.act
    fast = FastDenoiser(denoiser, cfg.world_model.sampler)
    exact = DiffusionSampler(denoiser, cfg.world_model.sampler)
    float32, rounded = (
        np.stack([errors(s, frames, act, context, seed) for seed in range(args.seeds)]) for s in (exact, fast)
    )
    at = sorted({1, 5, 15, 50, 100, 150, args.horizon} & set(range(1, args.horizon + 1)))
    difference = rounded - float32
    report = {
        "path": fast.path,
        "segments": len(frames),
        "seeds": args.seeds,
        "t": at,
        "float32": [round(float32[:, t - 1].mean(), 3) for t in at],
        "fast_minus_float32": [round(difference[:, t - 1].mean(), 3) for t in at],
        "fast_minus_float32_ci95": [round(float(ci95(difference)[t - 1]), 3) for t in at],
        "all_steps": round(difference.mean(), 3),
        "all_steps_ci95": round(float(ci95(difference.mean(1, keepdims=True))[0]), 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
