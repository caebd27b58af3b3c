"""Captured updates, proven without a GPU: every update is traced into a graph of operations, and the graph replayed.

A trace knows what a CUDA graph would know: addresses, and the kernels that run on them. So a Python decision that
depends on data, a wait for the device, or state that moved to another address shows as a failure or a wrong weight.
"""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from fake_cuda import fake, fake_cuda, move_to_fake_cuda, no_host_traffic
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves
from worlds import world

from diamond_fast.config import (
    ActorCriticConfig,
    ActorCriticLossConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    SamplerConfig,
    SigmaDistributionConfig,
    UpdateConfig,
)
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.denoiser_networks import fast_sampler
from diamond_fast.engine.fused_training import fused
from diamond_fast.engine.graphs import WARM_UP_CALLS, Captured
from diamond_fast.engine.recompute import Played, play, recompute
from diamond_fast.engine.rollout import EnvStep
from diamond_fast.frames import to_float
from diamond_fast.kernels.frames_to_float import frames_to_float
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.training.finite import FiniteGuard, NonFiniteError
from diamond_fast.training.objectives import (
    ActorCriticObjective,
    DenoiserObjective,
    RewardEndObjective,
    StudentObjective,
)
from diamond_fast.training.update import Update
from diamond_fast.world_model import Denoiser, DiffusionSampler, PlainNetwork, Sampler

N, CONTEXT, SIZE, ACTIONS = 3, 4, 8, 3


def segments(length):
    frames = torch.randint(256, (N, length, SIZE, SIZE, 3), dtype=torch.uint8)
    end, mask = torch.rand(N, length) < 0.2, torch.rand(N, length) < 0.9
    return frames, mask, torch.randint(ACTIONS, (N, length)), torch.randn(N, length), end, mask


class Denoising(DenoiserObjective):
    def draw(self):
        frames, pixel_mask, act, _, _, mask = segments(CONTEXT + 2)
        return frames, pixel_mask, act, mask


class Distilling(StudentObjective):
    draw = Denoising.draw


class Teacher:
    """As ``FastDenoiser`` without graphs draws within a graph of someone else's: on the fused engine."""

    def __init__(self, denoiser, steps, device, dtype):
        arguments = denoiser.formulation, denoiser.inner_model, steps, torch.device(device), dtype
        self.sampler = fast_sampler(*arguments, engine="fused")

    def sample(self, obs, act, randn):
        trajectory = self.sampler.sample(obs.flatten(1, 2), act, [randn(*obs[:, 0].shape, device=obs.device)])
        return trajectory[-1], trajectory


class Classifying(RewardEndObjective):
    def draw(self):
        return segments(6)


class Env:
    """Ends at random; three frames to burn in on."""

    num_envs = N

    def __init__(self, device="cpu"):
        self.device = device

    def reset(self):
        return torch.rand(N, 3, SIZE, SIZE, device=self.device)

    def step(self, act):
        frames = torch.rand(N, 5, 3, SIZE, SIZE, device=self.device)
        end, trunc = torch.rand(2, N, device=self.device) < 0.3
        return EnvStep(frames[:, 3], torch.randn(N, device=self.device), end, trunc, frames[:, 4], frames[:, :3])


def make_objective(name, device="cpu", dtype=None):
    """(model, objective) of one of the models, small; through the fused kernels in ``dtype`` if there is one."""
    torch.manual_seed(0)

    def trained(model):
        return model if dtype is None else fused(model.to(memory_format=torch.channels_last), dtype)

    floats = to_float if dtype is None else frames_to_float
    small = {"depths": (1,), "channels": (8,), "attn_depths": (0,)}
    if name == "denoiser":
        model = Denoiser(DenoiserConfig(InnerModelConfig(cond_channels=16, **small)), world(ACTIONS)).to(device)
        torch.nn.init.normal_(model.inner_model.conv_out.weight, std=0.1)
        return model, Denoising(trained(model), None, SigmaDistributionConfig(), floats)
    if name == "student":
        cfg, steps = DenoiserConfig(InnerModelConfig(cond_channels=16, **small)), SamplerConfig(num_steps=2)
        model, denoiser = (Denoiser(cfg, world(ACTIONS)).to(device) for _ in "ab")
        for module in (model, denoiser):
            torch.nn.init.normal_(module.inner_model.conv_out.weight, std=0.1)
        drawing = DiffusionSampler(denoiser, steps) if dtype is None else Teacher(denoiser, steps, device, dtype)
        return model, Distilling(trained(model), denoiser, drawing, steps, None, floats)
    if name == "reward_end":
        model = RewardEndModel(RewardEndConfig(lstm_dim=6, cond_channels=8, **small), world(ACTIONS, SIZE)).to(device)
        return model, Classifying(trained(model), None, floats)
    model = ActorCritic(ActorCriticConfig(lstm_dim=6, channels=(8,), down=(1,)), world(ACTIONS, SIZE)).to(device)
    env = Env(device)
    way = partial(play, env, model, num_steps=5, capacity=2 * N)
    return model, ActorCriticObjective(trained(model), env, ActorCriticLossConfig(backup_every=5), way)


