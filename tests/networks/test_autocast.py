"""What autocast, under which runs train on a GPU, may make coarser and what not; autocast on a CPU shows the same."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from worlds import world

from diamond_fast.config import (
    ActorCriticConfig,
    ActorCriticLossConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    SigmaDistributionConfig,
)
from diamond_fast.engine.denoiser_networks import FusedNetwork
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.recompute import play, recompute
from diamond_fast.engine.rollout import EnvStep, RolloutState
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss
from diamond_fast.networks.reward_end import model as reward_end_module
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.world_model import Denoiser

N, T, SIZE, ACTIONS = 3, 6, 8, 4
SMALL = {"depths": (1,), "channels": (8,), "attn_depths": (0,)}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
COARSE = (torch.float16, torch.bfloat16)


class Env:
    """Ends at random, with frames to burn in on."""

    num_envs = N

    def __init__(self, device):
        self.device = device

    def step(self, act):
        frames = torch.rand(N, 5, 3, SIZE, SIZE, device=self.device)
        dead = torch.rand(N, device=self.device) < 0.5
        return EnvStep(frames[:, 3], torch.ones(N, device=self.device), dead, ~dead, frames[:, 4], frames[:, :3])


def losses(device):
    """By name: a small model, and a function that computes its loss, for the policy with playing before."""
    torch.manual_seed(0)
    obs = torch.rand(N, T, 3, SIZE, SIZE, device=device) * 2 - 1
    act, rew = torch.randint(ACTIONS, (N, T), device=device), torch.ones(N, T, device=device)
    end, mask = (torch.zeros(N, T, dtype=torch.bool, device=device) for _ in range(2))

    denoiser = Denoiser(DenoiserConfig(InnerModelConfig(cond_channels=16, **SMALL)), world(ACTIONS)).to(device)
    reward_end = RewardEndModel(RewardEndConfig(lstm_dim=6, cond_channels=8, **SMALL), world(ACTIONS, SIZE)).to(device)
    policy = ActorCritic(ActorCriticConfig(lstm_dim=6, channels=(8,), down=(1,)), world(ACTIONS, SIZE)).to(device)

    def policy_loss():
        memory = torch.zeros(2, N, policy.lstm_dim, device=device)
        played, _ = play(Env(device), policy, RolloutState(obs[:, 0], *memory), num_steps=3, capacity=N)
        assert {x.dtype for x in played if x.is_floating_point()} == {torch.float32}
        r = recompute(policy, played)
        return actor_critic_loss(*r[4:6], *r[:4], r.val_bootstrap, ActorCriticLossConfig()).total

    return {
        "denoiser": (denoiser, lambda: denoiser.loss(obs, act, ~mask, SigmaDistributionConfig())),
        "reward_end": (reward_end, lambda: reward_end.loss(obs, act, rew, end, ~mask).total),
        "actor_critic": (policy, policy_loss),
    }


class Rounded(TorchDispatchMode):
    """Notes whose memory was cast to 16 bits."""

    def __init__(self):
        super().__init__()
        self.memory = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) and x.dtype in COARSE for x in tree_leaves(out)):
            inputs = (x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
            self.memory |= {x.untyped_storage().data_ptr() for x in inputs if x.dtype not in COARSE}
        return out


EXACT = ("lstm", "head", "actor_linear", "critic_linear", "noise_emb", "act_emb", "cond_proj")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["denoiser", "reward_end", "actor_critic"])
def test_convolutions_are_rounded_recurrence_heads_and_conditioning_are_not(name, device):
    model, loss = losses(device)[name]
    with Rounded() as rounded:
        with torch.autocast(device, torch.bfloat16):
            total = loss()
        total.backward()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    coarse = {name for name, x in tensors.items() if x.untyped_storage().data_ptr() in rounded.memory}
    convolutions = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions <= coarse
    assert not [name for name in coarse if name.split(".")[0 if name.startswith(EXACT) else 1].startswith(EXACT)]


def make_good_model():
    """A reward/end model with hardly any loss on a batch of the paper's size, and that batch."""
    torch.manual_seed(0)
    n, length, size = 32, 19, 4
    model = RewardEndModel(RewardEndConfig(lstm_dim=32, cond_channels=8, **SMALL), world(ACTIONS, size))
    model.encoder = FlatFeatures()
    obs, act = torch.rand(n, length, 3, size, size) * 2 - 1, torch.randint(ACTIONS, (n, length))
    with torch.no_grad():
        rew, end, _ = model.predict(obs, act, obs.roll(-1, dims=1))
    # what it finds likeliest is what happens
    batch = obs, act, rew.argmax(-1) - 1.0, end.argmax(-1).bool(), torch.ones(n, length, dtype=torch.bool)
    optimiser = torch.optim.Adam([*model.lstm.parameters(), *model.head.parameters()], lr=1e-2)
    for _ in range(1000):
        loss = model.loss(*batch).total
        if loss < 8e-5:
            return model, batch
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise AssertionError(f"the loss is still {loss}")


