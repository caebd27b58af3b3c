"""What policies draw, and how likely it was, against torch.distributions and plain sums in float64."""

import math

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda, no_host_traffic
from torch import distributions as td

from diamond_fast.config import ActorCriticConfig, ActorCriticLossConfig
from diamond_fast.networks.actor_critic.distributions import (
    MOST_LOG_STD,
    MOST_MEAN,
    Bernoullis,
    Categorical,
    SquashedGaussian,
    distribution_of,
)
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss, lambda_returns
from diamond_fast.spec import Box, Discrete, Frame, Mixed, MultiBinary, Spec

N, T, SIZE = 3, 4, 3
KINDS = [Discrete(SIZE), MultiBinary(SIZE), Box(SIZE)]
IDS = [action.kind for action in KINDS]
MIXED = Mixed(parts=(("keys", MultiBinary(2)), ("weapon", Discrete(3)), ("mouse", Box(2))))


def random_outputs(ours, *shape, seed=0, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, ours.num_outputs, generator=g, dtype=torch.float64)


def theirs(ours, outputs):
    """The same distribution as torch has it, over actions."""
    if isinstance(ours, Categorical):
        return td.Categorical(logits=outputs)
    if isinstance(ours, Bernoullis):
        return td.Independent(td.Bernoulli(logits=outputs), 1)
    mean, log_std = outputs[..., : ours.n], outputs[..., ours.n :]
    normal = td.Normal(MOST_MEAN * torch.tanh(mean / MOST_MEAN), torch.exp(3 * torch.tanh(log_std / MOST_LOG_STD)))
    return td.Independent(td.TransformedDistribution(normal, td.TanhTransform(cache_size=1)), 1)


def draws(ours, outputs, seed=0):
    torch.manual_seed(seed)
    flat = ours.draw(outputs.flatten(0, -2))
    return flat.unflatten(0, outputs.shape[:-1])


@pytest.mark.parametrize("action", KINDS, ids=IDS)
def test_log_probabilities_and_their_gradients(action):
    ours = distribution_of(action)
    outputs = random_outputs(ours, N, T, scale=0.7).requires_grad_()  # torch's own needs numbers whose tanh is below 1
    drawn = draws(ours, outputs)
    assert not drawn.requires_grad
    log_prob, _ = ours.log_prob_and_entropy(outputs, drawn)
    value = drawn.tanh() if action.kind == "box" else drawn.to(torch.float64)
    expected = theirs(ours, outputs).log_prob(value)
    assert log_prob.shape == (N, T)
    torch.testing.assert_close(log_prob, expected, rtol=1e-9, atol=1e-9)
    weight = random_outputs(ours, N, T, seed=1)[..., 0]
    grads = [torch.autograd.grad((x * weight).sum(), outputs)[0] for x in (log_prob, expected)]
    assert grads[1].abs().min() > 0
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("action", KINDS[:2], ids=IDS[:2])
def test_entropies_of_choices_and_their_gradients(action):
    ours = distribution_of(action)
    outputs = random_outputs(ours, N, T).requires_grad_()
    _, entropy = ours.log_prob_and_entropy(outputs, draws(ours, outputs))
    expected = theirs(ours, outputs).entropy()
    torch.testing.assert_close(entropy, expected, rtol=1e-9, atol=1e-12)
    grads = [torch.autograd.grad(x.square().sum(), outputs)[0] for x in (entropy, expected)]
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (1.5, -1.0), (-0.7, 0.6), (4.0, -2.5), (0.3, 1.5)])
def test_the_entropy_of_squashed_numbers_is_right_on_average(mean, log_std):
    """Value and gradient of the estimate, against the integral over actions, of the density, in float64."""
    ours = SquashedGaussian(1)
    outputs = torch.tensor([mean, log_std], dtype=torch.float64, requires_grad=True)
    u = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    m, s = MOST_MEAN * torch.tanh(outputs[0] / MOST_MEAN), (3 * torch.tanh(outputs[1] / MOST_LOG_STD)).exp()
    log_slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    log_p = td.Normal(m, s).log_prob(u)
    truth = torch.trapezoid(log_p.exp() * (log_slope - log_p), u)
    (truth_grad,) = torch.autograd.grad(truth, outputs)

    k = 200_000
    many = outputs.detach().expand(k, 2).clone().requires_grad_()
    _, entropy = ours.log_prob_and_entropy(many, draws(ours, many))
    (grads,) = torch.autograd.grad(entropy.sum(), many)
    for estimate, exact in ((entropy.detach()[:, None], truth.detach()[None]), (grads, truth_grad)):
        error = (estimate.mean(0) - exact).abs()
        assert (error <= 5 * estimate.std(0) / k**0.5 + 1e-6).all()


