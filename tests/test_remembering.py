"""A denoiser that is told what a memory says, and the one loss of both, against a transcription in plain Python."""

import math
from functools import partial

import pytest
import torch

from diamond_fast.config import DenoiserConfig, InnerModelConfig
from diamond_fast.formulations.config import DDPMConfig, FlowConfig
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.unet.model import InnerModel
from diamond_fast.remembering import memory_loss, num_starts
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import Denoiser, DiffusionSampler

MEMORY = MemoryConfig(channels=(4,), down=(1,), action_width=3, width=6, layers=1, state=2, convolution=2)
SPEC = Spec(Frame(8, 8), Discrete(3), context=2, memory=MEMORY.width)
INNER = InnerModelConfig(num_steps_conditioning=2, cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,))
KINDS = {"edm": DenoiserConfig, "ddpm": DDPMConfig, "flow": FlowConfig}
N, L, PREDICTED = 3, 6, 2


def make(kind="edm", reward_head="sign", dtype=torch.float64):
    torch.manual_seed(0)
    denoiser = Denoiser(KINDS[kind](INNER), SPEC)
    for weight in denoiser.parameters():
        if not weight.any():  # as blocks begin, which pass on nothing of what they are told
            torch.nn.init.normal_(weight, std=0.3)
    memory = MemoryModel(MEMORY, "mamba", SPEC, reward_head)
    if memory.harmony is not None:
        torch.nn.init.normal_(memory.harmony)
    return denoiser.to(dtype), memory.to(dtype)


def batch(dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    obs = (torch.rand(N, L, 3, 8, 8, generator=g) * 2 - 1).to(dtype)
    act = torch.randint(3, (N, L), generator=g)
    rew = torch.randint(-1, 2, (N, L), generator=g).to(dtype)
    end = torch.rand(N, L, generator=g) < 0.3
    mask = torch.ones(N, L, dtype=torch.bool)
    mask[1, :3] = False
    return obs, act, rew, end, mask


def recorded(seed=2):
    """A source of random numbers that can be read again."""
    g = torch.Generator().manual_seed(seed)

    def randn(*shape, device=None):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return randn


@pytest.mark.parametrize("start", [0, 2])
def test_the_loss_is_its_transcription(start):
    """Frame by frame and sample by sample, with the numbers drawn in the order that EDM draws them, step after step."""
    denoiser, memory = make()
    obs, act, rew, end, mask = batch()
    cfg = denoiser.cfg
    levels = cfg.levels()
    where = torch.tensor([start])
    found = memory_loss(denoiser, memory, obs, act, rew, end, mask, where, PREDICTED, levels, recorded())

    randn = recorded()
    e, _ = memory(obs, act, mask)
    frames, per_step = [list(sample.unbind(0)) for sample in obs], []
    for target in range(start + 2, start + 2 + PREDICTED):
        sigmas = [
            min(max(math.exp(z * levels.scale + levels.loc), levels.sigma_min), levels.sigma_max)
            for z in randn(N).tolist()
        ]
        offset, white = 0.3 * randn(N, 3, 1, 1), randn(N, 3, 8, 8)
        errors = []
        for i, sigma in enumerate(sigmas):
            clean = obs[i, target]
            noisy = clean + offset[i] + sigma * white[i]
            level = math.sqrt(sigma**2 + 0.3**2)
            c_in, c_skip = 1 / math.sqrt(level**2 + 0.25), 0.25 / (level**2 + 0.25)
            c_out = level * math.sqrt(c_skip)
            past = torch.cat(frames[i][target - 2 : target])[None] / 0.5
            c_noise = torch.tensor([math.log(level) / 4], dtype=torch.float64)
            output = denoiser.inner_model(c_in * noisy[None], c_noise, past, e[i, target - 1][None])[0]
            if mask[i, target]:
                errors.append((output - (clean - c_skip * noisy) / c_out).square().mean())
            estimate = (c_skip * noisy + c_out * output).detach().clamp(-1, 1)
            frames[i][target] = ((estimate + 1) / 2 * 255).floor() / 255 * 2 - 1  # what it sees next, of 256 levels
        per_step.append(sum(errors) / len(errors))
    of_frames = sum(per_step) / len(per_step)

    logits_rew, logits_end = memory.classify(e)
    of_rew, of_end = [], []
    for i, t in mask.nonzero().tolist():
        of_rew.append(-logits_rew[i, t].log_softmax(0)[int(rew[i, t]) + 1])
        of_end.append(-logits_end[i, t].log_softmax(0)[int(end[i, t])])
    of_rew, of_end = sum(of_rew) / len(of_rew), sum(of_end) / len(of_end)
    s1, s2 = memory.harmony.tolist()
    total = math.exp(-s1) * of_rew + math.exp(-s2) * of_frames + of_end
    total = total + math.log(math.exp(s1) + 1) + math.log(math.exp(s2) + 1)

    assert found.denoiser.item() == pytest.approx(of_frames.item(), rel=1e-6)
    assert found.total.item() == pytest.approx(total.item(), rel=1e-6)
    weights = [p for p in (*denoiser.parameters(), *memory.parameters()) if p is not memory.harmony]
    for own, expected in zip(
        torch.autograd.grad(found.total, weights), torch.autograd.grad(total, weights), strict=True
    ):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-8)


