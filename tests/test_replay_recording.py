"""Recordings on disk: the same batches as in memory, in one size and in two, and every damage is noticed."""

import itertools
import json
import os

import numpy as np
import pytest
import torch
from replay_model import append_steps, assert_same

from diamond_fast.replay import Replay, load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.recording import write_recording
from diamond_fast.runs.durable import NewerFormatError, sealed
from diamond_fast.spec import Discrete, Mixed, MultiBinary

LOW, FULL = (2, 3, 3), (6, 9, 3)
ACTION = Mixed(parts=(("keys", MultiBinary(3)), ("mouse", Discrete(4))))
FIELDS = ("frames", "pixel_mask", "act", "rew", "end", "trunc", "mask_padding", "episode", "start")


def in_memory(shape: tuple[int, int, int]) -> Replay:
    """Three episodes: one that ends, one that is cut off and one without an end."""
    replay, rng = Replay(shape, action=ACTION), np.random.default_rng(shape[0])
    for length, end, trunc in ((7, True, False), (5, False, True), (9, False, False)):
        ends, truncs = np.zeros((2, length, 1), bool)
        ends[-1], truncs[-1] = end, trunc
        append_steps(replay, rng, ends, truncs)
        replay.close_episodes()
    replay.commit()
    return replay


@pytest.fixture
def low() -> Replay:
    return in_memory(LOW)


@pytest.fixture
def full() -> Replay:
    return in_memory(FULL)


@pytest.fixture
def folder(tmp_path, low, full):
    """The same steps in two sizes."""
    episodes = []
    for i in range(low.num_episodes):
        large = full.episode(i)
        episodes.append(low.episode(i)._replace(full_obs=large.obs, full_final_obs=large.final_obs))
    write_recording(tmp_path / "recording", episodes, ACTION, full_size=True, fps=16)
    return tmp_path / "recording"


def test_what_is_stored_is_read(folder, low, full):
    replay = load_recording(folder)
    assert (replay.frame_shape, replay.full_shape, replay.action) == (LOW, FULL, ACTION)
    assert replay.reward_counts.tolist() == low.reward_counts.tolist()
    for i in range(3):
        ours, theirs, large = replay.episode(i), low.episode(i), full.episode(i)
        for name in ("obs", "act", "rew", "end", "trunc", "final_obs"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_array_equal(ours.full_obs, large.obs)
        np.testing.assert_array_equal(ours.full_final_obs, large.final_obs)
        assert not ours.obs.flags.writeable
        assert not ours.full_obs.flags.writeable


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_batches_are_those_of_the_same_steps_in_memory(folder, low, full, num_threads):
    options = {"batch_size": 5, "seq_length": 4, "beyond_end": True, "seed": 3}
    on_disk = load_recording(folder).segments(**options, num_threads=num_threads, full=True)
    small, large = low.segments(**options), full.segments(**options)
    for _ in range(30):
        batch, of_low, of_full = next(on_disk), next(small), next(large)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(batch, name), getattr(of_low, name))
        np.testing.assert_array_equal(batch.full_frames, of_full.frames)
        torch.testing.assert_close(batch.to("cpu").full_obs(), of_full.obs(), rtol=0, atol=0)
        torch.testing.assert_close(batch.obs(), of_low.obs(), rtol=0, atol=0)


def test_segments_of_one_size_read_no_other(folder, low):
    (folder / "full").write_bytes(bytes((folder / "full").stat().st_size))
    replay = load_recording(folder)
    batch = replay.cut([(0, -1), (2, 5)], 6)
    np.testing.assert_array_equal(batch.frames, low.cut([(0, -1), (2, 5)], 6).frames)
    assert batch.full_frames is None
    with pytest.raises(ValueError, match="full: the batch was drawn without"):
        batch.full_obs()
    assert not replay.cut([(0, 0)], 2, full=True).full_frames.any()
    with pytest.raises(ValueError, match="full: the recording has its frames in one size only"):
        low.segments(2, 2, full=True)


def test_a_recording_is_only_read(folder):
    replay = load_recording(folder)
    no, frame = np.zeros(1, bool), np.zeros((1, *LOW), np.uint8)
    with pytest.raises(RuntimeError, match="frames lie in a file, which is only read"):
        replay.append(frame, ACTION.sample(np.random.default_rng(0).random, (1,)), np.zeros(1), no, no, frame)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_file_cut_short_while_it_is_read_is_an_error_and_no_crash(folder, num_threads):
    segments = load_recording(folder).segments(4, 8, num_threads=num_threads, full=True)
    os.truncate(folder / "full", 1)
    with pytest.raises(OSError, match="full"):
        list(itertools.islice(segments, 20))


def test_one_size_only(tmp_path, low):
    write_recording(tmp_path / "a", [low.episode(i) for i in range(3)], ACTION)
    replay = load_recording(tmp_path / "a")
    assert_same(replay, low)
    assert (replay.full_shape, replay.episode(0).full_obs) == (None, None)
    assert not (tmp_path / "a" / "full").exists()


@pytest.mark.parametrize("name", ["frames", "full", "steps", "recording.json"])
def test_a_flipped_bit_is_noticed(folder, name, capsys):
    assert main(["verify", str(folder)]) == 0
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / name).write_bytes(content)
    assert main(["verify", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "differs from its checksum" in printed
    assert name in printed


def test_files_that_do_not_belong_together_are_refused(folder):
    os.truncate(folder / "frames", 19)
    with pytest.raises(ValueError, match=r"frames: expected \d+ bytes, got 19"):
        load_recording(folder)


def test_a_newer_recording_is_not_called_damaged(folder):
    (folder / "recording.json").write_bytes(sealed("recording", {"format": 2}))
    with pytest.raises(NewerFormatError, match="written in format 2, this program reads up to 1"):
        load_recording(folder)


@pytest.mark.parametrize("content", [{}, [], {"format": 1, "frame": [1, 2], "full": None}])
def test_a_description_of_something_else_is_refused(folder, content):
    (folder / "recording.json").write_bytes(sealed("recording", content))
    with pytest.raises(ValueError, match="is not that of a recording"):
        load_recording(folder)


def test_info_names_both_sizes_and_the_parts(folder, capsys):
    assert main(["info", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "21 steps in 3 episodes" in printed
    assert "frames: 2x3x3 and 6x9x3; actions: mixed, n = 7 (keys: multi_binary 3, mouse: discrete 4)" in printed


def test_which_half_is_meant(folder, tmp_path):
    (tmp_path / "both").mkdir()
    folder.rename(tmp_path / "both" / "train")
    assert load_recording(tmp_path / "both").num_episodes == 3
    (tmp_path / "both" / "import.json").write_text(json.dumps({}))
    for path in ("both", "both/train"):
        with pytest.raises(ValueError, match="its import has not come to its end; the same command goes on with it"):
            load_recording(tmp_path / path)