@pytest.mark.parametrize("action", KINDS, ids=IDS)
def test_draws_and_inversion_follow_the_same_distribution(action):
    """The mean and the spread of actions, by torch's own draws and from uniform numbers on a grid."""
    ours, k = distribution_of(action), 40_000
    outputs = random_outputs(ours, 1, seed=4, scale=0.8)
    drawn = ours.action(draws(ours, outputs.expand(k, -1)))
    uniform = (torch.arange(k, dtype=torch.float64)[:, None] + 0.5).expand(k, max(1, *action.shape, 0)) / k
    at = ours.action_at(outputs.expand(k, -1), uniform)
    assert drawn.shape == at.shape == (k, *action.shape)
    assert str(at.dtype) == f"torch.{action.dtype}" == str(drawn.dtype)
    for x in (drawn.double(), at.double()):
        other = theirs(ours, outputs[0]).sample((k,)).double()
        for moment in (1, 2, 3):
            a, b = x**moment, other**moment
            assert ((a.mean(0) - b.mean(0)).abs() <= 6 * b.std(0) / k**0.5 + 1e-3).all()


@pytest.mark.parametrize("action", KINDS, ids=IDS)
def test_a_low_temperature_draws_the_likeliest(action):
    ours = distribution_of(action)
    outputs = random_outputs(ours, 50, seed=5)
    uniform = torch.rand(50, max(1, *action.shape, 0), dtype=torch.float64)
    act = ours.action_at(outputs, uniform, 1e-8)
    likeliest = {
        "discrete": outputs.argmax(1),
        "multi_binary": (outputs > 0).byte(),
        "box": (MOST_MEAN * (outputs[:, :SIZE] / MOST_MEAN).tanh()).tanh().float(),
    }[action.kind]
    torch.testing.assert_close(act, likeliest, rtol=0, atol=0.02)
    assert not action.why_not(act.numpy())


def test_extreme_outputs_stay_finite():
    for action in KINDS:
        ours = distribution_of(action)
        for value in (-1e4, 1e4):
            outputs = torch.full((5, ours.num_outputs), value, requires_grad=True)
            drawn = draws(ours, outputs)
            assert not action.why_not(ours.action(drawn).numpy())
            log_prob, entropy = ours.log_prob_and_entropy(outputs, drawn)
            (grad,) = torch.autograd.grad((log_prob + entropy).sum(), outputs)
            assert all(x.isfinite().all() for x in (log_prob, entropy, grad))
            uniform = torch.tensor([[0.0], [1e-300], [0.5], [1 - 2**-53], [0.25]], dtype=torch.float64)
            at = ours.action_at(outputs.detach().double(), uniform.expand(5, max(1, *action.shape, 0)))
            assert not action.why_not(at.numpy())


def test_a_new_policy_spreads_numbers_over_the_whole_range():
    """Nearly uniform: no tenth of the range gets less than half or more than twice its share."""
    ours = SquashedGaussian(1)
    act = ours.action(draws(ours, torch.zeros(20_000, 2))).numpy()
    shares = np.histogram(act, bins=10, range=(-1, 1))[0] / 2_000
    assert 0.5 < shares.min() < shares.max() < 2


