"""Policy and value network, lambda-returns and the actor-critic loss (paper, appendices C and D)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.arguments import check_tensor
from diamond_fast.networks.actor_critic import walk
from diamond_fast.networks.actor_critic.config import ActorCriticConfig, ActorCriticLossConfig
from diamond_fast.networks.actor_critic.distributions import ActionDistribution, Categorical, distribution_of
from diamond_fast.networks.backend import Backend, Value
from diamond_fast.networks.blocks import SmallResBlock, conv3x3, init_lstm
from diamond_fast.networks.exact import at_least_float32, outside_autocast
from diamond_fast.spec import Spec, as_spec


class ActorCriticEncoder(nn.Module):
    """Small residual blocks, each level followed by 2x2 max-pooling if asked. [N,C,H,W] -> [N,C',H',W']."""

    def __init__(self, cfg: ActorCriticConfig, img_channels: int):
        super().__init__()
        if len(cfg.channels) != len(cfg.down):
            raise ValueError(f"channels, down: need one entry per level each, got {cfg.channels}, {cfg.down}")
        layers: list[nn.Module] = [conv3x3(img_channels, cfg.channels[0])]
        for c_above, c, down in zip((cfg.channels[0], *cfg.channels), cfg.channels, cfg.down, strict=False):
            layers.append(SmallResBlock(c_above, c))
            if down:
                layers.append(nn.MaxPool2d(2))
        self.encoder = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def walk(self, backend: Backend[Value], x: Value) -> Value:
        """The same as fused operations; x is a frame."""
        return walk.actor_critic_encoder(backend, self, x)


class ActorCritic(nn.Module):
    """Recurrent policy and value with a shared body. Both heads start at zero: a uniform policy, a value of 0.

    Numbers to choose (a ``Box``) begin as tanh of N(0, 1), which is nearly uniform.

    Args:
        num_actions: the world; a number stands for as many discrete actions, with square frames of ``frame_size``.

    Raises:
        ValueError: no policy can choose such actions.
    """

    def __init__(self, cfg: ActorCriticConfig, num_actions: Spec | int, frame_size: int = 64):
        super().__init__()
        spec = as_spec(num_actions, frame_size, cfg.img_channels)
        self.lstm_dim = cfg.lstm_dim
        self.spec = spec
        self.distribution = distribution_of(spec.action)
        self.encoder = ActorCriticEncoder(cfg, spec.frame.channels)
        halvings = sum(cfg.down)
        height, width = spec.frame.height >> halvings, spec.frame.width >> halvings
        self.lstm = nn.LSTMCell(cfg.channels[-1] * height * width, cfg.lstm_dim)
        self.critic_linear = nn.Linear(cfg.lstm_dim, 1)
        self.actor_linear = nn.Linear(cfg.lstm_dim, self.distribution.num_outputs)
        for head in (self.critic_linear, self.actor_linear):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        init_lstm(self.lstm)

    @property
    def device(self) -> torch.device:
        return self.lstm.weight_hh.device

    @property
    def num_actions(self) -> int:
        return self.spec.action.n

    def predict_act_value(
        self, obs: Tensor, hx_cx: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """
        Args:
            obs: [N,C,H,W] in [-1, 1].
            hx_cx: LSTM state, each [N,D].

        Returns:
            logits [N,A] or what else ``distribution`` takes, values [N], the LSTM's new state.

        Raises:
            TypeError, ValueError: an argument is not of that kind, shape or range; the message names it.
        """
        frame = self.spec.frame
        check_tensor("obs", obs, (None, frame.channels, frame.height, frame.width), self.actor_linear.weight)
        for state in hx_cx:
            check_tensor("hx_cx", state, (obs.size(0), self.lstm_dim), self.actor_linear.weight)
        x, dtype = self.encoder(obs).flatten(1), self.lstm.weight_hh.dtype
        with outside_autocast(self.device):
            hx, cx = self.lstm(x.to(dtype), tuple(state.to(dtype) for state in hx_cx))
            logits, val = self.actor_linear(hx), self.critic_linear(hx).squeeze(1)
        return at_least_float32(logits), at_least_float32(val), (hx, cx)


@torch.no_grad()
def lambda_returns(
    rew: Tensor,
    end: Tensor,
    trunc: Tensor,
    val_bootstrap: Tensor,
    gamma: float,
    lambda_: float,
    signs: bool = True,
) -> Tensor:
    """lambda-returns of clipped rewards (paper, equation 14), computed backwards over a rollout.

    R_t = sign(r_t) + gamma * [ (1 - lambda) V_t+1 + lambda R_t+1 ], where an end cuts everything behind it, and
    a truncation puts V_t+1 in place of the bracket. Behind the last step, R is V.

    Args:
        rew, val_bootstrap: [N,T] float; val_bootstrap[:, t] is the value of the state step t led to.
        end, trunc: [N,T] bool.
        signs: False takes rewards as they are, without their sign.

    Returns:
        [N,T] float.
    """
    not_end = (~end.bool()).to(rew.dtype)
    truncated = trunc.to(rew.dtype)
    returns = (rew.sign() if signs else rew) + not_end * gamma * (
        (1 - truncated) * (1 - lambda_) + truncated
    ) * val_bootstrap
    goes_on = not_end * (1 - truncated)
    following = val_bootstrap[:, -1]
    for t in reversed(range(rew.size(1))):
        returns[:, t] += goes_on[:, t] * gamma * lambda_ * following
        following = returns[:, t]
    return returns


class ActorCriticLoss(NamedTuple):
    """Loss terms and the policy's entropy, all scalars."""

    total: Tensor
    actions: Tensor
    values: Tensor
    entropy: Tensor
    policy_entropy_bits: Tensor


def actor_critic_loss(
    logits: Tensor,
    val: Tensor,
    act: Tensor,
    rew: Tensor,
    end: Tensor,
    trunc: Tensor,
    val_bootstrap: Tensor,
    cfg: ActorCriticLossConfig,
    distribution: ActionDistribution | None = None,
    signs: bool = True,
) -> ActorCriticLoss:
    """REINFORCE with the value as baseline, value regression on lambda-returns, entropy bonus (appendix D).

    Args:
        logits: [N,T,A], the policy's outputs. act: [N,T,...], as ``distribution`` drew them.
        val, rew, val_bootstrap: [N,T]. end, trunc: [N,T] bool.
        distribution: the policy's. Categorical if None.
        signs: only the signs of rewards count.
    """
    returns = lambda_returns(rew, end, trunc, val_bootstrap, cfg.gamma, cfg.lambda_, signs)
    distribution = distribution or Categorical(logits.size(-1))
    log_prob_act, entropies = distribution.log_prob_and_entropy(logits, act)
    entropy = entropies.mean()

    advantages = (returns - val).detach()
    if cfg.normalise_advantages:
        advantages = (advantages - advantages.mean()) / advantages.std(correction=0).clamp(min=1)
    loss_actions = (-log_prob_act * advantages).mean()
    loss_values = cfg.weight_value_loss * F.mse_loss(val, returns)
    loss_entropy = -cfg.weight_entropy_loss * entropy
    return ActorCriticLoss(
        loss_actions + loss_values + loss_entropy,
        loss_actions.detach(),
        loss_values.detach(),
        loss_entropy.detach(),
        entropy.detach() / math.log(2),
    )
