"""Training through the fused kernels against the readable models in float64: losses, and gradients of every weight."""

import copy

import pytest
import torch
from golden_vectors import denoiser
from torch import nn
from toys.pixelwise import PixelwiseConfig
from worlds import world

from diamond_fast.config import (
    ActorCriticConfig,
    ActorCriticLossConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    SigmaDistributionConfig,
)
from diamond_fast.engine import fused_torch
from diamond_fast.engine.fused_training import fused
from diamond_fast.engine.recompute import Played, recompute
from diamond_fast.formulations.edm import EDM
from diamond_fast.kernels import (
    ada_group_norm_silu,
    bias_residual_stats,
    edm_loss,
    edm_precondition_input,
    group_norm_silu,
    lstm_unroll,
)
from diamond_fast.kernels._triton import INTERPRETED
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import Denoiser

N = 2
NAMES = ["denoiser", "reward_end", "actor_critic"]


@pytest.fixture
def triton(monkeypatch):
    """``auto`` means Triton on the CPU too."""
    if not INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1; on a GPU the kernels run as they are")
    kernels = (ada_group_norm_silu, group_norm_silu, bias_residual_stats, edm_precondition_input, edm_loss, lstm_unroll)
    for module in (*kernels, fused_torch):
        monkeypatch.setattr(module, "use_triton", lambda impl, tensor: impl != "torch")


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.7 / p[0].numel() ** 0.5 if p.dim() > 1 else 0.3)
    return module.to(memory_format=torch.channels_last)


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(2)) / 255 * 2 - 1


