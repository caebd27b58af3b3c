import pytest
import torch
from golden_vectors import SHAPES, actor_critic, tensors
from worlds import world

from diamond_fast.config import ActorCriticConfig
from diamond_fast.networks.actor_critic.model import ActorCritic, lambda_returns


def test_parameters_match_the_published_names_and_shapes():
    assert {k: list(v.shape) for k, v in actor_critic().state_dict().items()} == SHAPES["actor_critic_small"]
    paper = ActorCritic(ActorCriticConfig(), world(18, 64))
    assert {k: list(v.shape) for k, v in paper.state_dict().items()} == SHAPES["actor_critic_paper"]


def test_recurrent_steps_golden():
    v, model = tensors("actor_critic"), actor_critic()
    hx_cx = torch.zeros(3, 64), torch.zeros(3, 64)
    for t in range(5):
        with torch.no_grad():
            logits, values, hx_cx = model.predict_act_value(v["obs"][:, t], hx_cx)
        torch.testing.assert_close(logits, v["logits"][:, t], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values, v["values"][:, t], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hx_cx[0], v["hx"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hx_cx[1], v["cx"], rtol=1e-4, atol=1e-5)


def test_a_new_policy_is_uniform_and_values_nothing():
    cfg = ActorCriticConfig(lstm_dim=8, channels=(8,), down=(1,))
    model = ActorCritic(cfg, world(5, 9))
    logits, values, _ = model.predict_act_value(torch.randn(2, 3, 9, 9), (torch.zeros(2, 8), torch.zeros(2, 8)))
    assert not logits.any()
    assert not values.any()
    assert model.lstm.bias_ih.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16


@pytest.mark.parametrize(("lambda_", "name"), [(0.0, "000"), (0.95, "095"), (1.0, "100")])
def test_lambda_returns_golden(lambda_, name):
    v = tensors("lambda_returns")
    actual = lambda_returns(v["rew"], v["end"].bool(), v["trunc"].bool(), v["val_bootstrap"], 0.985, lambda_)
    torch.testing.assert_close(actual, v[f"gamma0985_lambda{name}"], rtol=1e-5, atol=1e-6)


def test_lambda_returns_by_recursion():
    """Against the definition written as a recursion on one step, in float64, ends and truncations together."""
    g = torch.Generator().manual_seed(0)
    rew = torch.randn(5, 9, generator=g, dtype=torch.float64)
    end, trunc = (torch.rand(5, 9, generator=g) < 0.25 for _ in range(2))
    val = torch.randn(5, 9, generator=g, dtype=torch.float64)
    gamma, lambda_ = 0.9, 0.7

    def expected(n, t):
        if t == 9:
            return val[n, 8].item()
        r = rew[n, t].sign().item()
        if end[n, t]:
            return r
        if trunc[n, t]:
            return r + gamma * val[n, t].item()
        return r + gamma * ((1 - lambda_) * val[n, t].item() + lambda_ * expected(n, t + 1))

    actual = lambda_returns(rew, end, trunc, val, gamma, lambda_)
    assert actual.tolist() == [[pytest.approx(expected(n, t), rel=1e-12) for t in range(9)] for n in range(5)]
