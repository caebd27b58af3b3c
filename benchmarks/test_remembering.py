"""A world model with a memory beside DIAMOND's, both on the fast path, at the paper's sizes.

    pytest benchmarks/test_remembering.py --benchmark-only

An imagined step is a frame in three denoising steps, reward and end, draws and fresh starts: there the memory with its
heads stands in for the reward/end model. An update of the world model is the one of denoiser, memory and heads
together, beside the denoiser's and then the reward/end model's.
"""

from dataclasses import replace

import torch
from test_updates import our_updates, stepping
from workloads import NUM_ACTIONS, fast_imagination, make_agent, with_batches

ON_GPU = torch.cuda.is_available()
DIAMOND = "DIAMOND"
KINDS = ("mamba", "gru")
BATCH = 32 if ON_GPU else 8


def remembering(kind):
    return f"with a memory, {kind}"


def candidates(cfg, make):
    """What ``make`` makes of the settings, with each memory and without one."""
    with_memory = {remembering(kind): make(replace(cfg, memory=kind)) for kind in KINDS}
    return {**with_memory, DIAMOND: make(cfg)}


def test_step_beside_diamonds(measure, effort, device, cfg, replay):
    num_envs = 2 if effort == "tiny" else BATCH
    act, steps = torch.randint(NUM_ACTIONS, (num_envs,), device=device), cfg.actor_critic_loss.backup_every

    def stepping_on(cfg):
        env, _ = fast_imagination(cfg, make_agent(cfg, device), replay, num_envs, device)
        env.reset()
        done = 0

        def step():
            nonlocal done
            if done % steps == 0:
                env.begin_rollout()
            env.step(act)
            done += 1

        return step

    turns = measure.take_turns(candidates(cfg, stepping_on))
    measure.row("imagined step with a memory", {"episodes": num_envs}, turns, remembering("mamba"))


def test_update_beside_diamonds(measure, effort, device, cfg, replay):
    batch = 2 if effort == "tiny" else BATCH

    def updating(cfg):
        updates = our_updates(with_batches(cfg, batch), replay, device)
        calls = [stepping(updates, model) for model in ("denoiser", "reward_end") if model in updates]

        def update():
            for call in calls:
                call()

        return update

    turns = measure.take_turns(candidates(cfg, updating))
    measure.row("update with a memory", {"batch": batch}, turns, remembering("mamba"))
