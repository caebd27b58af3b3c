"""Playing first and computing the policy anew, against the twin that keeps gradients through the rollout."""

from functools import partial

import pytest
import torch
from golden_vectors import META, actor_critic, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import world

from diamond_fast.config import ActorCriticConfig, ActorCriticLossConfig, RunConfig
from diamond_fast.engine import recompute as recompute_module
from diamond_fast.engine import rollout as rollout_module
from diamond_fast.engine.recompute import play, recompute, usual_capacity
from diamond_fast.engine.rollout import EnvStep, RolloutState, initial_state, rollout
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss
from diamond_fast.spec import Box, Discrete, Frame, Mixed, MultiBinary, Spec

N, T, B, SIZE, ACTIONS = 3, 6, 2, 8, 4
LOSS = ActorCriticLossConfig()
MIXED = Mixed(parts=(("keys", MultiBinary(2)), ("weapon", Discrete(3)), ("mouse", Box(2))))


def make_policy():
    torch.manual_seed(0)
    policy = ActorCritic(ActorCriticConfig(lstm_dim=5, channels=(8, 8), down=(1, 1)), world(ACTIONS, SIZE)).double()
    for head in (policy.critic_linear, policy.actor_linear):
        torch.nn.init.normal_(head.weight)
    return policy


POLICY = make_policy()


class Script:
    """Ends where told, and the same memory for every step's frames, as a captured environment has."""

    num_envs = N

    def __init__(self, end, trunc, seed=0, burnin=True):
        self.end, self.trunc, self.burnin = end, trunc, burnin
        self.generator = torch.Generator().manual_seed(seed)
        self.frames = self._random(B + 2)
        self.act = torch.randint(ACTIONS, (T, N), generator=self.generator)
        self.t = 0

    def _random(self, frames):
        return torch.randn(N, frames, 3, SIZE, SIZE, dtype=torch.float64, generator=self.generator)

    def start(self):
        memory = torch.randn(2, N, POLICY.lstm_dim, dtype=torch.float64, generator=self.generator)
        return RolloutState(self._random(1)[:, 0], *memory)

    def step(self, act):
        assert self.act is None or torch.equal(act, self.act[self.t])
        end, trunc = self.end[:, self.t], self.trunc[:, self.t]
        self.frames.copy_(self._random(B + 2))
        rew = torch.randn(N, generator=self.generator, dtype=torch.float64)
        dead = (end | trunc)[:, None, None, None]
        obs = torch.where(dead, self.frames[:, -2], self.frames[:, -1])
        self.t += 1
        return EnvStep(obs, rew, end, trunc, self.frames[:, -1], self.frames[:, :B] if self.burnin else None)


class Recording(Script):
    """For the twin, which keeps what it is given: new memory for every step."""

    def step(self, act):
        return EnvStep(*(None if x is None else x.clone() for x in super().step(act)))


def loss_and_gradients(policy, r):
    loss = actor_critic_loss(r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap, LOSS).total
    return loss.detach(), torch.autograd.grad(loss, list(policy.parameters()))


def both(monkeypatch, end, trunc, capacity, seed=0, burnin=True, asks=False):
    """(loss, gradients) of the twin and of the fast way, what was played, and the states behind."""
    slow, fast = Recording(end, trunc, seed, burnin), Script(end, trunc, seed, burnin)
    with monkeypatch.context() as m:
        m.setattr(rollout_module, "draw_actions", lambda distribution, outputs: slow.act[slow.t])
        m.setattr(recompute_module, "draw_actions", lambda distribution, outputs: fast.act[fast.t])
        expected, slow_state = rollout(slow, POLICY, slow.start(), T)
        played, state = play(fast, POLICY, fast.start(), T, capacity, asks)
    actual = recompute(POLICY, played)
    return expected, actual, played, slow_state, state


def assert_equal(expected, actual):
    close = {"rtol": 0, "atol": 1e-10}
    for a, b in zip(expected, actual, strict=True):
        torch.testing.assert_close(a, b, **close)
    (loss, grads), (fast_loss, fast_grads) = loss_and_gradients(POLICY, expected), loss_and_gradients(POLICY, actual)
    torch.testing.assert_close(loss, fast_loss, **close)
    for a, b in zip(grads, fast_grads, strict=True):
        torch.testing.assert_close(a, b, **close)