def test_the_weights_of_the_losses_learn():
    """d/ds of exp(-s) loss + log(exp(s) + 1)."""
    denoiser, memory = make()
    obs, act, rew, end, mask = batch()
    loss = memory_loss(denoiser, memory, obs, act, rew, end, mask, torch.tensor([1]), PREDICTED, denoiser.cfg.levels())
    (grad,) = torch.autograd.grad(loss.total, [memory.harmony])
    for slope, s, part in zip(grad.tolist(), memory.harmony.tolist(), (loss.heads.reward, loss.denoiser), strict=True):
        assert slope == pytest.approx(-math.exp(-s) * part.item() + 1 / (1 + math.exp(-s)), rel=1e-6)


def test_steps_without_a_target_are_left_out():
    """The last frame is padding everywhere: the loss is that of the other predicted one."""
    denoiser, memory = make(reward_head=None)
    obs, act, rew, end, mask = batch()
    mask[:, -1] = False
    both = memory_loss(
        denoiser, memory, obs, act, rew, end, mask, torch.tensor([2]), 2, denoiser.cfg.levels(), recorded()
    )
    one = memory_loss(
        denoiser, memory, obs, act, rew, end, mask, torch.tensor([2]), 1, denoiser.cfg.levels(), recorded()
    )
    assert both.heads is None
    assert both.total is both.denoiser
    assert both.total.item() == pytest.approx(one.total.item(), rel=1e-9)
    mask[:] = False
    nothing = memory_loss(denoiser, memory, obs, act, rew, end, mask, torch.tensor([2]), 2, denoiser.cfg.levels())
    assert nothing.total.item() == 0


def test_starts_that_there_are():
    assert num_starts(19, 4, 2) == 14  # the published sequences: from 0 to 13
    assert num_starts(6, 4, 2) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_formulation_is_told(kind):
    """What the memory says changes loss and frame; the actions beside it do not."""
    denoiser, memory = make(kind, dtype=torch.float32)
    obs, act, rew, end, mask = batch(torch.float32)
    loss = memory_loss(denoiser, memory, obs, act, rew, end, mask, torch.tensor([0]), 1, denoiser.cfg.levels())
    loss.denoiser.backward()
    learns = {name for name, p in memory.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {name for name, _ in memory.named_parameters()} - learns == {
        "harmony",
        "head.0.weight",
        "head.0.bias",
        "head.2.weight",
    }

    sampler = DiffusionSampler(denoiser, denoiser.cfg.steps(num_steps=2))

    def frame(e, act):
        return sampler.sample(obs[:, :2], act, partial(torch.randn, generator=torch.Generator().manual_seed(0)), e)[0]

    e = torch.randn(N, MEMORY.width)
    assert torch.equal(frame(e, act[:, :2]), frame(e, (act[:, :2] + 1) % 3))
    assert not torch.equal(frame(e, act[:, :2]), frame(-e, act[:, :2]))
    level = torch.full((N,), 0.5)
    one = denoiser.denoise(obs[:, 2], level, obs[:, :2].flatten(1, 2), act[:, :2], memory=e)
    assert not torch.equal(one, denoiser.denoise(obs[:, 2], level, obs[:, :2].flatten(1, 2), act[:, :2], memory=-e))


def test_a_memory_that_is_not_there():
    denoiser, _ = make(dtype=torch.float32)
    obs, act, *_ = batch(torch.float32)
    sampler = DiffusionSampler(denoiser, denoiser.cfg.steps())
    with pytest.raises(ValueError, match=r"memory: this denoiser is told what a memory says, \[3, 6\]; got None"):
        sampler.sample(obs[:, :2], act[:, :2])
    with pytest.raises(ValueError, match=r"memory: expected shape \[3, 6\], got \[3, 5\]"):
        sampler.sample(obs[:, :2], act[:, :2], memory=torch.zeros(3, 5))
    plain = DiffusionSampler(Denoiser(DenoiserConfig(INNER), Spec(Frame(8, 8), Discrete(3), 2)), denoiser.cfg.steps())
    with pytest.raises(ValueError, match="memory: this denoiser knows none"):
        plain.sample(obs[:, :2], act[:, :2], memory=torch.zeros(3, 6))


def test_bare_weights_say_that_there_is_a_memory():
    denoiser, _ = make()
    network = InnerModel.like(denoiser.inner_model.state_dict())
    assert network.spec.memory == MEMORY.width
    assert network.memory_emb.weight.shape == (8, 6)
    assert network.act_emb is None
