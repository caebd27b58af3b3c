"""What a path trains on is held against the readable networks, and a kernel that is wrong on the way back is found."""

from dataclasses import replace

import pytest
import torch
from test_memory_training import SMALL as REMEMBERING
from test_trial import CFG, CPU
from torch import nn

from diamond_fast.engine.cpu_training import with_modules
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.engine.path import WITHOUT_TRITON, Path
from diamond_fast.spec import Discrete
from diamond_fast.training import gradients_agree, make_updates, trial
from diamond_fast.training.gradients_agree import MOST, gradient_error, without_zeros
from diamond_fast.world_model import Agent, Denoiser

STUDENT = replace(CFG, world_model=replace(CFG.world_model.with_denoising_steps(2), student=True))
WITH_MEMORY = replace(REMEMBERING, world_model=CFG.world_model, actor_critic_loss=CFG.actor_critic_loss)


def errors(cfg, engine, dtype=torch.float32):
    torch.manual_seed(0)
    agent, replay = Agent(cfg, Discrete(4)), trial.random_replay(cfg, Discrete(4))
    without_zeros(agent)
    path = Path(CPU, dtype, engine, False, "test", WITHOUT_TRITON if engine == "torch" else Techniques())
    updates = make_updates.make_updates(cfg, agent, replay, path, 0)
    found = {}
    for name, update in updates.items():
        update.train(1, lambda: None)
        before = [p.clone() for p in update.parameters]
        found[name] = gradient_error(update, agent)
        assert all(torch.equal(p, x) for p, x in zip(update.parameters, before, strict=True))
    return found


@pytest.mark.parametrize("engine", ["torch", "fused", "program"])
@pytest.mark.parametrize(
    ("cfg", "names"),
    [
        (CFG, ["denoiser", "reward_end", "actor_critic"]),
        (STUDENT, ["denoiser", "student", "reward_end", "actor_critic"]),
        (WITH_MEMORY, ["denoiser", "actor_critic"]),
    ],
    ids=["plain", "student", "memory"],
)
def test_every_path_agrees(engine, cfg, names):
    """To a thousandth of what is allowed."""
    found = errors(cfg, engine)
    assert list(found) == names
    assert max(found.values()) < 1e-3 * MOST[torch.float32]


def test_rounding_is_far_from_what_is_allowed():
    found = errors(CFG, "fused", torch.bfloat16)
    assert 0 < max(found.values()) < 0.2 * MOST[torch.bfloat16]


def test_a_policy_that_is_played_with_gradients_is_the_readable_one():
    assert errors(CFG, "readable")["actor_critic"] is None


class BackwardsOnTheWayBack(nn.Module):
    """What a kernel would be whose forward pass is right."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        y = self.network(*inputs)
        return 2 * y.detach() - y


def test_a_wrong_gradient_is_found_before_the_run(monkeypatch):
    trained = make_updates.trained

    def wrong(model, path):
        model = trained(model, path)
        if not isinstance(model, Denoiser):
            return model
        return with_modules(model, inner_model=BackwardsOnTheWayBack(model.inner_model))

    monkeypatch.setattr(make_updates, "trained", wrong)
    begun = []
    with pytest.raises(ArithmeticError, match=r"^its gradient differs from the readable networks' by 2\.0e\+00$"):
        trial.rehearse(CFG, Discrete(4), Path(CPU, torch.float32, "torch", False, "test"), begun.append)
    assert begun[-1] == "denoiser"


def test_readable_networks_that_fail_say_nothing_against_the_path(monkeypatch):
    monkeypatch.setattr(gradients_agree, "exactly", lambda: 1 / 0)
    assert set(errors(CFG, "fused").values()) == {None}
