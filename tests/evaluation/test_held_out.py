import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_world import SMALL_WORLD as CFG
from small_world import make_agent, make_replay
from worlds import world

from diamond_fast.evaluation import held_out
from diamond_fast.evaluation.held_out import RewardEndQuality, held_out_figures, reward_end_quality
from diamond_fast.frames import to_uint8
from diamond_fast.networks.reward_end.model import RewardEndModel
from diamond_fast.replay import Replay


@pytest.fixture(scope="module")
def agent():
    return make_agent()


class Oracle(RewardEndModel):
    """Classifies by grey levels alone: the first pixel of a frame decides the reward, of the next one the end."""

    def __init__(self):
        super().__init__(CFG.reward_end, world(1, 8))

    def predict(self, obs, act, next_obs, hx_cx=None):
        reward = (to_uint8(obs)[..., 0, 0, 0] % 3).long()
        end = (to_uint8(next_obs)[..., 0, 0, 0] % 2).long()
        return 9.0 * F.one_hot(reward, 3).float(), 9.0 * F.one_hot(end, 2).float(), None


def make_classified(lengths, ended):
    """Episodes of random frames and rewards; the last one runs on if ``ended`` is False."""
    rng = np.random.default_rng(3)
    replay = Replay((8, 8, 3), capacity=sum(lengths))
    for number, length in enumerate(lengths):
        frames = rng.integers(256, size=(length + 1, 1, 8, 8, 3), dtype=np.uint8)
        for t in range(length):
            end = np.array([t == length - 1 and (ended or number < len(lengths) - 1)])
            rew = rng.integers(-2, 3, size=1).astype(np.float32)
            replay.append(frames[t], np.zeros(1, np.int64), rew, end, ~end & False, frames[t + 1])
    replay.commit()
    return replay


@pytest.mark.parametrize("ended", [True, False])
def test_every_step_is_classified_once(ended):
    """Against a loop over the episodes. Lengths around the window's 9 - 1 steps, so that all borders occur."""
    replay = make_classified([1, 7, 8, 9, 16, 17, 40], ended)
    reward, end = np.zeros((3, 3), int), np.zeros((2, 2), int)
    for i in range(replay.num_episodes):
        e = replay.episode(i)
        following = [*e.obs[1:], *([] if e.final_obs is None else [e.final_obs])]
        for frame, next_frame, rew, ends in zip(e.obs, following, e.rew, e.end, strict=False):
            reward[int(np.sign(rew)) + 1, frame[0, 0, 0] % 3] += 1
            end[int(ends), next_frame[0, 0, 0] % 2] += 1
    quality = reward_end_quality(Oracle(), replay, CFG)
    assert quality.steps == 98 - (not ended)
    np.testing.assert_array_equal(quality.confusion_reward, reward)
    np.testing.assert_array_equal(quality.confusion_end, end)
    right, wrong = -9 + np.log(np.exp(9) + 2), np.log(np.exp(9) + 2)
    right2, wrong2 = -9 + np.log(np.exp(9) + 1), np.log(np.exp(9) + 1)
    hits, hits2 = np.trace(reward), np.trace(end)
    total = hits * right + (quality.steps - hits) * wrong + hits2 * right2 + (quality.steps - hits2) * wrong2
    assert quality.loss == pytest.approx(total / quality.steps, rel=1e-5)


def test_precision_and_recall_from_a_matrix_counted_by_hand():
    """Of 10 steps with +1, 6 were called +1 and 4 called 0; +1 was said 8 times: precision 6/8, recall 6/10."""
    quality = RewardEndQuality(100, 0.0, np.array([[0, 5, 0], [0, 83, 2], [0, 4, 6]]), np.array([[95, 1], [1, 3]]))
    assert quality.reward["precision/+1"] == 6 / 8
    assert quality.reward["recall/+1"] == 6 / 10
    assert quality.reward["precision/-1"] is None  # never said
    assert quality.reward["recall/-1"] == 0
    assert (quality.end["precision/ends"], quality.end["recall/ends"]) == (3 / 4, 3 / 4)


def test_windows_left_out_are_spread_evenly():
    replay = make_classified([80], True)
    assert reward_end_quality(Oracle(), replay, CFG).steps == 80
    assert reward_end_quality(Oracle(), replay, CFG, at_most=5).steps == 5 * 8
    told = []
    assert reward_end_quality(Oracle(), replay, CFG, at_most=10, advance=told.append).steps == 80
    assert told == [3, 3, 3, 1]


def test_the_loss_is_the_models_over_whole_windows(agent):
    replay = make_replay([40])
    length = CFG.reward_end_seq_length
    losses = []
    for start in range(0, 40, length - 1):
        b = replay.segment(0, start, start + length)
        with torch.no_grad():
            losses.append(agent.rew_end_model.loss(b.obs(), b.act, b.rew, b.end, b.mask_padding).total.item())
    expected = np.mean(losses)  # 5 windows of 8 steps
    assert reward_end_quality(agent.rew_end_model, replay, CFG).loss == pytest.approx(expected, rel=1e-5)


def test_figures_of_a_run(agent, monkeypatch):
    replay = make_replay([40, 30])
    figures = held_out_figures(agent, replay, CFG, seed=5)
    quality = reward_end_quality(agent.rew_end_model, replay, CFG)
    assert figures["reward_end/held_out_loss"] == quality.loss
    assert figures["reward_end/held_out_end/recall/ends"] == quality.end["recall/ends"]
    assert figures["reward_end/held_out_reward/recall/+1"] == np.diag(quality.confusion_reward)[2] / 70
    assert figures == held_out_figures(agent, replay, CFG, seed=5)
    monkeypatch.setattr(held_out, "MAX_BATCHES", 1)
    three_windows = reward_end_quality(agent.rew_end_model, replay, CFG, at_most=3)
    assert (
        held_out_figures(agent, replay, CFG, seed=5)["reward_end/held_out_loss"] == three_windows.loss != quality.loss
    )
    assert figures["denoiser/held_out_loss"] != held_out_figures(agent, replay, CFG, 6)["denoiser/held_out_loss"]
