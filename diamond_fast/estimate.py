"""What a run costs, before it starts: parameters, memory, FLOPs, and hours on this machine.

FLOPs are counted on meta tensors, which have shapes but no data. Hours follow from them and from the speed measured
(``speed.py``); environments are not counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from diamond_fast.config import RunConfig, UpdateConfig
from diamond_fast.networks.actor_critic.model import ActorCritic
from diamond_fast.networks.recurrent.model import MemoryModel
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.one_line import counted, one_line
from diamond_fast.remembering import memory_loss
from diamond_fast.runs.progress import duration
from diamond_fast.spec import Action
from diamond_fast.speed import (
    MeasuredSpeed,
    Speed,
    batch_of_zeros,
    count_flops,
    denoiser_forward,
    denoiser_loss,
    measure_speed,
)
from diamond_fast.upsampling import upsampler_loss
from diamond_fast.world_model import Agent, Denoiser

BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, in float32
SAME_TIME = 1.2  # estimates that differ by no more are told as one


@dataclass(frozen=True)
class Cost:
    """One model's share of a run."""

    parameters: int
    forward_flops: float
    """Per update, in networks that are only evaluated: the world model while the policy is trained, and the teacher
    while the student is."""
    training_flops: float
    """Per update, forward and backward."""
    activation_bytes: int
    """Kept for the backward pass of one batch."""
    updates: int
    """In the whole run."""

    def seconds(self, speed: Speed) -> float:
        """Seconds of one update."""
        return self.forward_flops / speed.forward + self.training_flops / speed.training


@dataclass(frozen=True)
class Estimate:
    """Costs by model. The run is the longest that the settings allow: initial collection as short as it may be."""

    costs: dict[str, Cost]
    epochs: int
    replay_bytes: int
    """Frames of the real experience, in main memory."""

    @property
    def model_bytes(self) -> int:
        """Weights, gradients, optimiser state, and the activations of the largest batch."""
        parameters = sum(cost.parameters for cost in self.costs.values())
        return BYTES_PER_PARAMETER * parameters + max(cost.activation_bytes for cost in self.costs.values())

    @property
    def flops(self) -> float:
        return sum((cost.forward_flops + cost.training_flops) * cost.updates for cost in self.costs.values())

    def seconds(self, speed: Speed) -> float:
        return sum(cost.seconds(speed) * cost.updates for cost in self.costs.values())


@cache  # counting takes seconds, and a program asks more than once
def estimate(config: RunConfig, num_actions: Action | int) -> Estimate:
    """Count what a run with these settings costs."""
    with torch.device("meta"):
        agent = Agent(config, num_actions)
    epochs, predicted = _num_epochs(config), 1 + config.num_autoregressive_steps
    frame_loss = partial(denoiser_loss, config)
    costs = {}
    if agent.memory is not None:
        both = nn.ModuleDict({"denoiser": agent.denoiser, "memory": agent.memory})
        costs["denoiser"] = _cost(both, config.denoiser_update, epochs, partial(_memory_loss, config))
    elif not config.model_free:
        costs["denoiser"] = _cost(agent.denoiser, config.denoiser_update, epochs, frame_loss, predicted)
    if agent.student is not None:
        evaluations = config.world_model.sampler.num_evaluations * predicted
        n, batches = config.student_update.batch_size, config.student_update.grad_acc_steps
        teacher = evaluations * batches * count_flops(lambda: denoiser_forward(agent.denoiser, n))
        # Its own loss runs the network as often as the denoiser's, there and back.
        costs["student"] = _cost(agent.student, config.student_update, epochs, frame_loss, predicted, teacher)
    if agent.upsampler is not None:
        costs["upsampler"] = _cost(agent.upsampler, config.upsampler_update, epochs, partial(_upsampler_loss, config))
    if agent.rew_end_model is not None and not config.model_free:
        costs["reward_end"] = _cost(
            agent.rew_end_model, config.reward_end_update, epochs, partial(_reward_end_loss, config)
        )
    if agent.actor_critic is not None:
        costs["actor_critic"] = _policy_cost(config, agent, epochs)
    return Estimate(costs, epochs, math.prod(config.frame_shape) * config.collection.num_steps_total)


def time_needed(total: Estimate, speed: MeasuredSpeed) -> str:
    """How long a run takes, as a range if the machine does not do the same work in the same time."""
    best, now = total.seconds(speed.best), total.seconds(speed.now)
    if speed.load:
        return f"{duration(best)} if nothing else ran here, at least {duration(now)} as busy as it is ({speed.load})"
    return f"about {duration(now)}" if now < SAME_TIME * best else f"{duration(best)} to {duration(now)}"


def describe(config: RunConfig, num_actions: Action | int, device: torch.device, cuda_graphs: bool = True) -> str:
    """The estimate in a few lines, with the speed it rests on; if nothing can be measured, with what is in the way.

    Raises:
        OutOfMemoryError: of torch.
    """
    total = estimate(config, num_actions)
    measured, failure = None, ""
    try:
        measured = measure_speed(config, num_actions, device, cuda_graphs)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a driver that is too old, a device that is lost
        failure = f"{type(error).__name__}: {one_line(error)}"
    lines = [f"{'':14}{'parameters':>12}{'updates':>10}{'GFLOP/update':>14}{'s/update':>10}"]
    for name, cost in total.costs.items():
        flops = cost.forward_flops + cost.training_flops
        seconds = "-" if measured is None else f"{cost.seconds(measured.now):.3f}"
        lines.append(f"{name:14}{cost.parameters:12,}{cost.updates:10,}{flops / 1e9:14,.1f}{seconds:>10}")
    return "\n".join(
        [
            *lines,
            f"epochs: {total.epochs}, {total.flops / total.epochs:.2e} FLOP each on average, {total.flops:.2e} in all",
            f"memory: {_size(total.model_bytes)} for the networks on {device}, {_size(total.replay_bytes)} for frames",
            *_time(total, measured, failure),
        ]
    )


