import pytest
import torch
from golden_vectors import META, actor_critic, tensors
from worlds import world

from diamond_fast.config import ActorCriticConfig, ActorCriticLossConfig
from diamond_fast.engine import rollout as rollout_module
from diamond_fast.engine.rollout import EnvStep, RolloutState, initial_state, rollout
from diamond_fast.networks.actor_critic.distributions import sample_categorical
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss


class ScriptedEnv:
    """Plays back a recorded rollout (time-major tensors), whatever the actions."""

    def __init__(self, script):
        self.script = script
        self.num_envs = script["obs"].shape[1]
        self.t = 0

    def reset(self):
        return self.script["obs"][0]

    def step(self, act):
        s, t = self.script, self.t
        assert torch.equal(act, s["act"][t])
        self.t += 1
        end, trunc = s["end"][t].bool(), s["trunc"][t].bool()
        return EnvStep(s["obs"][t + 1], s["rew"][t], end, trunc, s["final_obs"][t], s["burnin_obs"][t])


@pytest.fixture
def scripted(monkeypatch):
    script = tensors("actor_critic_loss")
    env = ScriptedEnv(script)
    monkeypatch.setattr(rollout_module, "draw_actions", lambda distribution, outputs: script["act"][env.t])
    return script, env


def test_actor_critic_loss_golden(scripted):
    """Ends, truncations, bootstraps on the true final frames and burn-in after resets, gradients included."""
    v, env = scripted
    model = actor_critic()
    r, _ = rollout(env, model, initial_state(env, model), 15)
    loss = actor_critic_loss(r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap, ActorCriticLossConfig())
    loss.total.backward()
    expected = (v["loss_total"], v["loss_actions"], v["loss_values"], v["loss_entropy"], v["policy_entropy_bits"])
    for actual, value in zip(loss, expected, strict=True):
        torch.testing.assert_close(actual.detach(), value, rtol=1e-4, atol=1e-6)
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(META["actor_critic_loss_grad_norm_by_parameter"], rel=1e-3, abs=1e-6)


def test_two_short_rollouts_continue_where_the_first_stopped(scripted):
    _, env = scripted
    model = actor_critic()
    whole, end_state = rollout(env, model, initial_state(env, model), 15)
    env.t = 0
    first, state = rollout(env, model, initial_state(env, model), 6)
    rest, state = rollout(env, model, state, 9)
    torch.testing.assert_close(torch.cat((first.logits, rest.logits), dim=1), whole.logits)
    torch.testing.assert_close(torch.cat((first.val_bootstrap, rest.val_bootstrap), dim=1), whole.val_bootstrap)
    torch.testing.assert_close(state.hx, end_state.hx)
    assert not state.hx.requires_grad  # gradients stop between rollouts


def test_sample_categorical_follows_the_probabilities():
    p = torch.tensor([0.1, 0.6, 0.3])
    draws = sample_categorical(p.log().expand(20_000, 3), torch.Generator().manual_seed(0))
    counts = torch.bincount(draws, minlength=3).double()
    chi2 = ((counts - 20_000 * p) ** 2 / (20_000 * p)).sum()
    assert chi2 < 13.8  # 0.1 % point at 2 degrees of freedom


def test_sample_categorical_draws_as_multinomial():
    logits = torch.randn(500, 7)
    expected = torch.multinomial(logits.softmax(dim=-1), 1, generator=torch.Generator().manual_seed(3))[:, 0]
    assert torch.equal(sample_categorical(logits, torch.Generator().manual_seed(3)), expected)


def test_rollout_without_burnin():
    """An environment without burn-in frames: after an end the memory restarts at zero."""
    cfg = ActorCriticConfig(lstm_dim=4, channels=(8,), down=(1,))
    torch.manual_seed(0)
    model = ActorCritic(cfg, world(2, 8))
    torch.nn.init.normal_(model.critic_linear.weight)
    frames = torch.randn(4, 2, 3, 8, 8)

    class Env:
        num_envs, t = 2, 0

        def step(self, act):
            self.t += 1
            end = torch.tensor([self.t == 1, False])
            return EnvStep(frames[self.t], torch.ones(2), end, torch.zeros(2, dtype=torch.bool), frames[3], None)

    zeros = torch.zeros(2, 4)
    r, _ = rollout(Env(), model, RolloutState(frames[0], zeros, zeros), 2)
    with torch.no_grad():
        _, _, (hx, cx) = model.predict_act_value(frames[0], (zeros, zeros))
        _, val_final, _ = model.predict_act_value(frames[3], (hx, cx))
        hx[0], cx[0] = 0, 0
        _, val, _ = model.predict_act_value(frames[1], (hx, cx))
    torch.testing.assert_close(r.val[:, 1].detach(), val)
    torch.testing.assert_close(r.val_bootstrap[:, 0], torch.stack([val_final[0], val[1]]))
