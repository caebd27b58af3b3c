"""The buffer in memory: what is stored, what is visible, how segments are cut."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_model import SHAPE, Model, append_steps

from diamond_fast.replay import Replay

GOLDEN = Path(__file__).parent / "golden"


def golden_replay(golden) -> Replay:
    replay = Replay((4, 4, 3))
    for i in range(len(golden["lengths"])):
        episode = {name: golden[f"ep{i}_{name}"] for name in ("act", "rew", "end", "trunc")}
        obs = golden[f"ep{i}_obs_u8"].transpose(0, 2, 3, 1)
        final = golden[f"ep{i}_final_obs_u8"].transpose(1, 2, 0) if f"ep{i}_final_obs_u8" in golden else obs[0]
        for t in range(len(obs)):
            row = {name: array[t : t + 1] for name, array in episode.items()}
            row["end"], row["trunc"] = row["end"].astype(bool), row["trunc"].astype(bool)
            replay.append(obs=obs[t : t + 1], **row, final_obs=final[None])
        replay.close_episodes()
    return replay


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "segments.npz"))


def test_golden_episodes(golden):
    replay = golden_replay(golden)
    assert replay.lengths.tolist() == golden["lengths"].tolist()
    assert replay.num_steps == 140
    rewards = np.concatenate([golden[f"ep{i}_rew"] for i in range(8)])
    assert replay.reward_counts.tolist() == [(rewards < 0).sum(), (rewards == 0).sum(), (rewards > 0).sum()]
    ends = sum(int(golden[f"ep{i}_end"].sum()) for i in range(8))
    assert replay.end_counts.tolist() == [140 - ends, ends]
    for i in range(8):
        episode = replay.episode(i)
        np.testing.assert_array_equal(episode.obs, golden[f"ep{i}_obs_u8"].transpose(0, 2, 3, 1))
        for name in ("act", "rew", "end", "trunc"):
            np.testing.assert_array_equal(getattr(episode, name), golden[f"ep{i}_{name}"])
        has_final = bool(golden[f"ep{i}_end"].any() or golden[f"ep{i}_trunc"].any())
        assert (episode.final_obs is not None) == has_final
        if has_final:
            np.testing.assert_array_equal(episode.final_obs, golden[f"ep{i}_final_obs_u8"].transpose(1, 2, 0))


@pytest.mark.parametrize("k", range(9))
def test_golden_segments(golden, k):
    episode, start, stop = golden["segment_ids"][k].tolist()
    segment = golden_replay(golden).segment(episode, start, stop)
    for name in ("act", "rew", "end", "trunc", "mask_padding"):
        np.testing.assert_array_equal(getattr(segment, name)[0], golden[f"seg{k}_{name}"])
    assert (segment.episode.tolist(), segment.start.tolist()) == ([episode], [start])

    obs, expected = segment.obs()[0].numpy(), golden[f"seg{k}_obs"].copy()
    pixel_mask = golden[f"seg{k}_mask_padding"].copy()
    after = golden["lengths"][episode] - start  # where the final observation stands, which the golden segments leave 0
    if after < stop - start and golden[f"ep{episode}_end"][-1] | golden[f"ep{episode}_trunc"][-1]:
        pixel_mask[after] = True
        expected[after] = golden[f"ep{episode}_final_obs_u8"].astype(np.float64) / 255 * 2 - 1
    np.testing.assert_array_equal(segment.pixel_mask[0], pixel_mask)
    np.testing.assert_allclose(obs, expected, rtol=0, atol=1e-6)
    assert (obs[~pixel_mask] == 0).all()


def test_segments_against_plain_python(golden):
    """Every cut of every episode, also wholly outside it, equals slicing a padded list."""
    replay = golden_replay(golden)
    for i, length in enumerate(replay.lengths):
        episode = replay.episode(i)
        frames = list(episode.obs) + ([] if episode.final_obs is None else [episode.final_obs])
        for start in range(-8, length + 4):
            segment = replay.segment(i, start, start + 7)
            for j, t in enumerate(range(start, start + 7)):
                real, seen = 0 <= t < length, 0 <= t < len(frames)
                assert segment.mask_padding[0, j] == real
                assert segment.pixel_mask[0, j] == seen
                np.testing.assert_array_equal(segment.frames[0, j], frames[t] if seen else np.zeros((4, 4, 3)))
                assert segment.act[0, j] == (episode.act[t] if real else 0)
                assert segment.rew[0, j] == (episode.rew[t] if real else 0)
                assert segment.end[0, j] == (real and episode.end[t])
                assert segment.trunc[0, j] == (real and episode.trunc[t])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), num_envs=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_interleaved_environments_against_a_model(data, num_envs, seed):
    replay, model, rng = Replay(SHAPE, num_envs, capacity=100 * num_envs), Model(num_envs), np.random.default_rng(seed)
    rarely = st.sampled_from([False] * 4 + [True])
    for step in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["append"] * 8 + ["commit", "close_episodes"]))
        if action == "append":
            ends = [data.draw(st.lists(rarely, min_size=num_envs, max_size=num_envs)) for _ in range(2)]
            model.append(**append_steps(replay, rng, *([e] for e in ends))[0])
        else:
            getattr(replay, action)()
            getattr(model, action)()
        if action != "append" or step % 4 == 0:
            model.check(replay)
    model.check(replay)


def test_running_episodes_are_visible_after_a_commit_only():
    replay, rng = Replay(SHAPE, num_envs=2), np.random.default_rng(0)
    no, one = [False, False], [False, True]
    append_steps(replay, rng, [no, one, no], [no, no, no])
    assert replay.lengths.tolist() == [2]  # environment 1's first episode has ended
    assert replay.commit() == 0
    assert replay.lengths.tolist() == [2, 3, 1]
    append_steps(replay, rng, [no], [no])
    assert replay.lengths.tolist() == [2, 3, 1]
    append_steps(replay, rng, [one], [no])
    assert replay.lengths.tolist() == [2, 3, 3]
    assert replay.episode(1).final_obs is None
    assert replay.segment(1, 2, 5).pixel_mask.tolist() == [[True, False, False]]
    assert replay.segment(2, 2, 5).pixel_mask.tolist() == [[True, True, False]]


def test_a_full_buffer_says_so_and_keeps_what_it_has():
    replay, rng = Replay(SHAPE, num_envs=3, capacity=7), np.random.default_rng(0)  # rounded up to 3 vector steps
    yes = [True] * 3
    append_steps(replay, rng, [yes] * 3, [yes] * 3)
    with pytest.raises(RuntimeError, match="replay full: it holds 9 steps"):
        append_steps(replay, rng, [yes], [yes])
    assert replay.lengths.tolist() == [1] * 9


def test_untouched_capacity_costs_no_memory():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident()
    replay = Replay((64, 64, 3), num_envs=4, capacity=10_000_000)  # 246 GB of address space
    append_steps(replay, np.random.default_rng(0), [[True] * 4], [[False] * 4])
    assert resident() - before < 32e6


def good_step() -> dict[str, np.ndarray]:
    return {
        "obs": np.zeros((2, *SHAPE), np.uint8),
        "act": np.zeros(2, np.int64),
        "rew": np.zeros(2, np.float32),
        "end": np.zeros(2, bool),
        "trunc": np.zeros(2, bool),
        "final_obs": np.zeros((2, *SHAPE), np.uint8),
    }


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("obs", np.zeros((2, *SHAPE), np.float32), TypeError, "obs: expected uint8, got float32"),
        ("obs", np.zeros((1, *SHAPE), np.uint8), ValueError, r"obs: expected shape \(2, 2, 3, 1\), got \(1, 2, 3, 1\)"),
        ("final_obs", np.zeros((2, 3, 2, 1), np.uint8), ValueError, "final_obs: expected shape"),
        ("act", np.zeros(2), TypeError, "act: expected int64, got float64"),
        ("rew", np.zeros(2, np.int64), TypeError, "rew: expected float32, got int64"),
        ("rew", np.array([0, np.nan]), ValueError, "rew: expected finite rewards"),
        ("end", np.zeros(2, np.int64), TypeError, "end: expected bool, got int64"),
        ("trunc", np.zeros(3, bool), ValueError, r"trunc: expected shape \(2,\), got \(3,\)"),
    ],
)
def test_bad_steps_are_named_and_not_taken(name, value, error, message):
    replay = Replay(SHAPE, num_envs=2)
    with pytest.raises(error, match=message):
        replay.append(**good_step() | {name: value})
    replay.commit()
    assert replay.num_steps == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="frame_shape: expected"):
        Replay((64, 64))
    with pytest.raises(ValueError, match="capacity: expected at least 1"):
        Replay(SHAPE, capacity=0)
    with pytest.raises(ValueError, match="capacity: 4611686018427387904 steps exceed"):
        Replay(SHAPE, capacity=2**62)
    with pytest.raises(ValueError, match="num_envs: expected at least 1"):
        Replay(SHAPE, num_envs=0)
    replay = Replay(SHAPE)
    with pytest.raises(IndexError, match="episode: 0 is not one of the 0 stored"):
        replay.episode(0)
    with pytest.raises(IndexError, match="episode: 3 is not one of the 0 stored"):
        replay.segment(3, 0, 5)
    with pytest.raises(ValueError, match="stop: expected more than start"):
        replay.segment(0, 5, 5)


def test_no_segments_are_no_batch():
    replay = Replay((1, 1, 1), capacity=4)
    with pytest.raises(ValueError, match="starts: expected at least one"):
        replay.cut([], 4)


def test_views_are_read_only_and_outlive_the_buffer():
    replay = Replay(SHAPE)
    (step,) = append_steps(replay, np.random.default_rng(0), [[True]], [[False]])
    episode = replay.episode(0)
    with pytest.raises(ValueError, match="read-only"):
        episode.obs[0] = 0
    del replay
    np.testing.assert_array_equal(episode.obs[0], step["obs"][0])
    np.testing.assert_array_equal(episode.final_obs, step["final_obs"][0])


def test_batches_keep_their_memory_as_long_as_anything_refers_to_it():
    replay = Replay(SHAPE)
    append_steps(replay, np.random.default_rng(0), [[False]] * 30, [[False]] * 30)
    replay.commit()
    segments = replay.segments(4, 5)
    held = [next(segments).frames for _ in range(20)]
    copies = [frames.clone() for frames in held]
    for _ in range(50):
        next(segments)
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))
    assert len({frames.data_ptr() for frames in held}) == 20
    del held
    assert len({next(segments).frames.data_ptr() for _ in range(50)}) < 20


def test_batch_moves_whole():
    replay = Replay(SHAPE)
    append_steps(replay, np.random.default_rng(0), [[False], [True]] * 5, [[False]] * 10)
    batch = next(replay.segments(4, 5, beyond_end=True))
    meta = batch.to("meta")
    for name in ("frames", "pixel_mask", "act", "rew", "end", "trunc", "mask_padding", "episode", "start"):
        here, there = getattr(batch, name), getattr(meta, name)
        assert (here.dtype, here.shape, there.device.type) == (there.dtype, there.shape, "meta")
    assert batch.obs().shape == (4, 5, 1, 2, 3)