@pytest.mark.parametrize("action", [*KINDS, MIXED], ids=[*IDS, "mixed"])
def test_nothing_asks_a_gpu(action, monkeypatch):
    """Draws, actions, log-probabilities and entropies, over a GPU that is not there; the dice have no fake."""
    ours = distribution_of(action)
    for dice in ("rand_like", "randn_like"):
        monkeypatch.setattr(torch, dice, torch.empty_like)
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda x, generator=None: x)
    with fake_cuda():
        outputs = torch.empty(N, T, ours.num_outputs, device="cuda")
        with no_host_traffic():
            drawn = ours.draw(outputs.flatten(0, 1))
            act = ours.action(drawn)
            drawn = drawn.unflatten(0, (N, T))
            judged = ours.log_prob_and_entropy(outputs, drawn)
    assert act.shape == (N * T, *action.shape)
    assert {x.device.type for x in (act, *judged)} == {"cuda"}


def test_a_mixed_action_is_its_parts():
    """Log-probabilities, entropies and gradients are those of the parts, on rows that mean the same."""
    ours, parts = distribution_of(MIXED), [distribution_of(action) for _, action in MIXED.parts]
    assert ours.num_outputs == 2 + 3 + 4
    outputs = random_outputs(ours, N, T, scale=0.7).requires_grad_()
    drawn = draws(ours, outputs)
    act = ours.action(drawn)
    assert MIXED.why_not(act.numpy()) is None
    assert (act.dtype, act.shape) == (torch.float32, (N, T, 7))
    values = MIXED.decode(act.numpy())
    pieces = torch.from_numpy(values["keys"]), torch.from_numpy(values["weapon"]), drawn[..., 5:]
    torch.testing.assert_close(torch.from_numpy(values["mouse"]), drawn[..., 5:].tanh().float())
    judged = [d.log_prob_and_entropy(x, v) for d, x, v in zip(parts, outputs.split([2, 3, 4], -1), pieces, strict=True)]
    for i, actual in enumerate(ours.log_prob_and_entropy(outputs, drawn)):
        expected = sum(j[i] for j in judged)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        grads = [torch.autograd.grad(x.square().sum(), outputs, retain_graph=True)[0] for x in (actual, expected)]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_a_mixed_action_from_uniform_numbers(temperature):
    ours, parts = distribution_of(MIXED), [distribution_of(action) for _, action in MIXED.parts]
    outputs, uniform = random_outputs(ours, 40, seed=7), torch.rand(40, 7, dtype=torch.float64)
    act = ours.action_at(outputs, uniform, temperature)
    assert MIXED.why_not(act.numpy()) is None
    values = MIXED.decode(act.numpy())
    numbers = uniform[:, :2], uniform[:, 2:3], uniform[:, 5:]
    for (name, _), part, x, u in zip(MIXED.parts, parts, outputs.split([2, 3, 4], -1), numbers, strict=True):
        expected = part.action_at(x.contiguous(), u.contiguous(), temperature).numpy()
        np.testing.assert_array_equal(values[name], expected)


# --- the loss -------------------------------------------------------------------------------------------------------


def plain_loss(action, outputs, val, drawn, rew, end, trunc, val_bootstrap, cfg):
    """The paper's appendix D, word by word, in Python's own numbers."""
    n, t = len(rew), len(rew[0])
    advantages, log_probs, entropies = [], [], []
    for i in range(n):
        following = val_bootstrap[i][t - 1]
        for j in reversed(range(t)):
            sign = (rew[i][j] > 0) - (rew[i][j] < 0)
            if end[i][j]:
                following = float(sign)
            elif trunc[i][j]:
                following = sign + cfg.gamma * val_bootstrap[i][j]
            else:
                mixed = (1 - cfg.lambda_) * val_bootstrap[i][j] + cfg.lambda_ * following
                following = sign + cfg.gamma * mixed
            log_prob, entropy = plain_log_prob_and_entropy(action, outputs[i][j], drawn[i][j])
            advantages.append(following - val[i][j])
            log_probs.append(log_prob)
            entropies.append(entropy)
    values = cfg.weight_value_loss * sum(a**2 for a in advantages) / (n * t)
    if cfg.normalise_advantages:
        mean = sum(advantages) / (n * t)
        deviation = math.sqrt(sum((a - mean) ** 2 for a in advantages) / (n * t))
        advantages = [(a - mean) / max(1, deviation) for a in advantages]
    actions = -sum(a * log_prob for a, log_prob in zip(advantages, log_probs, strict=True)) / (n * t)
    entropy = sum(entropies) / (n * t)
    return [actions + values - cfg.weight_entropy_loss * entropy, actions, values, -cfg.weight_entropy_loss * entropy]


