"""How the published project uses its sampler, written down anew from what its environment does.

It keeps the last frames and actions of every episode, asks the sampler for the next frame and the reward/end model for
what that brought, starts episodes anew that ended, and finds its device by ``sampler.denoiser.device``.
"""

from types import SimpleNamespace

import torch
from torch import nn

SIZE, CONTEXT, ACTIONS = 32, 4, 6

SAMPLER_SETTINGS = SimpleNamespace(
    num_steps_denoising=3, sigma_min=2e-3, sigma_max=5.0, rho=7, order=1,
    s_churn=0.0, s_tmin=0.0, s_tmax=float("inf"), s_noise=1.0,
)  # fmt: skip


class PublishedDenoiser(nn.Module):
    """A denoiser as another project holds it: other classes, the same names of weights."""

    def __init__(self, twin):
        super().__init__()
        self.cfg = SimpleNamespace(sigma_data=0.5, sigma_offset_noise=0.3, inner_model=SimpleNamespace())
        self.inner_model = nn.Module()
        for name, module in twin.inner_model.named_children():
            setattr(self.inner_model, name, module)

    @property
    def device(self):
        return self.inner_model.noise_emb.weight.device


class PublishedEnvironment:
    """``num_envs`` imagined episodes. ``reward_end`` is ours, which predicts as the published one does."""

    def __init__(self, make_sampler, denoiser, reward_end, num_envs=3, horizon=3):
        self.sampler = make_sampler(denoiser, SAMPLER_SETTINGS)
        self.reward_end, self.num_envs, self.horizon = reward_end, num_envs, horizon
        self.generator = torch.Generator().manual_seed(0)

    @property
    def device(self):
        return self.sampler.denoiser.device

    def fresh(self, n):
        obs = torch.randint(256, (n, CONTEXT, 3, SIZE, SIZE), generator=self.generator) / 255 * 2 - 1
        act = torch.randint(ACTIONS, (n, CONTEXT), generator=self.generator)
        obs, act = obs.to(self.device), act.to(self.device)
        *_, memory = self.reward_end.predict(obs[:, :-1], act[:, :-1], obs[:, 1:])
        return obs, act, memory

    @torch.no_grad()
    def reset(self):
        self.obs, self.act, (self.hx, self.cx) = self.fresh(self.num_envs)
        self.length = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return self.obs[:, -1]

    @torch.no_grad()
    def step(self, act):
        self.act[:, -1] = act
        next_obs, _ = self.predict_next_obs()
        rew, end = self.predict_rew_end(next_obs.unsqueeze(1))
        self.length += 1
        dead = end.bool() | (self.length >= self.horizon)
        self.obs, self.act = self.obs.roll(-1, dims=1), self.act.roll(-1, dims=1)
        self.obs[:, -1] = next_obs
        if dead.any():
            obs, act, (hx, cx) = self.fresh(int(dead.sum()))
            self.obs[dead], self.act[dead], self.hx[:, dead], self.cx[:, dead] = obs, act, hx, cx
            self.length[dead] = 0
        return next_obs, rew, end

    @torch.no_grad()
    def predict_next_obs(self):
        return self.sampler.sample(self.obs, self.act)

    @torch.no_grad()
    def predict_rew_end(self, next_obs):
        rew, end, (self.hx, self.cx) = self.reward_end.predict(
            self.obs[:, -1:], self.act[:, -1:], next_obs, (self.hx, self.cx)
        )
        return rew.argmax(-1).squeeze(1) - 1.0, end.argmax(-1).squeeze(1)
