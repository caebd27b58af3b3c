"""Other libraries' PPO learns in a world model: rewards depend on the action alone, and the best one is found."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD, make_agent, make_replay

from diamond_fast.envs.world_model import WorldModelEnv

EXAMPLES = Path(__file__).parents[1] / "examples"
BEST = 2


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture(scope="module")
def agent():
    """Its reward/end model has learned that one action of four is worth 1, the others -1, and that nothing ends."""
    agent = make_agent()
    model = agent.rew_end_model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        obs, act = torch.rand(16, 3, 3, 8, 8) * 2 - 1, torch.randint(4, (16, 3))
        all_of_them = torch.ones_like(act, dtype=torch.bool)
        optimizer.zero_grad()
        loss = model.loss(obs, act, (act == BEST).float() * 2 - 1, ~all_of_them, all_of_them)
        loss.total.backward()
        optimizer.step()
    assert loss.total.item() < 0.2
    return agent.requires_grad_(False)


@pytest.fixture
def env(agent):
    return WorldModelEnv(agent, make_replay([20, 20]), 16, SMALL_WORLD.world_model, engine="readable")


def test_ppo_in_one_file(env):
    import ppo

    torch.manual_seed(0)
    means = ppo.train(env, total_steps=8 * 8 * 16, steps=8, lr=3e-3)
    assert len(means) == 8
    assert means[0] < 0 < 0.5 < means[-1]


def test_its_advantages_against_their_definition():
    import ppo

    rng = np.random.default_rng(0)
    rewards, values, last, over = rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), rng.normal(size=2), np.zeros((5, 2))
    over[1, 0] = over[4, 1] = 1
    following = np.concatenate((values[1:], last[None]))
    errors = rewards + ppo.GAMMA * following * (1 - over) - values
    expected = np.zeros((5, 2))
    for t in range(5):
        for k in range(t, 5):
            expected[t] += (ppo.GAMMA * ppo.LAMBDA) ** (k - t) * errors[k] * np.prod(1 - over[t:k], axis=0)
    got = ppo.advantages(*(torch.from_numpy(x) for x in (rewards, values, last, over)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_stable_baselines3(env):
    pytest.importorskip("stable_baselines3", reason="needs pip install 'diamond_fast[sb3]'")
    import stable_baselines3_ppo as example

    model = example.train(env, total_steps=8 * 8 * 16, n_steps=8, learning_rate=3e-3, batch_size=32)
    frames, _ = env.reset(seed=1)
    assert np.mean(model.policy.predict(frames, deterministic=True)[0] == BEST) > 0.8
    lengths = {episode["l"] for episode in model.ep_info_buffer}
    assert max(lengths) == SMALL_WORLD.world_model.horizon

    wrapped = example.ImaginedVecEnv(env)
    wrapped.reset()
    over = np.zeros(16, bool)
    while not over.any():
        obs, _, over, infos = wrapped.step(np.zeros(16, int))
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert all((info["terminal_observation"] != obs[i]).any() for i, info in enumerate(infos))