NAMES = ["denoiser", "student", "reward_end", "actor_critic"]


class Traced(Captured):
    """A CUDA graph's manners on a CPU: capturing changes nothing, a replay does the same on what is there by then."""

    def __init__(self, name, function, state):
        super().__init__(name, function, changes_state=True, pool="none")
        self.state = state  # tensors that the function changes
        self.captures = 0

    def can_capture(self, tensor):
        return True

    def warm_up(self, graph, inputs):
        return self.function(*inputs)

    def capture(self, graph):
        self.captures += 1
        for x in tree_leaves(graph.inputs):
            x.zero_()
        tensors, random_state = self.state(), torch.get_rng_state()
        before = [x.detach().clone() for x in tensors]
        result = {}

        def traced_function(*inputs):
            result.update(self.function(*inputs))
            return dict(result)

        traced = make_fx(traced_function)(*graph.inputs)
        with torch.no_grad():
            for x, old in zip(tensors, before, strict=True):
                x.copy_(old)
        torch.set_rng_state(random_state)
        static = {name: x.detach().clone() for name, x in result.items()}

        def replay():
            with torch.no_grad():
                for name, x in traced(*graph.inputs).items():
                    static[name].copy_(x)

        return replay, static


def make_update(name, traced, grad_acc_steps=1, dtype=torch.bfloat16, kernels=False):
    # The learning rate is constant behind the first update: a number on a CPU, which a trace would keep.
    model, objective = make_objective(name, dtype=dtype if kernels else None)
    cfg = UpdateConfig(lr=1e-2, lr_warmup_steps=1, max_grad_norm=0.5, grad_acc_steps=grad_acc_steps)
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)  # as on a GPU
    captured = partial(Traced, state=lambda: state_of(update)) if traced else None
    update = Update(name, model, objective, cfg, autocast, captured=captured)
    update.guard.waits = False
    return update


def state_of(update):
    guard = update.guard
    moments = [x for s in update.optimizer.state.values() for x in s.values()]
    return [*update.parameters, *moments, guard._found, guard._watched, guard._culprit]


