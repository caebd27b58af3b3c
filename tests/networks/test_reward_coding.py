"""Rewards as logits, against the definitions in numpy and float64."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD, make_replay

from diamond_fast import train
from diamond_fast.config import RewardEndConfig, RunConfig
from diamond_fast.engine.choose import Path as EnginePath
from diamond_fast.engine.world import imagination
from diamond_fast.networks.actor_critic.model import lambda_returns
from diamond_fast.networks.reward_end.coding import Signs, SymlogBins
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.settings import from_json
from diamond_fast.world_model import Agent

SYMLOG = np.linspace(-20, 20, 255)
BINS = np.sign(SYMLOG) * np.expm1(np.abs(SYMLOG))
REWARDS = [0.0, 1.0, -1.0, 0.05, -0.1, 3.7, -100.0, 927.3, 5e4, -1e-6, 4e8, -2.25e-2]
CODING = SymlogBins()


def two_hot(reward):
    """Word by word: the weight is shared by the bins on both sides, in proportion to how near they are."""
    above = min(max(int(np.searchsorted(BINS, reward, side="right")), 1), 254)
    share = np.clip((reward - BINS[above - 1]) / (BINS[above] - BINS[above - 1]), 0, 1)
    row = np.zeros(255)
    row[above - 1], row[above] = 1 - share, share
    return row


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_hot_rows_have_the_reward_as_their_mean(dtype):
    rows = CODING.two_hot(torch.tensor(REWARDS, dtype=dtype)).double().numpy()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(rows, [two_hot(r) for r in REWARDS], rtol=0, atol=20 * tolerance)
    np.testing.assert_allclose(rows @ BINS, REWARDS, rtol=20 * tolerance, atol=tolerance)
    assert ((rows > 0).sum(axis=1) <= 2).all()


def test_beyond_the_last_bin_it_is_the_last():
    rows = CODING.two_hot(torch.tensor([1e30, -1e30]))
    assert rows.argmax(1).tolist() == [254, 0]
    assert rows.max(1).values.tolist() == [1, 1]


def test_the_mean_is_that_of_all_bins():
    logits = torch.randn(4, 5, 255, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    np.testing.assert_allclose(CODING.mean(logits), p @ BINS, rtol=1e-9)


def test_what_was_never_seen_cancels_exactly():
    """In float32, with the far bins as likely as nearer ones, where their sum would be off by thousands."""
    assert CODING.mean(torch.zeros(255)) == 0
    assert CODING.mean(torch.full((255,), -3.0).index_fill(0, torch.tensor([127 - 4, 127 + 4]), 1.0)) == 0


def test_cross_entropy_and_its_gradient():
    logits = torch.randn(len(REWARDS), 255, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.requires_grad_()
    loss = CODING.cross_entropy(logits, torch.tensor(REWARDS))
    target = np.array([two_hot(r) for r in REWARDS])
    log_p = logits.detach().numpy() - np.log(np.exp(logits.detach().numpy()).sum(1, keepdims=True))
    np.testing.assert_allclose(loss.detach(), -(target * log_p).sum(1), rtol=1e-5)
    loss.sum().backward()
    np.testing.assert_allclose(logits.grad, np.exp(log_p) - target, rtol=0, atol=1e-5)


def test_signs_of_bins():
    """The likeliest of less, nothing and more, all bins of a side together."""
    logits = torch.full((3, 255), -9.0)
    logits[0, [3, 40, 100]], logits[0, 127], logits[0, 200] = 1.0, 1.5, 1.5
    logits[1, 127], logits[1, 128] = 2.0, 1.0
    logits[2, 254] = 0.0
    assert CODING.sign_logits(logits).argmax(-1).tolist() == [0, 1, 2]
    assert Signs().sign_logits(torch.tensor([1.0, 2.0, 0.0])).tolist() == [1, 2, 0]


def test_logits_learn_the_mean_of_uncertain_rewards():
    """Of one that is 250, and of one that is -0.4 in three cases of four, else 20."""
    logits = torch.zeros(2, 255, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        rows = logits[[0, 1, 1, 1, 1]]
        CODING.cross_entropy(rows, torch.tensor([250.0, -0.4, -0.4, -0.4, 20.0])).sum().backward()
        optimiser.step()
    means = CODING.mean(logits.detach())
    torch.testing.assert_close(means, torch.tensor([250.0, 0.25 * 20 - 0.75 * 0.4]), rtol=0.05, atol=0)


def test_a_model_has_the_bins_it_asks_for_and_expects_nothing_at_first():
    cfg = RewardEndConfig(
        lstm_dim=16, cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,), reward_head="symlog-bins"
    )
    model = RewardEndModel(cfg, 2, frame_size=8)
    obs, act = torch.rand(3, 2, 3, 8, 8) * 2 - 1, torch.zeros(3, 2, dtype=torch.int64)
    logits, ends, _ = model.predict(obs[:, :1], act[:, :1], obs[:, 1:])
    assert (logits.shape, ends.shape) == ((3, 1, 255), (3, 1, 2))
    assert not CODING.mean(logits).any()
    assert ends.detach().any()
    rew = torch.tensor([[250.0, 0], [-0.4, 0], [0.0, 0]])
    loss = model.loss(obs, act, rew, torch.zeros(3, 2).bool(), torch.ones(3, 2).bool())
    assert loss.reward.item() == pytest.approx(np.log(255), rel=1e-6)
    assert loss.confusion_reward.sum(dim=1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("engine", ["readable", "torch"])
def test_imagined_rewards_are_the_means(engine):
    cfg = replace(SMALL_WORLD, reward_end=replace(SMALL_WORLD.reward_end, reward_head="symlog-bins"))
    torch.manual_seed(0)
    agent, replay = Agent(cfg, num_actions=4), make_replay([30])
    torch.nn.init.normal_(agent.rew_end_model.head[2].weight[:255], std=3.0)
    path = EnginePath(torch.device("cpu"), torch.float32, engine, False, "a test")
    env = imagination(agent, cfg.world_model, path, replay.segments(3, 4), 3)
    before, act = env.reset(), torch.tensor([1, 0, 3])
    memory = env.state.hx.clone(), env.state.cx.clone()
    step = env.step(act)
    with torch.no_grad():
        logits, *_ = agent.rew_end_model.predict(before[:, None], act[:, None], step.final_obs[:, None], memory)
    expected = CODING.mean(logits.double())[:, 0]
    assert expected.abs().min() > 10
    torch.testing.assert_close(step.rew.double(), expected, rtol=1e-3, atol=1e-3)


def test_returns_of_rewards_that_are_not_signs():
    rew = torch.tensor([[0.25, -3.0, 40.0]], dtype=torch.float64)
    never, boot = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)
    returns = lambda_returns(rew, never, never, boot, 0.5, 1.0, signs=False)
    assert returns.tolist() == [[0.25 + 0.5 * (-3 + 0.5 * (40 + 0.5 * 2)), -3 + 0.5 * (40 + 0.5 * 2), 40 + 0.5 * 2]]
    signs = lambda_returns(rew, never, never, boot, 0.5, 1.0)
    assert signs.tolist() == [[1 + 0.5 * (-1 + 0.5 * (1 + 0.5 * 2)), -1 + 0.5 * (1 + 0.5 * 2), 1 + 0.5 * 2]]


def test_the_flag_and_older_runs():
    args = train.read_command_line(["--preset", "catch", "--reward-head", "symlog-bins", "--device", "cpu"])
    assert args.config.reward_end.reward_head == "symlog-bins"
    older = Path(__file__).parents[1] / "runs" / "fixtures" / "config_1883d4c.json"
    saved = json.loads(older.read_text())
    assert "reward_head" not in saved["reward_end"]
    assert from_json(RunConfig(), saved).reward_end.reward_head == "sign"
