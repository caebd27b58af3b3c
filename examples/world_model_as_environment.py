"""The world model as an environment for another library: here a wrapper of Gymnasium's, and a player that guesses.

python examples/world_model_as_environment.py                       # random weights, random frames
python examples/world_model_as_environment.py runs/Catch-v0-...     # a run's agent and experience

Anything that takes a ``gymnasium.vector.VectorEnv`` can train in it.
"""

import sys
from pathlib import Path

import numpy as np
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from diamond_fast import Agent, Replay, WorldModelEnv
from diamond_fast.presets import PRESETS


def of_run(folder: Path) -> tuple[Agent, Replay]:
    from diamond_fast.runs.agents import load_agent

    return load_agent(folder).agent, Replay.load(folder / "replay" / "journal")


def at_random() -> tuple[Agent, Replay]:
    cfg = PRESETS["catch"]
    replay, rng = Replay(cfg.frame_shape, capacity=64), np.random.default_rng(0)
    for t in range(40):
        frame, last = rng.integers(256, size=(2, 1, *cfg.frame_shape), dtype=np.uint8)
        end = np.array([t % 20 == 19])
        replay.append(frame, rng.integers(3, size=1), np.zeros(1, np.float32), end, np.array([False]), last)
    replay.commit()
    return Agent(cfg, num_actions=3), replay


def main(run: str | None = None, num_envs: int = 4, steps: int = 40) -> list[float]:
    """Plays, prints and returns the returns of the episodes that ended."""
    agent, replay = at_random() if run is None else of_run(Path(run))
    env = RecordEpisodeStatistics(WorldModelEnv(agent.requires_grad_(False), replay, num_envs=num_envs))
    env.reset(seed=0)
    env.action_space.seed(0)
    returns: list[float] = []
    for _ in range(steps):
        obs, _, _, _, info = env.step(env.action_space.sample())
        if "episode" in info:
            returns += info["episode"]["r"][info["_episode"]].tolist()
    print(f"{len(returns)} imagined episodes ended, mean return {np.mean(returns):.2f}; frames {obs.shape} {obs.dtype}")
    return returns


if __name__ == "__main__":
    main(*sys.argv[1:2])
