"""What actions do in imagination: motion against pictures that were moved, rollouts against recorded actions."""

import numpy as np
import pytest
import torch
from small_world import SMALL_WORLD as CFG
from small_world import make_agent, make_replay

from diamond_fast.engine.choose import choose_path
from diamond_fast.evaluation.fixed_actions import Rollouts, imagine
from diamond_fast.evaluation.held_actions import action_row, effects, moved, recorded_effects
from diamond_fast.evaluation.open_loop import imagine_held_out
from diamond_fast.evaluation.optical_flow import flow
from diamond_fast.replay import Replay
from diamond_fast.replay.buffer import Episode
from diamond_fast.spec import Box, Discrete, Mixed, MultiBinary

READABLE = choose_path(torch.device("cpu"), choice="readable")
MIXED = Mixed(parts=(("keys", MultiBinary(2)), ("gear", Discrete(3)), ("turn", Box(1))))


def panorama(offset, width=48):
    """uint8 [10,width,3]: the view, turned so many pixels to the right; smooth, so that half pixels are known."""
    x = np.arange(width) + offset
    row = 128 + 60 * np.sin(2 * np.pi * x / 37) + 40 * np.sin(2 * np.pi * x / 11 + 1)
    rows = row + 10 * np.sin(np.arange(10))[:, None]
    return np.repeat(np.rint(rows)[..., None], 3, axis=-1).astype(np.uint8)


def test_motion_is_found_to_a_part_of_a_pixel():
    offsets = np.array([0, 1, -1, 3.5, -7.25, 10])
    before = np.stack([panorama(5)] * len(offsets))
    after = np.stack([panorama(5 + offset) for offset in offsets])
    np.testing.assert_allclose(flow(before, after)[..., 0], -offsets, atol=0.12)
    np.testing.assert_allclose(flow(before[None], after[None])[..., 0], -offsets[None], atol=0.12)
    np.testing.assert_allclose(moved(before, after)["sideways"], -offsets, atol=0.12)
    np.testing.assert_allclose(moved(before, after)["apart"], 0, atol=0.3)


def test_nothing_to_be_seen_does_not_move():
    blank = np.full((2, 6, 12, 3), 77, np.uint8)
    assert (flow(blank, blank) == 0).all()


def test_halves_move_apart_for_someone_who_walks_on():
    half = [panorama(5, 24), panorama(5 + 2, 24)]  # the right one moves to the left, so do both of the mirror image
    before, closer = (np.concatenate((each, each[:, ::-1]), axis=1) for each in half)
    np.testing.assert_allclose(moved(before[None], closer[None])["apart"], [4], atol=0.2)
    np.testing.assert_allclose(moved(closer[None], before[None])["apart"], [-4], atol=0.2)


def test_what_is_below_does_not_count():
    before, after = panorama(0), panorama(4)
    before[7:] = after[7:] = np.random.default_rng(0).integers(0, 256, (3, 48, 3))
    np.testing.assert_allclose(moved(before, after)["sideways"], -4, atol=0.1)


def test_effects_are_means_over_starts():
    """Two actions from three starts, four frames each: one does nothing, the other turns to the right."""
    starts, frames = np.array([0, 9, 20]), np.arange(5)
    idle = np.stack([[panorama(start)] * 5 for start in starts])
    turning = np.stack([[panorama(start + 2 * t) for t in frames] for start in starts])
    found = effects(Rollouts(idle[:, 0], {"idle": idle[:, 1:], "turning": turning[:, 1:]}))
    assert found["idle"]["sideways"][0] == pytest.approx(0, abs=0.1)
    assert found["turning"]["sideways"][0] == pytest.approx(-2, abs=0.1)
    assert found["turning"]["sideways"][1] < 0.3
    assert found["idle"]["differs"].tolist() == [0, 0]
    grey = np.abs(turning[:, 1:].astype(float) - idle[:, 1:]).mean(axis=(1, 2, 3, 4))
    half_width = 4.3027 * grey.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found["turning"]["differs"], [grey.mean(), half_width], rtol=1e-4)


def test_a_held_action_is_what_a_recording_with_it_gives():
    agent, replay = make_agent(), make_replay([30])
    for weight in agent.denoiser.parameters():  # at the start actions change nothing
        torch.nn.init.normal_(weight, std=0.2)
    episode = replay.episode(0)
    held = Replay(CFG.frame_shape, capacity=31, action=replay.action)
    held.append_episode(episode._replace(act=np.full_like(episode.act, 2)))
    rollouts = imagine(agent, replay, CFG, READABLE, {"one": np.int64(1), "two": np.int64(2)}, seed=3, count=2)
    recorded = imagine_held_out(agent, held, CFG, READABLE, seed=3, count=2)
    past = CFG.denoiser.inner_model.num_steps_conditioning - 1
    assert rollouts.imagined["two"].shape == (2, CFG.world_model.horizon, 8, 8, 3)
    assert past > 0
    np.testing.assert_array_equal(rollouts.last_seen, recorded.last_seen)
    assert (rollouts.imagined["one"] != rollouts.imagined["two"]).any()
    # From then on no recorded action is among those that a frame depends on, but frames before it are.
    first = imagine(agent, held, CFG, READABLE, {"two": np.int64(2)}, seed=3, count=2)
    np.testing.assert_array_equal(first.imagined["two"], recorded.imagined)
    assert imagine(agent, make_replay([4]), CFG, READABLE, {"one": np.int64(1)}, seed=3, count=2) is None


def test_the_recording_shows_what_an_action_does():
    rng = np.random.default_rng(0)
    turns = rng.choice([-3.0, 0.0, 3.0], 60).astype(np.float32)
    offsets = np.concatenate(([0], turns.cumsum()))
    obs = np.stack([panorama(offset) for offset in offsets])
    nothing = np.zeros(60, bool)
    replay = Replay((10, 48, 3), capacity=61, action=Box(1))
    replay.append_episode(Episode(obs[:-1], turns[:, None], np.zeros(60, np.float32), nothing, nothing, obs[-1]))
    replay.commit()
    for turn in (-3.0, 0.0, 3.0):
        mean, half = recorded_effects(replay, np.array([turn], np.float32), count=10)["sideways"]
        assert abs(mean + turn) < 0.2
        assert half < 0.2


def test_actions_as_they_are_written():
    assert action_row(Discrete(4), 3) == 3
    assert action_row(Box(2), [0.5, -1]).tolist() == [0.5, -1]
    assert action_row(MIXED, {}).tolist() == [0, 0, 1, 0, 0, 0]
    assert action_row(MIXED, {"turn": [0.25], "gear": 2, "keys": [0, 1]}).tolist() == [0, 1, 0, 0, 1, 0.25]


@pytest.mark.parametrize(
    ("action", "given", "message"),
    [
        (Discrete(4), 4, "expected 0 to 3"),
        (Box(2), [0.5], r"expected \[2\], got \[0.5\]"),
        (MIXED, [1], "expected an object with keys, gear, turn, got"),
        (MIXED, {"stear": [1]}, "expected keys, gear, turn, got"),
        (MIXED, {"gear": 3}, "gear: expected 0 to 2"),
    ],
)
def test_actions_that_are_none(action, given, message):
    with pytest.raises(ValueError, match=message):
        action_row(action, given)
