"""Experience on disk: what comes back, and what damage does."""

import errno
import os
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
from replay_model import SHAPE, append_steps, assert_same, random_steps

from diamond_fast.replay import JournalError, Replay
from diamond_fast.replay import journal as journal_module
from diamond_fast.replay.journal import Journal


def write_journal(path, num_envs: int = 2, num_commits: int = 5, steps: int = 12) -> list[int]:
    """Writes random commits and returns the journal's length after each."""
    replay, rng = Replay.open(path, SHAPE, num_envs), np.random.default_rng(0)
    lengths = []
    for _ in range(num_commits):
        random_steps(replay, rng, steps)
        lengths.append(replay.commit())
    replay.close()
    return lengths


@pytest.mark.parametrize("num_envs", [1, 3])
def test_what_is_committed_comes_back(tmp_path, num_envs):
    path, rng = tmp_path / "deep" / "journal", np.random.default_rng(0)
    replay = Replay.open(path, SHAPE, num_envs)
    everything = Replay(SHAPE, num_envs)
    for _ in range(6):
        for step in random_steps(replay, rng, 7):
            everything.append(**step)
        length = replay.commit()
        everything.commit()
        assert length == path.stat().st_size
        assert replay.commit() == length  # nothing new, nothing written
    random_steps(replay, rng, 3)  # never committed
    replay.close()
    reopened = Replay.open(path, SHAPE, num_envs)
    assert_same(reopened, everything)