def bits(*rows):
    return torch.tensor([[c == "x" for c in row] for row in rows])


NONE = bits("......", "......", "......")
SCRIPTS = {
    "none": NONE,
    "first step": bits("x.....", "......", "......"),
    "last step": bits("......", ".....x", "......"),
    "all at once": bits("..x...", "..x...", "..x..."),
    "all at the last step": bits(".....x", ".....x", ".....x"),
    "consecutive": bits("xx.xxx", ".xx...", "......"),
    "always": bits("xxxxxx", "xxxxxx", "xxxxxx"),
}


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
def test_equals_the_twin(monkeypatch, name, asks):
    end = SCRIPTS[name]
    for truncated in (NONE, end & bits("x.x.x.", "......", "xxxxxx"), bits("......", "...x..", "......")):
        expected, actual, played, slow_state, state = both(monkeypatch, end & ~truncated, truncated, N * T, asks=asks)
        assert_equal(expected, actual)
        for a, b in zip(slow_state, state, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert played.num_burnins == (end | truncated).sum()


cells = st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=N * T, max_size=N * T)


@given(cells=cells, seed=st.integers(0, 2**31), burnin=st.booleans(), asks=st.booleans())
@settings(max_examples=30, deadline=None)
def test_random_scripts(cells, seed, burnin, asks):
    codes = torch.tensor(cells).view(N, T)
    with pytest.MonkeyPatch.context() as m:
        expected, actual, *_ = both(m, (codes & 1).bool(), (codes & 2).bool(), N * T, seed, burnin, asks)
    assert_equal(expected, actual)


def test_the_papers_rollouts_have_places_for_64_burnins():
    cfg = RunConfig()
    steps, num_envs = cfg.actor_critic_loss.backup_every, cfg.actor_critic_update.batch_size
    assert usual_capacity(num_envs, steps, cfg.world_model.horizon) == 64


