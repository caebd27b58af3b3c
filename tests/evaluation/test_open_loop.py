"""Open-loop predictions against loops over steps and pixels."""

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD as CFG
from small_world import make_agent, make_replay

from diamond_fast.engine.choose import Path, choose_path
from diamond_fast.evaluation.open_loop import imagine_held_out, pixel_errors, predict_frames, spread
from diamond_fast.world_model import DiffusionSampler

CPU = torch.device("cpu")
READABLE = choose_path(CPU, choice="readable")
FAST = Path(CPU, torch.float32, "fused", False, "a test")


@pytest.fixture(scope="module")
def agent():
    return make_agent()


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


def test_predictions_come_from_episodes_that_are_long_enough(agent):
    replay = make_replay([3, 30, 5])
    predictions = imagine_held_out(agent, replay, CFG, READABLE, seed=0)
    assert predictions.real.shape == predictions.imagined.shape == (3, 5, 8, 8, 3)
    obs = replay.episode(1).obs
    starts = [next(i for i in range(30) if (obs[i : i + 1] == real[0]).all()) for real in predictions.real]
    assert starts == sorted(set(starts))  # three places, all in the long episode
    for start, real in zip(starts, predictions.real, strict=True):
        assert (real == obs[start : start + 5]).all()


def test_predictions_depend_on_the_seed_alone(agent):
    replay = make_replay([30])
    torch.manual_seed(1)
    first = imagine_held_out(agent, replay, CFG, READABLE, seed=0).imagined
    torch.manual_seed(2)
    assert (imagine_held_out(agent, replay, CFG, READABLE, seed=0).imagined == first).all()


def test_the_fast_path_predicts_much_the_same(agent):
    replay = make_replay([30])
    plain, fast = (imagine_held_out(agent, replay, CFG, path, seed=0).imagined for path in (READABLE, FAST))
    other = imagine_held_out(agent, replay, CFG, READABLE, seed=1).imagined
    difference = np.abs(fast.astype(int) - plain)
    assert difference.mean() < 0.1 * np.abs(other.astype(int) - plain).mean()


def test_no_predictions_from_short_episodes(agent):
    assert imagine_held_out(agent, make_replay([9, 4]), CFG, READABLE, seed=0) is None


def test_pixel_errors_against_a_plain_loop():
    rng = np.random.default_rng(0)
    real, imagined = rng.integers(256, size=(2, 2, 3, 4, 5, 3), dtype=np.uint8)
    mean_absolute, root_mean_square = pixel_errors(real, imagined)
    assert mean_absolute.shape == root_mean_square.shape == (2, 3)
    for s in range(2):
        for k in range(3):
            total = squares = 0
            for a, b in zip(real[s, k].ravel().tolist(), imagined[s, k].ravel().tolist(), strict=True):
                total += abs(a - b)
                squares += (a - b) ** 2
            assert mean_absolute[s, k] == pytest.approx(total / 60, rel=1e-6)
            assert root_mean_square[s, k] == pytest.approx((squares / 60) ** 0.5, rel=1e-6)


def test_pixel_errors_of_a_frame_held_still():
    frames = np.zeros((2, 3, 4, 4, 3), np.uint8)
    frames[:, 1], frames[1, 2] = 10, 200
    errors, _ = pixel_errors(frames, np.zeros((2, 1, 4, 4, 3), np.uint8))
    assert errors.tolist() == [[0, 10, 0], [0, 10, 200]]


def test_segments_are_spread_over_places_and_never_counted_twice():
    assert spread(np.array([5, 9]), 9, 4) == []
    segments = spread(np.array([100, 9, 60]), 10, 8)
    assert [e for e, _ in segments] == [0, 2] * 4
    assert all(0 <= t < n - 10 for (e, t), n in zip(segments, [100, 60] * 4, strict=True))
    assert len(segments) == len(set(segments))
    assert len(spread(np.array([12]), 10, 50)) == 2  # an episode that long has two places


def test_each_segment_is_cut_where_it_should_be(agent):
    """In several batches; the frame before the first imagined one included."""
    replay, told = make_replay([30, 25]), []
    predictions = imagine_held_out(agent, replay, CFG, READABLE, seed=0, count=7, batch_size=3, advance=told.append)
    assert told == [3] * 5 + [3] * 5 + [1] * 5
    for (episode, start), before, real in zip(
        spread(replay.lengths, 9, 7), predictions.last_seen, predictions.real, strict=True
    ):
        obs = replay.episode(episode).obs
        np.testing.assert_array_equal(before, obs[start + 3])
        np.testing.assert_array_equal(real, obs[start + 4 : start + 9])