def _time(total: Estimate, measured: MeasuredSpeed | None, failure: str) -> list[str]:
    if measured is None:
        return [f"time: not measured, as the networks do not run on this device ({failure})"]
    speed = measured.now
    how = [measured.engine] * bool(measured.engine) + [counted(measured.threads, "thread")] * (measured.threads > 0)
    return [
        f"time: {time_needed(total, measured)}, without playing the game",
        f"      (from {speed.forward:.1e} FLOP/s forward and {speed.training:.1e} FLOP/s in training, "
        f"measured on the denoiser just now{' with ' * bool(how)}{', '.join(how)})",
    ]


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"


# --- one update of each model ---------------------------------------------------------------------------------------


def _reward_end_loss(config: RunConfig, reward_end: RewardEndModel, n: int) -> Tensor:
    obs, act, mask = batch_of_zeros(reward_end.spec, n, config.reward_end_seq_length, reward_end.device)
    return reward_end.loss(obs, act, torch.zeros_like(mask, dtype=torch.float32), ~mask, mask).total


def _memory_loss(config: RunConfig, both: Any, n: int) -> Tensor:
    obs, act, mask = batch_of_zeros(both.memory.spec, n, config.reward_end_seq_length, both.memory.device)
    start, predicted = torch.zeros(1, dtype=torch.int64, device=obs.device), 1 + config.num_autoregressive_steps
    of_sequence = obs, act, torch.zeros_like(mask, dtype=torch.float32), ~mask, mask, start, predicted
    return memory_loss(both.denoiser, both.memory, *of_sequence, config.sigma_distribution).total


def _upsampler_loss(config: RunConfig, upsampler: Denoiser, n: int) -> Tensor:
    length = config.upsampler_seq_length
    full, small = (
        torch.zeros(n, length, channels, height, width, device=upsampler.device)
        for height, width, channels in (config.full_frame_shape, config.frame_shape)
    )
    mask = torch.ones(n, length, dtype=torch.bool, device=full.device)
    return upsampler_loss(upsampler, full, small, mask, config.sigma_distribution)


def _policy_step(actor_critic: ActorCritic, n: int) -> Tensor:
    obs, _, _ = batch_of_zeros(actor_critic.spec, n, 1, actor_critic.device)
    state = torch.zeros(n, actor_critic.lstm_dim, device=obs.device, requires_grad=True)  # of the step before
    logits, value, _ = actor_critic.predict_act_value(obs[:, 0], (state, state))
    return logits.sum() + value.sum()


def _policy_cost(config: RunConfig, agent: Agent, epochs: int) -> Cost:
    """The policy's update: a rollout in the world model, whose networks only run forward.

    Each of the rollout's episodes starts once per horizon, with both memories burned in on its context.
    """
    update, steps = config.actor_critic_update, config.actor_critic_loss.backup_every
    policy, reward_end = agent.actor_critic, agent.reward_end
    assert policy is not None
    assert reward_end is not None
    if config.model_free:
        return _cost(policy, update, epochs, _policy_step, times=steps)
    n = update.batch_size
    evaluations = 1 if config.world_model.student else config.world_model.sampler.num_evaluations
    burn_in = steps / config.world_model.horizon * (config.denoiser.inner_model.num_steps_conditioning - 1)
    obs, act, _ = batch_of_zeros(reward_end.spec, n, 1, reward_end.device)
    frame_flops = evaluations * count_flops(lambda: denoiser_forward(agent.denoiser, n))
    if isinstance(reward_end, MemoryModel):
        memory, empty = reward_end, torch.zeros(n, reward_end.state_width, device=obs.device)
        reward_flops = count_flops(lambda: memory.classify(memory.step(obs[:, 0], act[:, 0], empty)[0]))
    else:
        model = reward_end
        reward_flops = count_flops(lambda: model.predict(obs, act, obs))
    world_model = steps * frame_flops + (steps + burn_in) * reward_flops
    return _cost(policy, update, epochs, _policy_step, steps + burn_in, world_model * update.grad_acc_steps)


def _cost(
    model: nn.Module,
    update: UpdateConfig,
    epochs: int,
    loss: Callable[[Any, int], Tensor],
    times: float = 1.0,
    forward_flops: float = 0.0,
) -> Cost:
    """Count one update of ``model`` (on meta tensors): ``times`` that of ``loss``, given the model and a batch size."""
    kept: dict[int, int] = {p.untyped_storage()._cdata: 0 for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage.nbytes())
        return tensor

    def run() -> None:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = loss(model, update.batch_size)
        total.backward()

    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        forward_flops=forward_flops,
        training_flops=count_flops(run) * times * update.grad_acc_steps,
        activation_bytes=round(sum(kept.values()) * times),
        updates=_num_updates(update, epochs),
    )


def _num_epochs(config: RunConfig) -> int:
    if config.model_free or config.static_dataset is not None:
        return config.num_final_epochs
    c = config.collection
    return (c.num_steps_total - c.first_epoch_min) // c.steps_per_epoch + config.num_final_epochs


def _num_updates(update: UpdateConfig, epochs: int) -> int:
    trained = range(update.start_after_epochs + 1, epochs + 1)
    return sum(update.steps_first_epoch if epoch == 1 else update.steps_per_epoch for epoch in trained)
