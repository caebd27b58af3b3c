"""The three networks of one agent, under the names published checkpoints use."""

from torch import nn

from diamond_fast.config import RunConfig
from diamond_fast.models.actor_critic import ActorCritic
from diamond_fast.models.denoiser import Denoiser
from diamond_fast.models.reward_end import RewardEndModel


class Agent(nn.Module):
    """Denoiser, reward/end model and actor-critic, built from a run's settings.

    Raises:
        ValueError: a network's settings do not fit together; the message names the setting.
    """

    def __init__(self, cfg: RunConfig, num_actions: int):
        super().__init__()
        self.denoiser = Denoiser(cfg.denoiser, num_actions)
        self.rew_end_model = RewardEndModel(cfg.reward_end, num_actions, cfg.frame_size)
        self.actor_critic = ActorCritic(cfg.actor_critic, num_actions, cfg.frame_size)