@pytest.mark.parametrize("asks", [False, True])
def test_burnins_without_a_place_lose_their_gradient_and_nothing_else(monkeypatch, asks):
    """Two places, seven resets: only the two earliest, those of row 0 behind steps 0 and 1, depend on their frames."""
    expected, actual, played, *_ = both(monkeypatch, SCRIPTS["consecutive"], NONE, capacity=2, asks=asks)
    torch.testing.assert_close(expected.logits, actual.logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(expected.val_bootstrap, actual.val_bootstrap, rtol=0, atol=1e-10)
    assert played.burnin_cell.tolist() == [0, 1]
    assert played.num_burnins == 7
    blank = recompute(POLICY, played._replace(burnin_obs=torch.zeros_like(played.burnin_obs)))
    moved = (blank.logits - actual.logits).abs().amax(dim=2) > 1e-6
    assert torch.equal(moved, bits(".xxx..", "......", "......"))


def test_actor_critic_loss_golden(monkeypatch):
    v = tensors("actor_critic_loss")
    model = actor_critic()

    class Env:
        num_envs, t = v["obs"].shape[1], 0

        def reset(self):
            return v["obs"][0]

        def step(self, act):
            t, self.t = self.t, self.t + 1
            end, trunc = v["end"][t].bool(), v["trunc"][t].bool()
            return EnvStep(v["obs"][t + 1], v["rew"][t], end, trunc, v["final_obs"][t], v["burnin_obs"][t])

    env = Env()
    monkeypatch.setattr(recompute_module, "draw_actions", lambda distribution, outputs: v["act"][env.t])
    played, _ = play(env, model, initial_state(env, model), 15, v["act"].numel())
    r = recompute(model, played)
    loss = actor_critic_loss(r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap, LOSS)
    loss.total.backward()
    expected = (v["loss_total"], v["loss_actions"], v["loss_values"], v["loss_entropy"], v["policy_entropy_bits"])
    for actual, value in zip(loss, expected, strict=True):
        torch.testing.assert_close(actual.detach(), value, rtol=1e-4, atol=1e-6)
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert norms == pytest.approx(META["actor_critic_loss_grad_norm_by_parameter"], rel=1e-3, abs=1e-6)


def test_draws_the_twins_actions():
    """From the same random numbers, through resets."""
    acts = []
    for way in (rollout, partial(play, capacity=N * T)):
        torch.manual_seed(5)
        env = Recording(SCRIPTS["consecutive"], NONE)
        env.act = None
        acts.append(way(env, POLICY, env.start(), T)[0].act)
    assert torch.equal(*acts)
    assert len(acts[0].unique()) > 1


@pytest.mark.parametrize("action", [MultiBinary(2), Box(2), MIXED], ids=["multi_binary", "box", "mixed"])
@pytest.mark.parametrize("name", ["none", "consecutive", "always"])
def test_other_kinds_of_actions_equal_the_twin(action, name):
    """Outputs, the loss and its gradients, from the same random numbers; what is played is what was drawn."""
    torch.manual_seed(0)
    spec = Spec(Frame(SIZE, SIZE), action)
    policy = ActorCritic(ActorCriticConfig(lstm_dim=5, channels=(8, 8), down=(1, 1)), spec).double()
    for head in (policy.critic_linear, policy.actor_linear):
        torch.nn.init.normal_(head.weight)
    results, taken = [], []

    class Env(Recording):
        def step(self, act):
            assert not action.why_not(act.numpy())
            assert str(act.dtype) == f"torch.{action.dtype}"
            taken.append(act.clone())
            return super().step(act)

    for way in (rollout, partial(play, capacity=N * T)):
        torch.manual_seed(5)
        env = Env(SCRIPTS[name], NONE)
        env.act = None
        played, _ = way(env, policy, env.start(), T)
        results.append(played if way is rollout else recompute(policy, played))
    assert torch.equal(torch.stack(taken[:T]), torch.stack(taken[T:]))
    assert torch.equal(torch.stack(taken[:T], dim=1), policy.distribution.action(results[0].act))
    losses = [actor_critic_loss(*_of_loss(r), LOSS, policy.distribution).total for r in results]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    grads = [torch.autograd.grad(loss, list(policy.parameters())) for loss in losses]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert all(g.any() for g in grads[0])


def _of_loss(r):
    return r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap


@pytest.mark.parametrize("name", ["none", "consecutive", "always"])
def test_if_it_asks_only_what_ended_is_computed_for_it(name):
    """N frames a step and N behind the last; for an end its final frame and B of burn-in; and no empty places kept."""
    ends, env, num_frames = int(SCRIPTS[name].sum()), Script(SCRIPTS[name], NONE), []
    env.act = None
    counted = POLICY.encoder.register_forward_hook(lambda _, args, __: num_frames.append(len(args[0])))
    with counted:
        played, _ = play(env, POLICY, env.start(), T, capacity=N * T, asks=True)
    assert sum(num_frames) == N * (T + 1) + ends * (1 + B)
    assert len(played.burnin_obs) == len(played.burnin_cell) == ends


class Meta:
    """An environment on a device that has shapes but no numbers: whatever asks for one raises there."""

    num_envs = N

    def step(self, act):
        obs, flags = (torch.rand(N, B + 1, 3, SIZE, SIZE, device="meta"), torch.rand(2, N, device="meta") > 0.5)
        return EnvStep(obs[:, -1], torch.rand(N, device="meta"), *flags, obs[:, -1], obs[:, :-1])


def test_nothing_waits_for_a_gpu():
    """Played, computed anew and differentiated without a number known; the twin fails, so this can fail."""
    with torch.device("meta"):
        policy = ActorCritic(ActorCriticConfig(lstm_dim=5, channels=(8, 8), down=(1, 1)), world(ACTIONS, SIZE))
        state = RolloutState(torch.rand(N, 3, SIZE, SIZE), *torch.zeros(2, N, 5))
    played, state = play(Meta(), policy, state, T, capacity=4)
    loss, grads = loss_and_gradients(policy, recompute(policy, played))
    assert loss.device.type == grads[0].device.type == state.hx.device.type == "meta"
    assert played.burnin_obs.shape == (4, B, 3, SIZE, SIZE)
    with pytest.raises((NotImplementedError, RuntimeError), match="nonzero"):
        rollout(Meta(), policy, state, T)
