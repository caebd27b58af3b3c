"""Returns in real games: a fixed number of full games, none of them favoured."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diamond_fast.config import RunConfig
from diamond_fast.envs.acting import Player, Policy
from diamond_fast.envs.real import RealEnv
from diamond_fast.evaluation.intervals import ci95
from diamond_fast.replay import Replay


@dataclass(frozen=True)
class Evaluation:
    """Scores of the games of one evaluation, in the order they were dealt out."""

    returns: np.ndarray
    """float64 [E]: sum of rewards of each game."""
    lengths: np.ndarray
    """int64 [E]: its steps."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns (n - 1 in the denominator); nan for a single game."""
        return float(self.returns.std(ddof=1)) if len(self.returns) > 1 else math.nan

    @property
    def ci95(self) -> float:
        """The 95 % interval of the mean is mean +- this (Student's t); nan for a single game."""
        return float(ci95(self.returns))

    def __str__(self) -> str:
        """The mean and, of several games, its 95 % interval."""
        if len(self.returns) == 1:
            return f"{self.mean:.1f} (1 episode)"
        return f"{self.mean:.1f} +- {self.ci95:.1f} (95 % interval, {len(self.returns)} episodes)"


def evaluate(
    policy: Policy | None,
    env: RealEnv,
    num_episodes: int,
    seed: int,
    index: int = 0,
    replay: Replay | None = None,
    advance: Callable[[int], None] = lambda games: None,
    num_stored: int | None = None,
) -> Evaluation:
    """Play full games without random actions, at temperature 1.

    Games are dealt out beforehand: environment i of n plays games i, i + n, i + 2n, ... and then stands still. Taking
    whichever games end first would favour short ones, which often are the lost ones.

    Args:
        policy: draws the actions; None: all are random.
        env: real environments whose episodes are full games; they are reset.
        num_episodes: games to play, E.
        seed: of the run.
        index: of this evaluation in the run. Seed and index determine every random number.
        replay: stores the games one after the other as they end, if given.
        advance: told how many games have ended, whenever some do.
        num_stored: only the first so many games dealt out are stored; all if None.

    Raises:
        ValueError: there is no game to play, or a lost life ends an episode of the environments, or the replay buffer
            was made for more than one environment.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes: expected at least 1, got {num_episodes}")
    if env.done_on_life_loss:
        raise ValueError("env: expected full games, got environments made with done_on_life_loss=True")
    if replay is not None and replay.num_envs != 1:
        raise ValueError(f"replay: expected one made for num_envs=1, got {replay.num_envs}")
    game_seed, action_seed = np.random.SeedSequence((seed, index)).generate_state(2).tolist()
    player = Player(env.num_envs, action_seed, env.action)
    num_stored = num_episodes if num_stored is None else num_stored
    returns = np.zeros(num_episodes, np.float64)
    lengths = np.zeros(num_episodes, np.int64)
    games = np.arange(env.num_envs)  # the game each environment plays
    recordings: list[list[tuple[np.ndarray, ...]]] = [[] for _ in games]
    obs, _ = env.reset(seed=game_seed)
    env.active[:] = games < num_episodes
    try:
        while env.active.any():
            playing = np.flatnonzero(env.active)
            act = player.act(policy, obs)
            next_obs, rew, end, trunc, info = env.step(act)
            returns[games[playing]] += rew[playing]
            lengths[games[playing]] += 1
            if replay is not None:
                for i in playing[games[playing] < num_stored]:
                    arrays = obs, act, rew, end, trunc, info["final_obs"]
                    recordings[i].append(tuple(array[i : i + 1] for array in arrays))
            ended = end | trunc
            if ended.any():
                if replay is not None:
                    for i in np.flatnonzero(ended):
                        for step in recordings[i]:
                            replay.append(*step)
                        recordings[i].clear()
                games[ended] += env.num_envs
                env.active[:] = games < num_episodes
                player.forget(ended)
                advance(int(ended.sum()))
            obs = next_obs
    finally:
        env.active[:] = True
    if replay is not None:
        replay.commit()
    return Evaluation(returns, lengths)


def about_cut_games(result: Evaluation, cfg: RunConfig) -> str | None:
    """A line on games that were cut short, whose returns say less; None if all have ended."""
    most = cfg.evaluation.max_steps
    cut = int((result.lengths >= most).sum())
    if not cut:
        return None
    return f"{cfg.name}: {cut} of {len(result.lengths)} games had not ended after {most} steps and were cut short."
