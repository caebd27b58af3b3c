"""Who is still in the ring in long dreams of Boxing, how sharp frames stay, and where held keys lead: see docs/demo.md.

python examples/long_dreams.py                                        # the demo, on the game that comes with it
python examples/long_dreams.py --demo demo --recording other.journal --steps 2 --sigma-min 0.3
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diamond_fast.config import RunConfig, SamplerConfig
from diamond_fast.engine.choose import Path as EnginePath
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.rollout import draw_actions
from diamond_fast.engine.world import at_play, next_frame_sampler
from diamond_fast.evaluation.open_loop import Predictions, imagine_from
from diamond_fast.frames import to_float, to_uint8
from diamond_fast.replay import Replay, load_recording
from diamond_fast.runs.demo import FOLDER, RECORDING, load_demo
from diamond_fast.world_model import Agent

FIRE, UP, RIGHT, LEFT, DOWN = 1, 2, 3, 4, 5
WAYS = {"up": (UP, 0, -1), "right": (RIGHT, 1, 1), "left": (LEFT, 1, -1), "down": (DOWN, 0, 1)}
WHITE_LEAST, BLACK_LEAST = 12, 8  # pixels of a boxer who is there: about half the fewest in recorded games
ARM_OUT = 7  # columns: white's body is four or five wide, six with arms bent
HELD_FOR = 8


def white(frames: np.ndarray) -> np.ndarray:
    """Which pixels of the ring are the white boxer's: uint8 [...,48,48,3] -> bool [...,31,27]."""
    return frames[..., 9:40, 11:38, :].min(-1) > 140


def black(frames: np.ndarray) -> np.ndarray:
    return frames[..., 9:40, 11:38, :].max(-1) < 60


def present(frames: np.ndarray) -> dict[str, np.ndarray]:
    """In which frames each boxer is there."""
    counts = {"white": (white(frames), WHITE_LEAST), "black": (black(frames), BLACK_LEAST)}
    return {name: seen.sum((-2, -1)) >= least for name, (seen, least) in counts.items()}


def edges(frames: np.ndarray) -> float:
    """Mean squared difference of neighbours in a row of the ring, in grey levels: what is blurred has less."""
    return float(np.square(np.diff(frames[..., 9:40, 11:38, :].mean(-1, dtype=np.float32), axis=-1)).mean())


def arm_out(frames: np.ndarray) -> np.ndarray:
    """In which frames the white boxer is as wide as with an arm stretched out."""
    columns = white(frames).any(-2)
    width = columns.shape[-1] - columns.argmax(-1) - columns[..., ::-1].argmax(-1)
    return columns.any(-1) & (width >= ARM_OUT)


def middle(mask: np.ndarray) -> np.ndarray:
    """Row and column of the middle of what is seen: [...,H,W] -> [...,2], not a number if nothing is."""
    places = np.stack(np.indices(mask.shape[-2:]), -1)
    with np.errstate(invalid="ignore"):
        return (mask[..., None] * places).sum((-3, -2)) / mask.sum((-2, -1))[..., None]


