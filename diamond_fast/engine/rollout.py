"""Rollouts of the recurrent policy in a batched environment, as a function of an explicit state (paper, appendix D).

Gradients flow through the whole rollout, burn-in after resets included, but never into the rollout before it.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from diamond_fast.networks.actor_critic.distributions import ActionDistribution
from diamond_fast.networks.actor_critic.model import ActorCritic


class EnvStep(NamedTuple):
    """What one step of N environments gives. Episodes that ended have already been reset."""

    obs: Tensor  # [N,C,H,W] in [-1, 1]: the frame to act on next
    rew: Tensor  # [N] float
    end: Tensor  # [N] bool
    trunc: Tensor  # [N] bool
    final_obs: Tensor  # [N,C,H,W] the frame the action led to; equals obs if no episode ended
    burnin_obs: Tensor | None  # [N,B,C,H,W] frames before obs, for the policy's memory after a reset; None: none


class BatchedEnv(Protocol):
    """An environment on the policy's device."""

    num_envs: int

    def reset(self) -> Tensor:
        """Starts every episode anew. Returns the first frames [N,C,H,W]."""

    def step(self, act: Tensor) -> EnvStep:
        """act [N,...], of the world's kind."""

    def begin_epoch(self) -> None:
        """Called before an epoch of training."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RolloutState(NamedTuple):
    """What a rollout continues from: the frames to act on [N,C,H,W] and the policy's LSTM state, each [N,D]."""

    obs: Tensor
    hx: Tensor
    cx: Tensor


class Rollout(NamedTuple):
    """T steps of N environments, batch first. Gradients flow from logits and values to the policy."""

    act: Tensor  # [N,T,...] as the policy drew them: those of a Box are not squashed yet
    rew: Tensor  # [N,T] float
    end: Tensor  # [N,T] bool
    trunc: Tensor  # [N,T] bool
    logits: Tensor  # [N,T,A] the policy's outputs
    val: Tensor  # [N,T]
    val_bootstrap: Tensor  # [N,T] value of the state each step led to, without gradient


def initial_state(env: BatchedEnv, policy: ActorCritic) -> RolloutState:
    """Resets the environment and the policy's memory."""
    obs = env.reset()
    zeros = torch.zeros(env.num_envs, policy.lstm_dim, device=obs.device)
    return RolloutState(obs, zeros, zeros)


def draw_actions(distribution: ActionDistribution, outputs: Tensor) -> Tensor:
    """What a policy draws with these outputs [N,A], [N,...]."""
    return distribution.draw(outputs)


def rollout(env: BatchedEnv, policy: ActorCritic, state: RolloutState, num_steps: int) -> tuple[Rollout, RolloutState]:
    """Plays ``num_steps`` steps with actions drawn from the policy.

    Where an episode ends, its value is bootstrapped on the true final frame with the memory before the reset; then
    the memory is zeroed and burned in on the frames that precede the new episode's first one.
    """
    obs, hx, cx = state.obs, state.hx.detach(), state.cx.detach()
    steps, logits, vals, vals_final = [], [], [], []
    acts = []
    for _ in range(num_steps):
        step_logits, val, (hx, cx) = policy.predict_act_value(obs, (hx, cx))
        act = draw_actions(policy.distribution, step_logits)
        step = env.step(policy.distribution.action(act))

        val_final = torch.zeros_like(val)
        dead = (step.end | step.trunc).nonzero().flatten()
        if dead.numel():
            with torch.no_grad():
                val_final[dead] = policy.predict_act_value(step.final_obs[dead], (hx[dead], cx[dead]))[1]
            hx_new, cx_new = torch.zeros_like(hx[dead]), torch.zeros_like(cx[dead])
            if step.burnin_obs is not None:
                for burnin_obs in step.burnin_obs[dead].unbind(1):
                    _, _, (hx_new, cx_new) = policy.predict_act_value(burnin_obs, (hx_new, cx_new))
            hx, cx = hx.index_copy(0, dead, hx_new), cx.index_copy(0, dead, cx_new)

        obs = step.obs
        acts.append(act)
        steps.append(step)
        logits.append(step_logits)
        vals.append(val)
        vals_final.append(val_final)

    with torch.no_grad():
        _, val_next, _ = policy.predict_act_value(obs, (hx, cx))
    vals_next = torch.stack([*vals[1:], val_next], dim=1).detach()
    end = torch.stack([s.end for s in steps], dim=1)
    trunc = torch.stack([s.trunc for s in steps], dim=1)
    return (
        Rollout(
            act=torch.stack(acts, dim=1),
            rew=torch.stack([s.rew for s in steps], dim=1),
            end=end,
            trunc=trunc,
            logits=torch.stack(logits, dim=1),
            val=torch.stack(vals, dim=1),
            val_bootstrap=torch.where(end | trunc, torch.stack(vals_final, dim=1), vals_next),
        ),
        RolloutState(obs, hx.detach(), cx.detach()),
    )
