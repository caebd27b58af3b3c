"""What a graph of an update, a rollout or a sample reads stays where it was: else a GPU would be silently wrong."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from outside_reads import Audited
from small_world import SMALL_WORLD, make_agent, make_replay

from diamond_fast.config import ActorCriticLossConfig, UpdateConfig
from diamond_fast.engine import fast_denoiser
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.graphs import WARM_UP_CALLS, own_casts
from diamond_fast.engine.path import Path
from diamond_fast.networks.recurrent.config import MemoryConfig
from diamond_fast.training import make_updates
from diamond_fast.world_model import Agent


@pytest.fixture
def audited(monkeypatch):
    monkeypatch.setattr(Audited, "every", [])
    for module in (make_updates, fast_denoiser):
        monkeypatch.setattr(module, "Captured", Audited)
    monkeypatch.setattr(make_updates, "Pool", lambda device: "none")
    monkeypatch.setattr(Path, "autocast", lambda self: torch.autocast("cpu", torch.bfloat16))  # as on a GPU
    return Audited.every


@pytest.mark.parametrize("grad_acc_steps", [1, pytest.param(2, marks=pytest.mark.slow), 4])
@torch.backends.mkldnn.flags(enabled=False)
def test_of_updates_and_rollouts(audited, grad_acc_steps):
    """Captured at some draw of an update, under autocast; then two more epochs, each with its refreshed copies."""
    update = UpdateConfig(batch_size=3, grad_acc_steps=grad_acc_steps, lr_warmup_steps=1)
    cfg = replace(
        SMALL_WORLD,
        denoiser_update=update,
        reward_end_update=update,
        actor_critic_update=update,
        actor_critic_loss=ActorCriticLossConfig(backup_every=3),
        world_model=replace(SMALL_WORLD.world_model, num_batches_to_preload=1),
    )
    path = replace(choose_path(torch.device("cpu"), "fp32"), engine="fused", graphs=True)
    updates = make_updates.make_updates(cfg, make_agent(), make_replay([30, 25, 20]), path, segments_seed=0)
    for num_updates in (WARM_UP_CALLS + 1, 1, 1):
        for each in updates.values():
            each.train(num_updates, lambda: None)
    names = {captured.name: captured for captured in audited if captured.captures}
    starts = "starts of imagined episodes"
    assert set(names) == {"denoiser", "reward_end", "actor_critic", "imagined rollout", starts}
    for name, captured in names.items():
        assert captured.captures == 1
        assert len(captured.reads) > 10
        assert captured.gone() == [], name


@torch.backends.mkldnn.flags(enabled=False)
def test_of_a_world_model_with_a_memory(audited):
    """One update for all of it; the memory's encoder has copies of its own while it plays."""
    update = UpdateConfig(batch_size=3, lr_warmup_steps=1)
    memory = MemoryConfig(channels=(8,), down=(1,), action_width=4, width=8, layers=1, state=2)
    world_model = replace(SMALL_WORLD.world_model, num_batches_to_preload=1)
    cfg = replace(SMALL_WORLD, memory="mamba", memory_model=memory, world_model=world_model, denoiser_update=update)
    cfg = replace(cfg, actor_critic_update=update, actor_critic_loss=ActorCriticLossConfig(backup_every=3))
    path = replace(choose_path(torch.device("cpu"), "fp32"), engine="fused", graphs=True)
    updates = make_updates.make_updates(cfg, Agent(cfg, 4), make_replay([30, 25, 20]), path, segments_seed=0)
    for num_updates in (WARM_UP_CALLS + 1, 1, 1):
        for each in updates.values():
            each.train(num_updates, lambda: None)
    names = {captured.name: captured for captured in audited if captured.captures}
    assert set(names) == {"denoiser", "actor_critic", "imagined rollout", "starts of imagined episodes"}
    for name, captured in names.items():
        assert captured.captures == 1
        assert len(captured.reads) > 10
        assert captured.gone() == [], name


@pytest.mark.parametrize("around", [torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_of_samples(audited, around):
    path = Path(torch.device("cpu"), torch.float32, "torch", graphs=True, why="test")
    sampler = fast_denoiser.FastDenoiser(make_agent().denoiser, engine=path)
    obs, act = torch.zeros(2, 4, 3, 8, 8), torch.zeros(2, 4, dtype=torch.int64)
    with around():
        for _ in range(2):
            sampler.sample(obs, act)
            sampler.denoise(obs[:, 0], 1.0, obs.flatten(1, 2), act)
        sampler.refresh()
        sampler.sample(obs, act)
    assert [captured.captures for captured in audited] == [1, 1]
    for captured in audited:
        assert len(captured.reads) > 10
        assert captured.gone() == [], captured.name


class Shifted:
    def __init__(self):
        self.shift = torch.ones(2)

    def __call__(self, x):
        return x + self.shift


def test_the_audit_sees_what_moved():
    shifted = Shifted()
    captured = Audited("f", shifted)
    captured(torch.zeros(2))
    assert captured.gone() == []
    shifted.shift = torch.ones(2)
    assert captured.gone() == ["aten.add.Tensor: [2] torch.float32"]


@pytest.mark.parametrize("own", [False, True])
def test_the_audit_sees_a_cast_that_autocast_keeps(own):
    """As a draw behind an update's first reads one, unless the capture forgets it."""
    weight = torch.nn.Parameter(torch.eye(2))

    def function(x):
        if own:
            with own_casts():
                return F.linear(x, weight)
        return F.linear(x, weight)

    captured = Audited("f", function)
    with torch.autocast("cpu", torch.bfloat16):
        F.linear(torch.zeros(1, 2), weight)
        captured(torch.zeros(1, 2))
    assert captured.gone() == ([] if own else ["aten.t.default: [2, 2] torch.bfloat16"])