def dream(
    agent: Agent, cfg: RunConfig, replay: Replay, path: EnginePath, places: int, frames: int, held: int | None = None
) -> Predictions:
    """Imagined from places that are spread over the first game, after the recorded actions or one that is held."""
    cfg = replace(cfg, world_model=replace(cfg.world_model, horizon=frames))
    room = int(replay.lengths[0]) - frames - cfg.denoiser.inner_model.num_steps_conditioning
    starts = [(0, room * (2 * k + 1) // (2 * places)) for k in range(places)]
    return imagine_from(agent, replay, cfg, path, 0, starts, instead=None if held is None else np.array(held))


@torch.no_grad()
def play(agent: Agent, cfg: RunConfig, replay: Replay, path: EnginePath, places: int, frames: int) -> np.ndarray:
    """The agent's policy plays, from places that are spread over the first game. uint8 [places,frames,H,W,C]."""
    sampler = next_frame_sampler(agent.denoiser, cfg.world_model.sampler, path)
    policy = at_play(agent.actor_critic, path)
    assert policy is not None
    context = agent.spec.context
    starts = [(0, (int(replay.lengths[0]) - context) * (2 * k + 1) // (2 * places)) for k in range(places)]
    batch = replay.cut(starts, context)
    obs, act, memory = to_float(batch.frames), batch.act[:, :-1], (torch.zeros(places, policy.lstm_dim),) * 2
    for frame in obs[:, :-1].unbind(1):
        memory = policy.predict_act_value(frame, memory)[2]
    drawn = []
    for _ in range(frames):
        logits, _, memory = policy.predict_act_value(obs[:, -1], memory)
        act = torch.cat([act, draw_actions(policy.distribution, logits)[:, None]], dim=1)
        frame, _ = sampler.sample(obs, act)
        obs, act = torch.cat([obs[:, 1:], frame[:, None]], dim=1), act[:, 1:]
        drawn.append(to_uint8(frame))
    return torch.stack(drawn, 1).numpy()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=FOLDER, help="a folder that ship_world.py wrote")
    parser.add_argument("--recording", type=Path, help="a journal of games (default: the one in the folder)")
    parser.add_argument("--frames", type=int, default=300, help="of a dream")
    parser.add_argument("--places", type=int, default=6, help="to dream from")
    parser.add_argument("--steps", type=int, help="a frame takes (default: as the folder says)")
    parser.add_argument("--sigma-min", type=float, help="noise that the last step begins at (default: the same)")
    args = parser.parse_args(argv)
    agent, cfg = load_demo(args.demo)
    replay = load_recording(args.recording or args.demo / RECORDING)
    sampler = cfg.world_model.sampler
    assert isinstance(sampler, SamplerConfig)
    given = {"num_steps": args.steps, "sigma_min": args.sigma_min}
    sampler = replace(sampler, **{name: value for name, value in given.items() if value is not None})
    cfg = replace(cfg, world_model=replace(cfg.world_model, sampler=sampler))
    path = choose_path(torch.device("cpu"), cfg.precision, cfg.engine)

    seen = dream(agent, cfg, replay, path, args.places, args.frames)
    there = present(seen.imagined)
    print(f"{args.demo}: {sampler.num_steps} steps a frame, the last from noise of {sampler.sigma_min:g}")
    for k in [k for k in (1, 10, 50, 100, 200, 300) if k <= args.frames]:
        who = ", ".join(f"{name} in {x[:, k - 1].sum()} of {len(x)}" for name, x in there.items())
        span = slice(max(0, k - 50), k)
        sharp, real = edges(seen.imagined[:, span]), edges(seen.real[:, span])
        arms, real_arms = arm_out(seen.imagined[:, span]).mean(), arm_out(seen.real[:, span]).mean()
        print(f"frame {k}: {who}; the last {k - span.start}: edges {sharp:.0f} (recorded {real:.0f}), "
              f"an arm out in {arms:.0%} ({real_arms:.0%})")  # fmt: skip
    print(", ".join(f"{name} there in {x.mean():.1%} of all frames" for name, x in there.items()))
    for k in [k for k in (1, 10) if k <= args.frames]:
        truth = middle(white(seen.real[:, k - 1]))
        model, still = (middle(white(frames)) - truth for frames in (seen.imagined[:, k - 1], seen.last_seen))
        model, still = (np.nanmean(np.linalg.norm(off, axis=-1)) for off in (model, still))
        print(f"frame {k}: white's middle is {model:.1f} pixels from the real one, of a still picture {still:.1f}")
    for name, (action, axis, sign) in WAYS.items():
        seen = dream(agent, cfg, replay, path, 2 * args.places, HELD_FOR, held=action)
        went = sign * (middle(white(seen.imagined[:, -1])) - middle(white(seen.last_seen)))[:, axis]
        print(f"{name} held for {HELD_FOR} steps: white goes {np.nanmean(went):.1f} pixels")
    seen = dream(agent, cfg, replay, path, 2 * args.places, HELD_FOR, held=FIRE)
    print(f"fire held for {HELD_FOR} steps: an arm comes out in {arm_out(seen.imagined).any(1).mean():.0%} of dreams")
    if agent.actor_critic is not None:
        played = play(agent, cfg, replay, path, 2 * args.places, args.frames)
        apart = np.linalg.norm(middle(white(played)) - middle(black(played)), axis=-1)
        left = " and ".join(f"{name} is there in {x[:, -1].sum()}" for name, x in present(played).items())
        print(f"the policy plays: white is {np.nanmedian(apart):.1f} pixels from black (median), an arm is out in "
              f"{arm_out(played).mean():.0%} of frames; at the end {left} of {len(played)} dreams")  # fmt: skip


if __name__ == "__main__":
    main()