class Case:
    """A model and its loss, computed in the model's type."""

    def __init__(self, name: str, height: int, width: int, levels: int = 2, steps: int = 2):
        n, size, spec = N, (3, height, width), Spec(Frame(height, width), Discrete(4))
        self.draws = torch.Generator()
        if name == "denoiser":
            cfg = InnerModelConfig(
                cond_channels=16, depths=(1, 1)[:levels], channels=(32, 64)[:levels], attn_depths=(0, 1)[:levels]
            )
            self.model = randomised(Denoiser(DenoiserConfig(cfg), world(4)))
            obs, act = frames(n, 6, *size)[:, : 4 + steps], (torch.arange(n * 6).view(n, 6) % 4)[:, : 4 + steps]
            mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])[:, : 4 + steps]
            self.loss = lambda m: m.loss(self.like(m, obs), act, mask, SigmaDistributionConfig(), self.randn(m))
        elif name == "reward_end":
            cfg = RewardEndConfig(lstm_dim=6, cond_channels=8, depths=(1, 1), channels=(32, 32), attn_depths=(0, 0))
            self.model = randomised(RewardEndModel(cfg, spec))
            obs, act = frames(n, 3, *size), torch.arange(n * 3).view(n, 3) % 4
            rew, end = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([[False, False, True]] * 2)
            mask = torch.tensor([[True] * 3, [True, False, False]])
            self.loss = lambda m: m.loss(self.like(m, obs), act, self.like(m, rew), end, mask).total
        else:
            cfg = ActorCriticConfig(lstm_dim=6, channels=(32, 64), down=(1, 1))
            self.model = randomised(ActorCritic(cfg, spec))
            self.loss = lambda m: policy_loss(m, size)

    def like(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x.to(next(model.parameters()).dtype)

    def randn(self, model: nn.Module):
        self.draws.manual_seed(1)
        return lambda *shape, device=None: self.like(model, torch.randn(*shape, generator=self.draws))


def policy_loss(policy: ActorCritic, size: tuple[int, int, int]) -> torch.Tensor:
    """Of three steps of two episodes, one of which begins anew behind the second."""
    dtype, flags = next(policy.parameters()).dtype, torch.zeros(N, 3, dtype=torch.bool)
    end = flags.clone()
    end[1, 1] = True
    g = torch.Generator().manual_seed(3)
    memory = [torch.randn(*s, 6, generator=g).to(dtype) for s in ((N,), (N,), (N, 3), (N, 3))]
    rew, values = (torch.randn(N, 3, generator=g).to(dtype) for _ in range(2))
    obs, burnin = frames(N, 3, *size).to(dtype), frames(1, 2, *size).to(dtype)
    act = torch.tensor([[0, 1, 2], [3, 0, 1]])
    played = Played(obs, act, rew, end, flags, values, *memory, burnin, torch.tensor([4]), torch.tensor(1))
    r = recompute(policy, played)
    return actor_critic_loss(
        r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap, ActorCriticLossConfig(backup_every=3)
    ).total


def backward(model: nn.Module, loss) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss, and the gradients of the model's weights."""
    value = loss.item()
    loss.backward()
    grads = {k: p.grad.double() for k, p in model.named_parameters()}
    model.zero_grad()
    return value, grads


def errors(case: Case, dtype: torch.dtype) -> tuple[float, dict[str, float]]:
    """Of the loss, and of every weight's gradient: norm of the error over the norm, or over a typical one's tenth."""
    truth = copy.deepcopy(case.model).double()
    expected, expected_grads = backward(truth, case.loss(truth))
    actual, grads = backward(case.model, case.loss(fused(case.model, dtype)))
    floor = torch.stack([g.norm() for g in expected_grads.values()]).median() * 0.1
    wrong = {k: ((grads[k] - g).norm() / torch.maximum(g.norm(), floor)).item() for k, g in expected_grads.items()}
    return abs(actual - expected) / abs(expected), wrong


@pytest.mark.parametrize("size", [(8, 8), (5, 7)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_float32(name, size):
    assert_exact(Case(name, *size))


def assert_exact(case: Case) -> None:
    of_loss, of_gradients = errors(case, torch.float32)
    assert of_loss < 1e-5
    assert max(of_gradients.values()) < 2e-5, of_gradients


def test_gradients_of_a_denoiser_through_the_kernels(triton):
    assert_exact(Case("denoiser", 3, 5, levels=1, steps=1))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 8), (5, 7)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_through_the_kernels(triton, name, size):
    assert_exact(Case(name, *size))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_bfloat16(name):
    """Rounded to 8 bits at every operation; max-pooling may pick another pixel. A wrong sum is off by far more."""
    of_loss, of_gradients = errors(Case(name, 16, 12), torch.bfloat16)
    assert of_loss < 5e-3
    assert max(of_gradients.values()) < (0.1 if name == "actor_critic" else 0.03), of_gradients


@pytest.mark.parametrize("name", NAMES)
def test_gradients_lie_as_the_weights_do(name):
    """Optimisers fall back to one launch a weight otherwise."""
    case = Case(name, 8, 8)
    case.loss(fused(case.model, torch.bfloat16)).backward()
    for key, p in case.model.named_parameters():
        assert (p.grad.dtype, p.grad.stride()) == (torch.float32, p.stride()), key


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_taken_as_they_are(name):
    case = Case(name, 8, 8)
    twin = fused(case.model, torch.float32)
    case.loss(twin)
    with torch.no_grad():
        for p in case.model.parameters():
            p.mul_(1.1)
    assert case.loss(twin).item() == pytest.approx(case.loss(case.model).item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_around_it_changes_nothing(name):
    case = Case(name, 8, 8)
    twin = fused(case.model, torch.float32)
    expected = backward(case.model, case.loss(twin))
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.loss(twin)
    actual = backward(case.model, loss)
    assert actual[0] == pytest.approx(expected[0], rel=1e-6)
    for key, grad in expected[1].items():
        torch.testing.assert_close(actual[1][key], grad, rtol=1e-4, atol=1e-6)


def test_gradients_of_several_losses_add_up():
    case = Case("denoiser", 8, 8)
    twin = fused(case.model, torch.float32)
    _, once = backward(case.model, case.loss(twin))
    case.loss(twin).backward()
    _, twice = backward(case.model, case.loss(twin))
    for key, grad in once.items():
        torch.testing.assert_close(twice[key], 2 * grad, rtol=1e-4, atol=1e-7)


class OwnEDM(EDM):
    """One that has no fused functions."""


def test_a_formulation_without_fused_functions_has_its_readable_loss():
    case = Case("denoiser", 5, 7)
    case.model.formulation = OwnEDM(case.model.cfg)
    assert_exact(case)


def test_denoising_takes_the_weights_too():
    case = Case("denoiser", 8, 8)
    twin = fused(case.model, torch.float32)
    arguments = (frames(N, 3, 8, 8), torch.tensor([0.5, 3.0]), frames(N, 12, 8, 8), torch.zeros(N, 4).long())
    torch.testing.assert_close(twin.denoise(*arguments), case.model.denoise(*arguments), rtol=0, atol=2.01 / 255)


def test_a_network_without_a_walk_stays_as_it_is():
    model = Denoiser(DenoiserConfig(PixelwiseConfig()), world(4))
    assert fused(model, torch.bfloat16) is model


@pytest.mark.parametrize("name", NAMES)
def test_copies_lie_as_tensor_cores_want_them(name):
    """Each at a multiple of 128 bytes, and convolutions' weights channels last; a padded one is a tensor of its own."""
    twin = fused(Case(name, 8, 8).model, torch.bfloat16)
    walk = twin._walk if name == "denoiser" else twin.encoder._walk
    walk.take()
    walk._weights.spread()
    start = walk._weights._memory.data_ptr()
    for place in walk._weights._places:
        value = getattr(*place)
        assert (value.data_ptr() - start) % 128 == 0 or place in walk._weights._padding
        assert value.dim() != 4 or value.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_gradients_of_the_papers_denoiser_in_bfloat16():
    """Of all weights together: as far off as autocast is, at most."""
    model = denoiser("paper").to(memory_format=torch.channels_last)
    obs, act, mask = frames(1, 6, 3, 64, 64), torch.arange(6).view(1, 6) % 4, torch.ones(1, 6, dtype=torch.bool)

    def gradient(trained, autocast=False):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = trained.loss(obs, act, mask, SigmaDistributionConfig())
        return torch.cat([g.flatten() for g in backward(model, loss)[1].values()])

    truth = gradient(model)
    error, coarse = (
        (gradient(*a) - truth).norm() / truth.norm() for a in ((fused(model, torch.bfloat16),), (model, True))
    )
    assert error < 1e-2
    assert error < 1.2 * coarse
