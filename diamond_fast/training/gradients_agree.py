"""Whether what a path trains on is what the readable networks would: its losses and gradients, held against theirs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diamond_fast.engine.contest import exactly
from diamond_fast.frames import to_float
from diamond_fast.training.update import Inputs, Update
from diamond_fast.world_model import Agent

ROWS = 4  # of a batch: a kernel that is wrong is so for few, and the readable networks need the memory of a batch
MOST = {torch.float32: 0.05, torch.bfloat16: 0.5}
"""Relative error of a gradient, all weights together. Rounding of weights and activations makes a few per cent; of a
wrong kernel little of the direction is left."""


def without_zeros(model: nn.Module) -> None:
    """Gives weights to layers that begin with none: what is in front of them would have no gradient."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and not weight.any():
                weight.normal_(std=(3 * weight[0].numel()) ** -0.5)


def gradient_error(update: Update, agent: Agent) -> float | None:
    """Relative error of the gradient of the update's next batch, a few rows of it, at the agent's weights as they are.

    None if the readable networks themselves fail at it, for instance for want of memory, or if they are what is
    trained: a policy whose rollouts are played with gradients.
    """
    objective: Any = update.objective
    if getattr(objective, "play", objective) is None:
        return None
    with update.autocast():
        inputs = objective.draw()
    if hasattr(objective, "segments"):  # a rollout is short, and has parts that are not of rows
        inputs = _rows(inputs)
    try:
        with _readable(objective, agent), exactly():
            truth = _gradient(update, inputs)
    except Exception:
        return None
    with update.autocast():
        found = _gradient(update, inputs)
    return ((found - truth).norm() / truth.norm().clamp(min=1e-30)).item()


def _rows(inputs: Inputs) -> Inputs:
    n = len(inputs[0])
    return tuple(x[:ROWS] if x.dim() and len(x) == n else x for x in inputs)


def _gradient(update: Update, inputs: Inputs) -> Tensor:
    """Of all weights in a row, in float64. The same random numbers at every call."""
    devices = [update.parameters[0].device] if update.parameters[0].is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        loss, _ = update.objective.loss(*inputs)
        grads = torch.autograd.grad(loss, update.parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten().double() for g in grads])


@contextmanager
def _readable(objective: Any, agent: Agent) -> Iterator[None]:
    """Inside, an objective has the agent's own networks in the place of those that its path trains."""
    own = {
        "denoiser": agent.denoiser,
        "student": agent.student,
        "upsampler": agent.upsampler,
        "memory": agent.memory,
        "reward_end": agent.rew_end_model,
        "policy": agent.actor_critic,
        "to_float": to_float,
    }
    before = {name: getattr(objective, name) for name in own if hasattr(objective, name)}
    vars(objective).update({name: own[name] for name in before})
    try:
        yield
    finally:
        vars(objective).update(before)
