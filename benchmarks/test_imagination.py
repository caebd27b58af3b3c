"""An imagined step, and a rollout of imagined steps with the policy: the fast path against the readable twin.

    pytest benchmarks/test_imagination.py --benchmark-only

A step is of all its episodes: a new frame in three denoising steps, reward and end, draws, fresh starts for episodes
that ended. On a GPU the twin also runs compiled as the published trainer compiles it.
"""

import pytest
import torch
from measuring import not_quick, only_on_gpu
from workloads import NUM_ACTIONS, PAPER, fast_imagination, make_agent, published_env

from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.rollout import initial_state, rollout
from diamond_fast.engine.world import imagination

ON_GPU = torch.cuda.is_available()
TWIN, OURS, COMPILED = "as published", "fast path", "as published, compiled"
LONG = "1440 evaluations a call: too long for a CPU; see the policy's update"
STEPS = PAPER.actor_critic_loss.backup_every


@pytest.fixture(scope="module")
def agent(cfg, device):
    return make_agent(cfg, device)


def published_envs(cfg, agent, replay, num_envs, effort):
    envs = {TWIN: published_env(cfg, agent, replay, num_envs)}
    if ON_GPU and effort == "full":
        envs[COMPILED] = published_env(cfg, agent, replay, num_envs, compiled=True)
    return envs


@pytest.mark.parametrize("num_envs", [8, not_quick(32, "half a minute on a CPU")])
def test_step(measure, effort, device, cfg, agent, replay, num_envs):
    """As ``WorldModelEnv`` steps: on a GPU the frame is a graph, the rest launched kernel by kernel."""
    act = torch.randint(NUM_ACTIONS, (num_envs,), device=device)
    contexts = replay.segments(num_envs, cfg.denoiser.inner_model.num_steps_conditioning)
    path, num_batches = choose_path(device, cfg.precision), cfg.world_model.num_batches_to_preload
    ours = imagination(agent, cfg.world_model, path, contexts, num_envs, num_batches=num_batches)

    def stepping(env):
        env.reset()
        return lambda: env.step(act)

    envs = {OURS: ours, **published_envs(cfg, agent, replay, num_envs, effort)}
    candidates = {name: stepping(env) for name, env in envs.items()}
    turns = measure.take_turns(candidates, optional=(COMPILED,))
    measure.row("imagined step", {"episodes": num_envs}, turns, OURS, energy_of=candidates[OURS])


@pytest.mark.parametrize("num_envs", [1, only_on_gpu(32, LONG)])
def test_rollout(measure, effort, device, cfg, agent, replay, num_envs):
    """The twin keeps gradients while it plays, as published; ours are computed anew afterwards (see the updates)."""

    def playing(env, play=None):
        state = initial_state(env, agent.actor_critic)

        def go_on():
            nonlocal state
            if play is not None:
                state = play(state)[1]
            else:
                state = rollout(env, agent.actor_critic, state, STEPS)[1]

        return go_on

    candidates = {OURS: playing(*fast_imagination(cfg, agent, replay, num_envs, device))}
    for name, env in published_envs(cfg, agent, replay, num_envs, effort).items():
        candidates[name] = playing(env)
    turns = measure.take_turns(candidates, optional=(COMPILED,))
    case = {"episodes": num_envs, "steps": STEPS}
    work = num_envs * STEPS
    measure.row("imagined rollout", case, turns, OURS, work=work, unit="frames/s", energy_of=candidates[OURS])
