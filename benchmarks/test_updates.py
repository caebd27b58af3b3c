"""One update of each model, from the replay to the optimiser's step; how its time grows; an epoch of the quick preset.

    pytest benchmarks/test_updates.py --benchmark-only

Ours is what a run with ``--precision bf16`` does; the twin is the published way: float32 (TF32 on a GPU), one operation
after the other, gradients kept while imagined episodes are played, and on a GPU the same with the world model compiled.
"""

from dataclasses import replace

import pytest
import torch
from measuring import not_quick, only_on_gpu
from workloads import make_agent, noise_replay, published_updates, with_batches

from diamond_fast.domains.environments import make_real_env
from diamond_fast.engine.choose import choose_path, fast_dtype
from diamond_fast.estimate import estimate
from diamond_fast.presets import PRESETS
from diamond_fast.training.collect import Collector
from diamond_fast.training.make_updates import make_updates

ON_GPU = torch.cuda.is_available()
TWIN, OURS, COMPILED = "as published", "diamond_fast", "as published, compiled"
AUTOCAST = "readable networks, autocast"
MODELS = ("denoiser", "reward_end", "actor_critic")
LONG = "seconds an update, and a CPU's time grows in proportion by then"
ROLLOUT = None if ON_GPU else 2
"""Imagined steps of a rollout; on a CPU 2 of the paper's 15, whose times are to each other as the whole ones' are."""


def our_updates(cfg, replay, device):
    agent = make_agent(cfg, device, torch.channels_last)
    return make_updates(cfg, agent, replay, choose_path(device, cfg.precision), segments_seed=0)


def their_updates(cfg, replay, device, compiled=False):
    cfg = replace(cfg, precision="tf32")
    return published_updates(cfg, make_agent(cfg, device), replay, device, compiled)


def stepping(updates, model):
    """A call that does one update. The first epoch begins here, as a run's would."""
    update = updates[model]
    with update.autocast():
        update.objective.begin_epoch()
    return update.step


def least_time(machine, cfg, model, dtype):
    """The time of forward and backward passes, at the rate of a matrix product."""
    cost = estimate(cfg, 18).costs[model]
    return machine.arithmetic(cost.forward_flops + cost.training_flops, dtype)


@pytest.mark.parametrize("batch", [8, not_quick(32, "a minute on a CPU")])
@pytest.mark.parametrize("model", MODELS)
def test_update(measure, machine, effort, device, cfg, replay, model, batch):
    cfg = with_batches(cfg, 2 if effort == "tiny" else batch, ROLLOUT)
    candidates = {
        OURS: stepping(our_updates(cfg, replay, device), model),
        TWIN: stepping(their_updates(cfg, replay, device), model),
    }
    if ON_GPU and effort == "full" and model == "actor_critic":  # the published trainer compiles nothing else
        candidates[COMPILED] = stepping(their_updates(cfg, replay, device, compiled=True), model)
    turns = measure.take_turns(candidates, optional=(COMPILED,))
    case = {"model": model, "batch": batch}
    if model == "actor_critic":
        case["imagined steps"] = cfg.actor_critic_loss.backup_every
    floor = least_time(machine, cfg, model, fast_dtype(device))
    measure.row("update", case, turns, OURS, floor=floor, energy_of=candidates[OURS])


@pytest.mark.skipif(not ON_GPU, reason="elsewhere an update does not go through the kernels")
@pytest.mark.parametrize("model", ["denoiser", "reward_end"])
def test_training_through_the_kernels(measure, machine, effort, device, cfg, replay, model):
    """What fused kernels forward and back give over the readable networks under autocast, both as one CUDA graph."""
    cfg = with_batches(cfg, 2 if effort == "tiny" else 32)
    path = choose_path(device, cfg.precision)
    plain = replace(path, engine="readable")
    agents = (make_agent(cfg, device, torch.channels_last) for _ in "ab")
    candidates = {
        name: stepping(make_updates(cfg, agent, replay, p, segments_seed=0), model)
        for (name, p), agent in zip({OURS: path, AUTOCAST: plain}.items(), agents, strict=True)
    }
    turns = measure.take_turns(candidates)
    floor = least_time(machine, cfg, model, path.dtype)
    measure.row("update through the kernels", {"model": model, "batch": 32}, turns, OURS, floor=floor)


@pytest.mark.parametrize("batch", [1, 2, 4, 8, *(only_on_gpu(n, LONG) for n in (16, 32, 64, 128))])
def test_denoiser_over_batch(measure, device, cfg, replay, batch):
    """How time, and on a GPU memory, grow with the batch."""
    cfg = with_batches(cfg, batch)
    turns = measure.take_turns({OURS: stepping(our_updates(cfg, replay, device), "denoiser")})
    measure.row("denoiser update over batch", {"batch": batch}, turns, OURS)


@pytest.mark.parametrize("length", [5, 10, 19, 38])
def test_reward_end_over_sequence_length(measure, device, cfg, replay, length):
    """How time grows with the number of frames in a sequence; 19 is the paper's."""
    context = cfg.denoiser.inner_model.num_steps_conditioning
    cfg = with_batches(cfg, 32 if ON_GPU else 1)
    cfg = replace(cfg, world_model=replace(cfg.world_model, horizon=length - context))
    turns = measure.take_turns({OURS: stepping(our_updates(cfg, replay, device), "reward_end")})
    case = {"batch": cfg.reward_end_update.batch_size, "frames": length}
    measure.row("reward/end update over sequence length", case, turns, OURS)


def test_epoch(measure, effort, device):
    """Collection and updates of a later epoch of ``--preset quick``, without evaluation; on a CPU half of each."""
    cfg = replace(PRESETS["quick"], precision="bf16")
    counts = {model: getattr(cfg, f"{model}_update").steps_per_epoch for model in MODELS}
    num_steps = cfg.collection.steps_per_epoch
    if not ON_GPU:
        counts, num_steps = {model: n // 2 for model, n in counts.items()}, num_steps // 2
    if effort == "tiny":
        counts, num_steps = dict.fromkeys(MODELS, 1), 20
        cfg = with_batches(cfg, 1, 2)
    env = make_real_env("Boxing", None, num_envs=1, frame_size=cfg.frame_size, done_on_life_loss=True)

    def epochs(make):
        replay = noise_replay(cfg, 500, room=100 * num_steps)
        updates = make(cfg, replay, device)
        collector, policy = Collector(env, seed=0), updates["actor_critic"].objective.policy

        def epoch():
            collector.collect(policy, replay, num_steps, cfg.collection.epsilon)
            for model, update in updates.items():
                update.train(counts[model], lambda: None)

        return epoch

    turns = measure.take_turns({OURS: epochs(our_updates), TWIN: epochs(their_updates)})
    env.close()
    part = "whole" if ON_GPU else "half"
    case = {"preset": "quick", "part": part, "real steps": num_steps, **{f"{m} updates": n for m, n in counts.items()}}
    measure.row("epoch", case, turns, OURS)
