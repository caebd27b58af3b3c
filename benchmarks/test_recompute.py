"""The actor-critic update on what was played: gradients kept through the rollout (the twin), and computed anew.

    pytest benchmarks/test_recompute.py --benchmark-json=recompute.json

The paper's policy plays 15 steps with the frames and ends an imagined environment would give, at no cost: each
episode is truncated once, one in ten ends before. Both ways take turns in one process; ``extra_info`` holds the best
turn of each in seconds and their ratio, so that what else the machine does shows least.
"""

import time

import pytest
import torch

from diamond_fast.config import ActorCriticConfig, ActorCriticLossConfig
from diamond_fast.engine.recompute import play, recompute, usual_capacity
from diamond_fast.engine.rollout import EnvStep, RolloutState, rollout
from diamond_fast.models.actor_critic import ActorCritic, actor_critic_loss

STEPS, BURN_IN, ACTIONS = 15, 3, 18


class Frames:
    """The same few frames over and over; every episode is truncated at a step of its own, and a few end earlier."""

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self.frames = torch.rand(num_envs, BURN_IN + 2, 3, 64, 64) * 2 - 1
        step = torch.randint(STEPS, (num_envs,))
        self.trunc = torch.nn.functional.one_hot(step, STEPS).bool()
        self.end = torch.rand(num_envs, STEPS) < 0.1 / STEPS
        self.rew = torch.randint(-1, 2, (num_envs, STEPS)).float()
        self.t = 0

    def step(self, act: torch.Tensor) -> EnvStep:
        t, self.t = self.t, (self.t + 1) % STEPS
        f = self.frames
        return EnvStep(f[:, -2], self.rew[:, t], self.end[:, t], self.trunc[:, t], f[:, -1], f[:, :BURN_IN])


def kept(env, policy, state):
    return rollout(env, policy, state, STEPS)[0]


def anew(env, policy, state):
    return recompute(policy, play(env, policy, state, STEPS, usual_capacity(env.num_envs, STEPS, STEPS))[0])


@pytest.mark.parametrize("batch_size", [8, 32])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_update_from_played_steps(benchmark, batch_size, precision):
    torch.manual_seed(0)
    policy = ActorCritic(ActorCriticConfig(), ACTIONS, 64).to(memory_format=torch.channels_last)
    env = Frames(batch_size)
    state = RolloutState(env.frames[:, 0], *torch.zeros(2, batch_size, policy.lstm_dim))

    def update(way) -> float:
        started = time.perf_counter()
        policy.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            r = way(env, policy, state)
            loss = actor_critic_loss(
                r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap, ActorCriticLossConfig()
            )
        loss.total.backward()
        return time.perf_counter() - started

    turns = {kept: [], anew: []}

    def one_round():
        for way, seconds in turns.items():
            seconds.append(update(way))

    benchmark.pedantic(one_round, rounds=5, warmup_rounds=1)
    best = {way.__name__: min(seconds[1:]) for way, seconds in turns.items()}
    benchmark.extra_info.update(seconds=best, ratio=best["kept"] / best["anew"])