@pytest.mark.parametrize(
    ("name", "grad_acc_steps", "dtype", "kernels"),
    [
        # in bfloat16 a trace adds up gradients in another order, which AdamW magnifies
        ("denoiser", 1, torch.float32, False),
        pytest.param("student", 1, torch.float32, False, marks=pytest.mark.slow),
        ("reward_end", 1, torch.bfloat16, False),
        ("actor_critic", 2, torch.bfloat16, False),
        ("denoiser", 1, torch.float32, True),
        pytest.param("reward_end", 1, torch.float32, True, marks=pytest.mark.slow),
        pytest.param("actor_critic", 2, torch.float32, True, marks=pytest.mark.slow),
    ],
)
@torch.backends.mkldnn.flags(enabled=False)  # its LSTM has operations that cannot be traced
def test_a_replayed_update_equals_an_ordinary_one(name, grad_acc_steps, dtype, kernels, capsys):
    """Over warm-up, capture and three replays, each with a batch and random numbers of its own; then one that fails."""
    figures, updates = [], []
    for traced in (False, True):
        update = make_update(name, traced, grad_acc_steps, dtype, kernels)
        torch.manual_seed(1)
        figures.append([{k: v.clone() for k, v in update.step().items()} for _ in range(WARM_UP_CALLS + 3)])
        updates.append(update)
    assert update._apply.captures == 1
    assert "not captured" not in capsys.readouterr().out
    for plain, replayed in zip(*figures, strict=True):
        for key, value in plain.items():
            torch.testing.assert_close(replayed[key], value, rtol=1e-5, atol=1e-6)
    for a, b in zip(*map(state_of, updates), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

    update.parameters[0].data.fill_(torch.nan)
    before = [p.detach().clone() for p in update.parameters]
    update.step()
    for a, b in zip(before, update.parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(NonFiniteError, match=f"{name}: update {WARM_UP_CALLS + 4} has loss nan"):
        update.guard.check()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_a_gpu(name, dtype):
    """Loss, gradients, clipping and the finite check on a device that knows shapes, but no number to wait for."""
    model, objective = make_objective(name, "meta", dtype)
    with torch.device("meta"):
        batch = objective.draw()
    cfg = UpdateConfig()
    loss, figures = objective.loss(*batch)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.max_grad_norm)
    flag = FiniteGuard(name, torch.device("meta")).watch(loss.detach(), norm)
    assert {x.device.type for x in (*batch, *figures.values(), norm, flag)} == {"meta"}
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_nothing_through_the_kernels_is_on_the_host(name):
    """On a GPU that is not there: losses of denoiser and student; the others' outputs, as a softmax has no fake."""
    model, objective = make_objective(name, dtype=torch.bfloat16)
    batch = objective.draw()
    with fake_cuda():
        move_to_fake_cuda(model)
        if name == "student":
            move_to_fake_cuda(objective.teacher.sampler)
        batch = [fake(x) for x in batch]
        with no_host_traffic():
            if name in ("denoiser", "student"):
                out = objective.loss(*batch)[0]
            elif name == "reward_end":
                obs, act = objective.to_float(*batch[:2]), batch[2]
                out = objective.reward_end.predict(obs[:, :-1], act[:, :-1], obs[:, 1:])[0]
            else:
                out = recompute(objective.policy, Played(*batch)).logits
    assert out.device.type == "cuda"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_no_node_of_a_weight_outlives_an_update(name, dtype):
    """It would sum gradients on the stream it was made on, which a capture is not on."""
    model, objective = make_objective(name, dtype=dtype)
    loss_of = objective.loss

    def loss(*batch):
        result = loss_of(*batch)
        nodes = [p.expand_as(p).grad_fn.next_functions[0][0] for p in model.parameters()]
        assert not any("met before" in node.metadata for node in nodes)
        for node in nodes:
            node.metadata["met before"] = True
        return result

    objective.loss = loss
    update = Update(name, model, objective, UpdateConfig(), nullcontext)
    update.step()
    update.step()


@pytest.mark.parametrize("steps", [SamplerConfig(num_steps=2), SamplerConfig(s_cond=0.1)], ids=["plain", "context"])
def test_a_readable_sampler_takes_no_tensor_of_the_host(steps, monkeypatch):
    """It is made anew in every captured update of a student. The plan of its steps is plain numbers."""
    cfg = DenoiserConfig(InnerModelConfig(context_noise=True), noise_context=True)
    formulation = Denoiser(cfg, world(ACTIONS)).formulation
    planned = formulation.plan(steps)
    monkeypatch.setattr(type(formulation), "plan", lambda self, cfg: planned)
    with fake_cuda(), no_host_traffic():
        Sampler(formulation, PlainNetwork(torch.nn.Identity()), steps, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
@torch.backends.cudnn.flags(enabled=True, deterministic=True)  # bfloat16 sums in another order would show
def test_a_captured_update_equals_an_ordinary_one(name, dtype):
    """The same on a GPU, with CUDA graphs, another learning rate at each update, and no wait in between."""
    weights = []
    for captured in (None, partial(Captured, changes_state=True)):
        model, objective = make_objective(name, "cuda", dtype)
        with torch.device("cuda"):
            autocast = choose_path(torch.device("cuda")).autocast
            update = Update(name, model, objective, UpdateConfig(lr_warmup_steps=20), autocast, captured=captured)
            torch.manual_seed(1)
            for _ in range(WARM_UP_CALLS + 1):
                update.step()
            torch.cuda.set_sync_debug_mode("error")
            try:
                for _ in range(4):
                    update.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        assert captured is None or [graph.replay is not None for graph in update._apply._graphs.values()] == [True]
        weights.append([p.detach().clone() for p in update.parameters])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
