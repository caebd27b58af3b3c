"""Runs whose policy holds buttons or chooses numbers: trained, stopped and gone on with, evaluated, model-free too."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_world
from crashes.tiny_run import TINY
from interrupted_runs import go_on

from diamond_fast.config_checks import checked
from diamond_fast.domains import DOMAINS
from diamond_fast.domains.environments import make_env
from diamond_fast.engine.rollout import initial_state, rollout
from diamond_fast.envs.on_device import OnDeviceEnv
from diamond_fast.envs.world_model import WorldModelEnv
from diamond_fast.estimate import estimate
from diamond_fast.networks.actor_critic.model import ActorCritic, actor_critic_loss
from diamond_fast.replay import Replay
from diamond_fast.runs import checkpoint
from diamond_fast.runs.agents import load_agent
from diamond_fast.runs.nested import flatten
from diamond_fast.spec import Box, Discrete, MultiBinary
from diamond_fast.training.collect import Collector

ROLL = replace(TINY, env_id="diamond_fast/Roll-v0")
LAMPS = replace(
    TINY,
    env_id=None,
    domain="lamps",
    frame_size=(12, 20),
    reward_end=replace(TINY.reward_end, reward_head="symlog-bins"),  # its rewards are 0 to 3
)


@pytest.fixture(autouse=True)
def _a_world_of_buttons_and_no_pictures(monkeypatch):
    monkeypatch.setitem(DOMAINS, "lamps", toy_world.DOMAIN)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_learning_curves", lambda path, lines: path)
    monkeypatch.setattr("diamond_fast.training.evaluator.save_gif", lambda path, segments: path)
    monkeypatch.setattr(toy_world.Lamps, "picture", _small_picture)


def _small_picture(self, lit):
    frame = np.full(self.frame.shape, self.background, np.uint8)
    frame[2:6, [4, 10, 16]] = 255 * lit[:, None]
    return frame


def everything(path):
    """Weights, optimisers, memories, random states and the replay."""
    saved = checkpoint.load_latest(path / "checkpoints")
    tensors, tree = flatten({"tensors": saved.tensors, "state": saved.state})
    sums = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in tensors.items()}
    return sums | {"tree": json.dumps(tree, sort_keys=True)}


@pytest.mark.parametrize(("cfg", "action"), [(ROLL, Box(1)), (LAMPS, MultiBinary(3))], ids=["box", "buttons"])
def test_a_run_is_stopped_and_goes_on_bit_for_bit(tmp_path, cfg, action):
    cfg = checked(cfg)
    whole, trainer = go_on(cfg, tmp_path / "whole")
    assert trainer.agent.spec.action == action
    assert go_on(cfg, tmp_path / "stopped", 1)[0] is None
    again, _ = go_on(cfg, tmp_path / "stopped")
    assert again.returns.tolist() == whole.returns.tolist()
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")

    actor = trainer.agent.actor_critic.actor_linear.weight
    assert actor.detach().any()  # it was zero
    agent = load_agent(run=tmp_path / "whole").agent
    torch.testing.assert_close(agent.actor_critic.actor_linear.weight, actor.detach(), rtol=0, atol=0)
    world = WorldModelEnv(agent, trainer.replay, num_envs=2, cfg=cfg.world_model, engine="readable")
    world.reset(seed=0)
    obs, *_ = world.step(np.ones((2, action.n), action.dtype))
    assert obs.shape == (2, *cfg.frame_shape)


@pytest.mark.parametrize("action", [Box(2), MultiBinary(2)], ids=["box", "buttons"])
def test_what_a_run_costs_is_that_of_discrete_actions_but_for_a_few_weights(action):
    cfg = checked(ROLL)
    costs, discrete = estimate(cfg, action).costs, estimate(cfg, Discrete(2)).costs
    assert costs["reward_end"].parameters == discrete["reward_end"].parameters
    outputs = cfg.actor_critic.lstm_dim + 1
    more = 2 * outputs if isinstance(action, Box) else 0  # a mean and a deviation each
    assert costs["actor_critic"].parameters == discrete["actor_critic"].parameters + more


@pytest.mark.parametrize("cfg", [ROLL, LAMPS], ids=["box", "buttons"])
def test_a_policy_trains_in_the_game_itself(tmp_path, cfg):
    result, trainer = go_on(checked(replace(cfg, model_free=True)), tmp_path / "run")
    assert len(result.returns) == cfg.evaluation.num_final_episodes
    assert trainer.agent.actor_critic.actor_linear.weight.detach().any()


def test_a_policy_learns_to_hold_every_button():
    """Each lamp that is lit is a point: from half of them to most, within 40 updates in the game itself."""
    torch.manual_seed(0)
    env = make_env(checked(LAMPS), 8, done_on_life_loss=True)
    games = OnDeviceEnv(env, torch.device("cpu"), seed=0)
    policy = ActorCritic(LAMPS.actor_critic, LAMPS.spec(env.action))
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.02, weight_decay=0.0)
    state, rewards = initial_state(games, policy), []
    for _ in range(40):
        r, state = rollout(games, policy, state, num_steps=6)
        of_loss = r.logits, r.val, r.act, r.rew, r.end, r.trunc, r.val_bootstrap
        optimiser.zero_grad()
        actor_critic_loss(*of_loss, LAMPS.actor_critic_loss, policy.distribution, signs=False).total.backward()
        optimiser.step()
        rewards.append(r.rew.mean().item())
    env.close()
    assert abs(rewards[0] - 1.5) < 4 * (3 * 0.25 / 48) ** 0.5
    assert np.mean(rewards[-5:]) > 2.4


class Preferring:
    """Always the same outputs."""

    lstm_dim = 1
    device = torch.device("cpu")

    def __init__(self, outputs):
        self.outputs = torch.tensor(outputs)

    def predict_act_value(self, obs, hx_cx):
        return self.outputs.expand(len(obs), -1), torch.zeros(len(obs)), hx_cx


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_collected_actions_are_those_of_the_policy(temperature):
    """Buttons are held as often as their logits say; numbers have the policy's median and quartiles."""
    n, steps = 4, 600
    held = collect(LAMPS, Preferring([0.5, -1.0, 0.0]), n, steps, temperature)
    p = 1 / (1 + np.exp(-np.array([0.5, -1.0, 0.0]) / temperature))
    assert (np.abs(held.mean(axis=0) - p) < 4 * np.sqrt(p * (1 - p) / len(held))).all()
    pushes = collect(ROLL, Preferring([0.4, -0.5]), n, steps, temperature)[:, 0]
    mean, std = 5 * np.tanh(0.4 / 5), np.exp(3 * np.tanh(-0.5 / 3)) * np.sqrt(temperature)
    for z, share in ((-0.67449, 0.25), (0.0, 0.5), (0.67449, 0.75)):
        below = (pushes < np.tanh(mean + std * z)).mean()
        assert abs(below - share) < 4 * np.sqrt(share * (1 - share) / len(pushes))


def collect(cfg, policy, num_envs, num_steps, temperature):
    env = make_env(checked(cfg), num_envs, done_on_life_loss=True)
    replay = Replay(env.frame.shape, num_envs, num_steps, env.action)
    Collector(env, seed=2).collect(policy, replay, num_steps, temperature=temperature)
    env.close()
    replay.close_episodes()
    return np.concatenate([replay.episode(i).act for i in range(replay.num_episodes)])
