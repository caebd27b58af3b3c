"""Recordings of players that see the ball by its colour and go where it comes down: what studies can learn from.

python examples/scripted_players.py breakout breakout.journal            # 60,000 steps: minutes
python examples/scripted_players.py boxing boxing.journal --noise 0.15 0.1 --hold 8 20
python examples/scripted_players.py catch catch.journal --steps 10000    # seconds
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.domains import domain_of
from diamond_fast.domains.catch import ENV_ID
from diamond_fast.replay import Replay
from diamond_fast.runs.durable import put_when_done

MOST_STEPS_OF_A_GAME = 30_000


def play_breakout(frame: np.ndarray, before: np.ndarray, last: int) -> int:
    """Fires if no ball is seen. The paddle answers late: of 8 pixels that an action moves it, 5 come with the next.

    Args:
        frame, before: uint8 [64,64,3], the frame to act on and the one before it.
        last: the action before.
    """
    noop, fire, right, left = range(4)
    floor, width = 29, 53
    field = slice(29, 29 + floor - 1), slice(5, 6 + width)  # below the bricks, above the paddle, between the walls
    ball, ball_before = (_centre(f[field].max(-1) > 40) for f in (frame, before))
    paddle = _centre(frame[58:59, field[1]].max(-1) > 100)
    if ball is None or paddle is None:
        return fire
    y, x = ball
    if ball_before is not None and y > ball_before[0]:  # it falls
        x += (x - ball_before[1]) * (floor - y) / (y - ball_before[0])
        x = width - abs(width - x % (2 * width))  # walls throw it back
    away = x - paddle[1] - {right: 5, left: -5}.get(last, 0)
    if abs(away) <= 4:
        return noop
    return right if away > 0 else left


def play_boxing(frame: np.ndarray, before: np.ndarray, last: int) -> int:
    """Walks up to the black boxer, level with him, and hits every other step. Frames are uint8 [48,48,3]."""
    fire, up, right, left, down, up_right, up_left, down_right, down_left = range(1, 10)
    ring = frame[9:40, 11:38]
    white, black = _centre(ring.min(-1) > 190), _centre(ring.max(-1) < 30)
    if white is None or black is None:
        return fire
    dy, dx = black - white
    rows, columns = int(np.sign(dy)) * (abs(dy) > 2), int(np.sign(dx)) * (abs(dx) > 7)
    if rows == columns == 0:
        return 0 if last == fire else fire
    return [[up_left, up, up_right], [left, fire, right], [down_left, down, down_right]][1 + rows][1 + columns]


def play_pong(frame: np.ndarray, before: np.ndarray, last: int) -> int:
    """Goes where the ball will reach the green paddle, which glides on for a step. Frames are uint8 [64,64,3]."""
    noop, _, up, down = range(4)
    height, paddle_at = 47, 48  # of the field, and the paddle's column in it
    field = slice(11, 12 + height), slice(8, 8 + paddle_at)
    ball, ball_before = (_centre(f[field][..., 2] > 60) for f in (frame, before))
    paddle, paddle_before = (
        _centre((f[field[0], 55:58, 1] > 110) & (f[field[0], 55:58, 0] < 120)) for f in (frame, before)
    )
    if ball is None or paddle is None:
        return noop
    y, x = ball
    if ball_before is not None and x > ball_before[1]:
        y += (y - ball_before[0]) * (paddle_at - x) / (x - ball_before[1])
        y = height - abs(height - y % (2 * height))  # walls throw it back
    away = y - paddle[0] - (0 if paddle_before is None else paddle[0] - paddle_before[0])
    if abs(away) < 2:
        return noop
    return up if away < 0 else down


def play_catch(frame: np.ndarray, before: np.ndarray, last: int) -> int:
    """Moves the green paddle below the white ball. Frames are uint8 [24,24,3]."""
    left, stay, right = range(3)
    ball, paddle = _centre(frame.min(-1) > 0), _centre(frame[-1:, :, 1] > 0)
    if ball is None or paddle is None or abs(ball[1] - paddle[1]) < 2:
        return stay
    return right if ball[1] > paddle[1] else left


def _centre(mask: np.ndarray) -> np.ndarray | None:
    """Row and column of the middle of what is seen; None if nothing is."""
    return np.argwhere(mask).mean(0) if mask.any() else None


PLAYERS = {
    "breakout": (play_breakout, RunConfig(game="Breakout")),
    "boxing": (play_boxing, RunConfig(game="Boxing", frame_size=48)),
    "pong": (play_pong, RunConfig(game="Pong")),
    "catch": (play_catch, RunConfig(env_id=ENV_ID, frame_size=24)),
}


def record(
    world: str, path: Path, steps: int, noise: Sequence[float] = (0.1,), seed: int = 0, hold: Sequence[int] = (1,)
) -> list[float]:
    """Plays whole games until so many steps are recorded. Returns their scores.

    Args:
        path: of the journal.
        noise: how often anything is done instead: a world model should have seen misses. Games take the values in turn.
        seed: of the games and the noise.
        hold: for how many steps the same is done instead, as a hand holds a key. Games take the values in turn.
    """
    play, cfg = PLAYERS[world]
    make_slot = domain_of(cfg).make_slot
    slot, rng, scores = make_slot(cfg), np.random.default_rng(seed), []
    with put_when_done(path) as temporary:
        replay = Replay.open(temporary, slot.frame.shape, capacity=steps + MOST_STEPS_OF_A_GAME, action=slot.action)
        while replay.num_steps < steps:
            frame, _ = slot.reset(seed + len(scores))
            before, act, over, held = frame, 0, False, 0
            odds, length = noise[len(scores) % len(noise)], hold[len(scores) % len(hold)]
            scores.append(0.0)
            while not over:
                if held > 0:
                    held -= 1
                elif rng.random() < odds:
                    act, held = int(rng.integers(slot.action.n)), length - 1
                else:
                    act = play(frame, before, act)
                slot.send(np.int64(act))
                step = slot.recv()
                over = step.terminated or step.truncated
                values = (frame, act, np.float32(step.reward), step.terminated, step.truncated, step.frame)
                replay.append(*(np.asarray(value)[None] for value in values))
                frame, before = step.frame.copy(), frame
                scores[-1] += step.reward
        replay.commit()
        replay.close()
    slot.close()
    return scores


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=list(PLAYERS))
    parser.add_argument("out", type=Path, help="the journal to write")
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1], help="how often anything is done instead")
    parser.add_argument("--hold", type=int, nargs="+", default=[1], help="for how many steps the same is done instead")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    scores = record(args.world, args.out, args.steps, args.noise, args.seed, args.hold)
    print(f"{len(scores)} games, score {np.mean(scores):.1f} on average, from {min(scores):g} to {max(scores):g}")


if __name__ == "__main__":
    main()