def test_resuming_from_a_commit_repeats_the_run_bit_for_bit(tmp_path):
    """Two halves with a crash between equal one run: episodes, a running one included, and batches."""
    steps = random_steps(Replay(SHAPE, 2), np.random.default_rng(1), 60)
    weights = (0.1, 0.1, 0.1, 0.7)

    def run(replay: Replay, first: int, state: dict | None) -> tuple[list, dict, int]:
        segments, batches = replay.segments(8, 6, weights, seed=4), []
        if state is not None:
            segments.load_state_dict(state)
        for epoch in range(first, first + 3):
            for step in steps[10 * epoch : 10 * epoch + 10]:
                replay.append(**step)
            length = replay.commit()
            batches += [next(segments) for _ in range(4)]
        return batches, segments.state_dict(), length

    whole = Replay.open(tmp_path / "whole", SHAPE, 2)
    _, whole_state, _ = run(whole, 0, None)
    after, _, final_length = run(whole, 3, whole_state)

    halves = Replay.open(tmp_path / "halves", SHAPE, 2)
    _, state, length = run(halves, 0, None)
    random_steps(halves, np.random.default_rng(9), 5)  # work that the crash undoes: committed, but in no checkpoint
    halves.commit()
    halves.close()
    resumed = Replay.open(tmp_path / "halves", SHAPE, 2, length=length)
    batches, _, resumed_length = run(resumed, 3, state)

    assert resumed_length == final_length
    assert (tmp_path / "halves").read_bytes() == (tmp_path / "whole").read_bytes()
    assert_same(resumed, whole)
    for ours, theirs in zip(batches, after, strict=True):
        for name in ("frames", "pixel_mask", "act", "rew", "end", "trunc", "mask_padding", "episode", "start"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("commit_after_close", [False, True])
def test_closed_episodes_stay_closed(tmp_path, commit_after_close):
    path, rng = tmp_path / "journal", np.random.default_rng(0)
    replay, quiet = Replay.open(path, SHAPE, 2), np.zeros((3, 2), bool)
    append_steps(replay, rng, quiet, quiet)
    replay.commit()
    append_steps(replay, rng, quiet, quiet)
    replay.close_episodes()
    if commit_after_close:
        replay.commit()
        replay.close()
        replay = Replay.open(path, SHAPE, 2)
    append_steps(replay, rng, ~quiet[:1], quiet[:1])
    replay.commit()
    replay.close()
    reopened = Replay.open(path, SHAPE, 2)
    assert_same(reopened, replay)
    assert reopened.lengths.tolist() == [6, 6, 1, 1]


def test_opening_drops_what_follows_and_says_so(tmp_path, caplog):
    path = tmp_path / "journal"
    lengths = write_journal(path)
    for size, kept in [(lengths[4] - 1, 4), (lengths[3] + 10, 4), (lengths[2], 3), (lengths[1] - 30, 1)]:
        os.truncate(path, size)
        caplog.clear()
        Replay.open(path, SHAPE, 2).close()
        assert path.stat().st_size == lengths[kept - 1]
        if size == lengths[kept - 1]:
            assert caplog.text == ""
        else:
            assert (
                f"dropped {size - lengths[kept - 1]} bytes after {lengths[kept - 1]} (commit {kept} is" in caplog.text
            )
    with pytest.raises(JournalError, match=f"cannot go back to {lengths[1]} bytes, {lengths[0]} are whole"):
        Replay.open(path, SHAPE, 2, length=lengths[1])


def test_a_checkpoint_behind_the_damage_is_refused_and_nothing_dropped(tmp_path):
    path = tmp_path / "journal"
    lengths = write_journal(path)
    content = bytearray(path.read_bytes())
    content[lengths[1] + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"commit 2 is damaged"):
        Replay.open(path, SHAPE, 2, length=lengths[4])
    assert path.read_bytes() == bytes(content)
    assert Replay.open(path, SHAPE, 2, length=lengths[1]).num_steps == 48


def test_moved_and_repeated_commits_are_noticed(tmp_path):
    path = tmp_path / "journal"
    lengths = write_journal(path)
    content = path.read_bytes()
    second, third = content[lengths[0] : lengths[1]], content[lengths[1] : lengths[2]]
    for forged in (
        content[: lengths[0]] + third + second,
        content[: lengths[1]] + second,
        content[: lengths[0]] + third,
    ):
        path.write_bytes(forged)
        assert Journal(path, writable=False).problem.endswith("is damaged")


def test_wrong_files_are_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal"
    write_journal(path)
    content = path.read_bytes()
    for frame_shape, num_envs, capacity, message in [
        ((2, 3, 3), 2, 1000, r"made for frame_shape \[2, 3, 1\], not \[2, 3, 3\]"),
        (SHAPE, 1, 1000, "made for num_envs 2, not 1"),
        (SHAPE, 2, 60, "does not fit into the given capacity"),
    ]:
        with pytest.raises(JournalError, match=message):
            Replay.open(path, frame_shape, num_envs, capacity)
    for damaged, message in [
        (b"", "not a replay journal"),
        (b"PK\x03\x04" + bytes(100), "not a replay journal"),
        (content[:20], "damaged header"),
        (content[:20] + b"!" + content[21:], "damaged header"),
        (content[:12] + b"\xff\xff\xff\xff" + content[16:], "damaged header"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(JournalError, match=message):
            Replay.open(path, SHAPE, 2)
        assert path.read_bytes() == damaged


def test_one_process_writes(tmp_path):
    path = tmp_path / "journal"
    write_journal(path)
    replay = Replay.open(path, SHAPE, 2)
    program = f"from diamond_fast.replay import Replay; Replay.open({str(path)!r}, {SHAPE}, 2)"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "another process is writing to this journal" in other.stderr
    replay.close()
    Replay.open(path, SHAPE, 2).close()


WRITER = """
import sys
import numpy as np
from diamond_fast.replay import Replay
replay, rng = Replay.open(sys.argv[1], (8, 8, 3), 1), np.random.default_rng(0)
no, t = np.array([False]), 0
while True:
    for _ in range(20):
        frame = rng.integers(0, 256, (1, 8, 8, 3), np.uint8)
        replay.append(frame, np.array([t]), np.zeros(1, np.float32), no, no, frame)
        t += 1
    print(replay.commit(), flush=True)
"""


def test_a_killed_writer_loses_no_commit(tmp_path):
    path = tmp_path / "journal"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        told = [int(writer.stdout.readline()) for _ in range(30)]
        writer.kill()
        told += [int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    replay = Replay.open(path, (8, 8, 3), 1)
    commits = replay.num_steps // 20
    assert replay.num_steps % 20 == 0
    assert len(told) <= commits <= len(told) + 1  # the last may have been written, but not told
    assert replay.episode(0).act.tolist() == list(range(20 * commits))


@pytest.mark.parametrize("failing", ["pwrite", "fdatasync"])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, failing):
    path = tmp_path / "journal"
    replay, rng = Replay.open(path, SHAPE, 2), np.random.default_rng(0)
    random_steps(replay, rng, 10)
    before = replay.commit()
    visible = replay.num_steps
    random_steps(replay, rng, 10)

    with monkeypatch.context() as patch:
        module, name = (os, "pwrite") if failing == "pwrite" else (journal_module, "_sync")
        real = getattr(module, name)
        calls = []

        def write_once_then_fail(fd, *rest):
            calls.append(1)
            if failing == "pwrite" and len(calls) == 1:
                return real(fd, rest[0][:20], rest[1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(module, name, write_once_then_fail)
        with pytest.raises(OSError, match="commit not written: No space left on device") as caught:
            replay.commit()
        assert caught.value.filename == str(path)
    assert path.stat().st_size == before
    assert replay.num_steps >= visible
    assert replay.commit() == path.stat().st_size
    replay.close()
    reopened = Replay.open(path, SHAPE, 2)
    assert reopened.num_steps == 40
    assert_same(reopened, replay)


def test_every_flipped_bit_is_noticed(tmp_path):
    """10 000 single flips: what was committed before the damage comes back, what follows does not, nothing fails."""
    path, rng = tmp_path / "journal", np.random.default_rng(0)
    lengths = write_journal(path, num_commits=4)
    content, header = path.read_bytes(), _header_length(path)
    with open(path, "r+b") as file:
        for bit in rng.integers(0, 8 * len(content), 10_000).tolist():
            position = bit // 8
            os.pwrite(file.fileno(), bytes([content[position] ^ 1 << bit % 8]), position)
            if position < header:
                with pytest.raises(JournalError):
                    Journal(path)
            else:
                with closing(Journal(path)) as journal:
                    assert journal.problem is not None
                    assert journal.num_records == sum(length <= position for length in lengths)
            os.pwrite(file.fileno(), content[position : position + 1], position)
    assert path.read_bytes() == content
    assert Journal(path).problem is None


@pytest.mark.parametrize("number", [300, pytest.param(1_000, marks=pytest.mark.slow)])
def test_every_truncation_is_noticed(number, tmp_path, caplog, monkeypatch):
    """Files cut off anywhere: opening goes back to the last commit before the cut, and says so."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power is cut here, and so many of them take long
    path, rng = tmp_path / "journal", np.random.default_rng(0)
    lengths = write_journal(path, num_commits=4)
    content, header = path.read_bytes(), _header_length(path)
    whole = {length: Replay.load(_copy(tmp_path, content[:length])) for length in lengths}
    for size in rng.integers(0, len(content), number).tolist():
        path.write_bytes(content[:size])
        if size < header:
            with pytest.raises(JournalError):
                Replay.open(path, SHAPE, 2)
            continue
        caplog.clear()
        replay = Replay.open(path, SHAPE, 2)
        replay.close()
        kept = max((length for length in lengths if length <= size), default=header)
        assert path.stat().st_size == kept
        assert ("dropped" in caplog.text) == (kept != size)
        if kept == header:
            assert replay.num_steps == 0
        else:
            assert_same(replay, whole[kept])


def _header_length(path) -> int:
    """Bytes before the first commit."""
    with closing(Replay.open(path.with_name("empty"), SHAPE, 2)) as empty:
        return empty.commit()


def _copy(folder, content: bytes):
    path = folder / f"copy{len(content)}"
    path.write_bytes(content)
    return path
