import numpy as np
import pytest
import torch

from diamond_fast.config import (
    ActorCriticConfig,
    DenoiserConfig,
    InnerModelConfig,
    RewardEndConfig,
    RunConfig,
    SamplerConfig,
    UpdateConfig,
    WorldModelConfig,
)
from diamond_fast.frames import to_float
from diamond_fast.models.agent import Agent
from diamond_fast.models.sampler import DiffusionSampler
from diamond_fast.replay import Replay
from diamond_fast.training.held_out import held_out_losses, imagine_held_out, predict_frames

CFG = RunConfig(
    frame_size=8,
    denoiser=DenoiserConfig(InnerModelConfig(cond_channels=16, depths=(1,), channels=(8,), attn_depths=(0,))),
    denoiser_update=UpdateConfig(batch_size=3),
    reward_end=RewardEndConfig(lstm_dim=8, cond_channels=8, depths=(1,), channels=(8,), attn_depths=(0,)),
    reward_end_update=UpdateConfig(batch_size=3),
    actor_critic=ActorCriticConfig(lstm_dim=8, channels=(8,), down=(1,)),
    world_model=WorldModelConfig(SamplerConfig(num_steps=1), horizon=5),
)


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    agent = Agent(CFG, num_actions=4)
    torch.nn.init.normal_(agent.denoiser.inner_model.conv_out.weight, std=0.3)
    return agent


def make_replay(lengths):
    rng = np.random.default_rng(0)
    replay = Replay((8, 8, 3), capacity=200)
    for length in lengths:
        for t in range(length):
            frames = rng.integers(256, size=(2, 1, 8, 8, 3), dtype=np.uint8)
            end = np.array([t == length - 1])
            replay.append(frames[0], rng.integers(4, size=1), np.ones(1, np.float32), end, ~end & False, frames[1])
    replay.commit()
    return replay


def test_frames_are_predicted_from_the_models_own(agent):
    """Frame k sees the last real frames and predictions before it, and the action taken at its predecessor."""
    context = torch.rand(2, 4, 3, 8, 8) * 2 - 1
    act = torch.randint(4, (2, 7))

    calls = []

    class Recorder(DiffusionSampler):
        def sample(self, prev_obs, prev_act, randn):
            calls.append((prev_obs, prev_act))
            return torch.full((2, 3, 8, 8), float(len(calls))), []

    sampler = Recorder(agent.denoiser, CFG.world_model.sampler)
    frames = predict_frames(sampler, context, act)
    assert frames[:, :, 0, 0, 0].tolist() == [[1.0, 2.0, 3.0]] * 2
    (obs0, act0), (obs1, _), (obs2, act2) = calls
    assert torch.equal(obs0, context)
    assert torch.equal(act0, act[:, :4])
    assert torch.equal(obs1, torch.cat((context[:, 1:], frames[:, :1]), dim=1))
    assert torch.equal(obs2, torch.cat((context[:, 2:], frames[:, :2]), dim=1))
    assert torch.equal(act2, act[:, 2:6])


def test_strips_come_from_episodes_that_are_long_enough(agent):
    replay = make_replay([3, 30, 5])
    strips = imagine_held_out(agent, replay, CFG, seed=0)
    assert strips.real.shape == strips.imagined.shape == (3, 5, 8, 8, 3)
    obs = replay.episode(1).obs
    starts = [next(i for i in range(30) if (obs[i : i + 1] == real[0]).all()) for real in strips.real]
    assert starts == sorted(set(starts))  # three places, all in the long episode
    for start, real in zip(starts, strips.real, strict=True):
        assert (real == obs[start : start + 5]).all()


def test_strips_depend_on_the_seed_alone(agent):
    replay = make_replay([30])
    torch.manual_seed(1)
    first = imagine_held_out(agent, replay, CFG, seed=0).imagined
    torch.manual_seed(2)
    assert (imagine_held_out(agent, replay, CFG, seed=0).imagined == first).all()


def test_no_strips_from_short_episodes(agent):
    assert imagine_held_out(agent, make_replay([9, 4]), CFG, seed=0) is None


def test_held_out_losses_are_those_of_the_models(agent):
    """One episode of constant length: the reward/end loss by hand, on the same segments."""
    replay = make_replay([40])
    losses = held_out_losses(agent, replay, CFG, seed=5)
    assert set(losses) == {"denoiser/held_out_loss", "reward_end/held_out_loss"}
    segments = replay.segments(3, CFG.reward_end_seq_length, beyond_end=True, seed=5)
    expected = []
    for _ in range(4):
        b = segments.next()
        obs = to_float(b.frames, b.pixel_mask)
        with torch.no_grad():
            expected.append(agent.rew_end_model.loss(obs, b.act, b.rew, b.end, b.mask_padding).total.item())
    assert losses["reward_end/held_out_loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert losses == held_out_losses(agent, replay, CFG, seed=5)