def plain_log_prob_and_entropy(action, outputs, drawn):
    log_prob = entropy = 0.0
    for k in range(action.n):
        if action.kind == "multi_binary":
            p = 1 / (1 + math.exp(-outputs[k]))
            log_prob += math.log(p if drawn[k] else 1 - p)
            entropy -= p * math.log(p) + (1 - p) * math.log(1 - p)
        else:
            mean = MOST_MEAN * math.tanh(outputs[k] / MOST_MEAN)
            std = math.exp(MOST_LOG_STD * math.tanh(outputs[action.n + k] / MOST_LOG_STD))
            z, slope = (drawn[k] - mean) / std, 1 - math.tanh(drawn[k]) ** 2
            log_prob += -(z**2) / 2 - math.log(std * math.sqrt(2 * math.pi)) - math.log(slope)
            entropy += math.log(std * math.sqrt(2 * math.pi * math.e)) + math.log(slope)
    return log_prob, entropy


@pytest.mark.parametrize("action", KINDS[1:], ids=IDS[1:])
@pytest.mark.parametrize("size", [None, 1.0, 40.0])
def test_the_loss_equals_a_plain_transcription(action, size):
    """Also with normalised advantages, whose deviation is below 1 or far above."""
    cfg = ActorCriticLossConfig(gamma=0.9, lambda_=0.7, weight_entropy_loss=0.1, normalise_advantages=size is not None)
    ours = distribution_of(action)
    g = torch.Generator().manual_seed(6)
    outputs = random_outputs(ours, N, T, seed=6, scale=1.0)
    drawn = draws(ours, outputs, seed=6)
    val, rew, boot = torch.randn(3, N, T, generator=g, dtype=torch.float64)
    val, boot = (0.3 * (size or 1) * x for x in (val, boot))
    end, trunc = (torch.rand(N, T, generator=g) < 0.3 for _ in range(2))
    assert (end & ~trunc).any()
    assert (trunc & ~end).any()
    loss = actor_critic_loss(outputs, val, drawn, rew, end, trunc, boot, cfg, ours)
    if size is not None:
        deviation = (lambda_returns(rew, end, trunc, boot, cfg.gamma, cfg.lambda_) - val).std(correction=0)
        assert (deviation > 3) if size > 1 else (deviation < 0.97)
    arguments = (x.tolist() for x in (outputs, val, drawn, rew, end, trunc, boot))
    assert [x.item() for x in loss[:4]] == pytest.approx(plain_loss(action, *arguments, cfg), rel=1e-9)
    assert loss.policy_entropy_bits.item() == pytest.approx(-loss.entropy.item() / 0.1 / math.log(2), rel=1e-9)


@pytest.mark.parametrize("action", KINDS, ids=IDS)
def test_policies_have_as_many_outputs_as_they_need(action):
    cfg = ActorCriticConfig(lstm_dim=8, channels=(8,), down=(1,))
    policy = ActorCritic(cfg, Spec(Frame(8, 8), action))
    outputs, *_ = policy.predict_act_value(torch.randn(2, 3, 8, 8), (torch.zeros(2, 8), torch.zeros(2, 8)))
    assert outputs.shape == (2, {"discrete": SIZE, "multi_binary": SIZE, "box": 2 * SIZE}[action.kind])
    assert not outputs.any()
    assert policy.num_actions == SIZE