class FlatFeatures(nn.Module):
    """Exact whatever the dtype asked for, so that what is rounded is the rest."""

    def forward(self, x, cond):
        return torch.cat((x[:, :3], x[:, 3:], x[:, :2]), dim=1) * (1 + cond.mean(dim=1).view(-1, 1, 1, 1))


def gradient(model, batch, dtype=None):
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = model.loss(*batch).total
    loss.backward()
    return torch.cat([p.grad.double().flatten() for p in (*model.lstm.parameters(), *model.head.parameters())])


@torch.backends.mkldnn.flags(enabled=False)  # its LSTM knows no float16 on some processors
def test_gradients_of_a_good_reward_end_model_do_not_vanish(monkeypatch):
    """On a GPU autocast ran its LSTM in float16; autocast to float16 on a CPU shows what that did."""
    model, batch = make_good_model()
    obs, act, rew, end, mask = batch
    truth = gradient(model.double(), (obs.double(), act, rew.double(), end, mask))
    model.float()

    def error():
        return ((gradient(model, batch, torch.float16) - truth).norm() / truth.norm()).item()

    assert error() < 2e-3
    monkeypatch.setattr(reward_end_module, "outside_autocast", lambda device: torch.autocast("cpu", torch.float16))
    assert error() > 0.05, "float16 does no harm here, so this test shows nothing"


@torch.no_grad()
def test_training_is_told_the_noise_level_that_sampling_is_told():
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(InnerModelConfig(cond_channels=64, **SMALL)), world(ACTIONS))
    obs, act = torch.rand(N, 4 * 3, SIZE, SIZE), torch.randint(ACTIONS, (N, 4))
    sigma = torch.tensor([0.002, 0.3, 5.0])
    seen = []
    denoiser.inner_model.unet.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.autocast("cpu", torch.bfloat16):
        denoiser.denoise(obs[:, :3], sigma, obs, act)
    fast = FusedNetwork(denoiser.inner_model, torch.float32, Techniques(one_modulation=False))
    (cond, _), *_ = fast.conditioning(denoiser.formulation.condition(sigma)[None], act)
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], cond, rtol=1e-5, atol=1e-6)


def test_noise_features_are_those_of_the_published_formula():
    """In float64, on noise levels over the whole range, with autocast around."""
    torch.manual_seed(0)
    features = Denoiser(
        DenoiserConfig(InnerModelConfig(cond_channels=64, **SMALL)), world(ACTIONS)
    ).inner_model.noise_emb
    c_noise = torch.linspace(-1.6, 0.8, 50)
    phase = 2 * torch.pi * c_noise.double()[:, None] @ features.weight.double()
    with torch.autocast("cpu", torch.bfloat16):
        y = features(c_noise)
    torch.testing.assert_close(y.double(), torch.cat((phase.cos(), phase.sin()), dim=1), rtol=0, atol=1e-5)
