"""The actor-critic update on what was played: gradients kept through the rollout (the twin), and computed anew.

    pytest benchmarks/test_recompute.py --benchmark-only

The paper's policy plays 15 steps with the frames and ends an imagined environment would give, at no cost: each
episode is truncated once, one in ten ends before. A GPU takes the second way, a CPU the first.
"""

import pytest
import torch
from measuring import only_on_gpu
from workloads import NUM_ACTIONS

from diamond_fast.engine.recompute import play, recompute, usual_capacity
from diamond_fast.engine.rollout import EnvStep, RolloutState, rollout
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss
from diamond_fast.spec import Discrete

BURN_IN = 3


class Frames:
    """The same few frames over and over; every episode is truncated at a step of its own, and a few end earlier."""

    def __init__(self, num_envs: int, num_steps: int, size: int, device: torch.device):
        self.num_envs, self.num_steps = num_envs, num_steps
        self.frames = torch.rand(num_envs, BURN_IN + 2, 3, size, size, device=device) * 2 - 1
        step = torch.randint(num_steps, (num_envs,), device=device)
        self.trunc = torch.nn.functional.one_hot(step, num_steps).bool()
        self.end = torch.rand(num_envs, num_steps, device=device) < 0.1 / num_steps
        self.rew = torch.randint(-1, 2, (num_envs, num_steps), device=device).float()
        self.t = 0

    def step(self, act: torch.Tensor) -> EnvStep:
        t, self.t = self.t, (self.t + 1) % self.num_steps
        f = self.frames
        return EnvStep(f[:, -2], self.rew[:, t], self.end[:, t], self.trunc[:, t], f[:, -1], f[:, :BURN_IN])


@pytest.mark.parametrize("batch", [8, only_on_gpu(32, "ten seconds a call on a CPU")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_update_from_played_steps(measure, device, cfg, batch, precision):
    policy = ActorCritic(cfg.actor_critic, cfg.spec(Discrete(NUM_ACTIONS)))
    policy.to(device, memory_format=torch.channels_last)
    steps = cfg.actor_critic_loss.backup_every
    env = Frames(batch, steps, cfg.frame_size, device)
    state = RolloutState(env.frames[:, 0], *torch.zeros(2, batch, policy.lstm_dim, device=device))

    def kept():
        return rollout(env, policy, state, steps)[0]

    def anew():
        return recompute(policy, play(env, policy, state, steps, usual_capacity(batch, steps, steps))[0])

    def updating(way):
        def update():
            policy.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                r = way()
                loss = actor_critic_loss(
                    r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap, cfg.actor_critic_loss
                )
            loss.total.backward()

        return update

    turns = measure.take_turns({"computed anew": updating(anew), "gradients kept": updating(kept)})
    measure.row("policy from played steps", {"batch": batch, "precision": precision}, turns, "computed anew")
