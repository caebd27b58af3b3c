"""Stored experience that somebody forged, that another process holds, or that the disk has no room for: one line."""

import io
import json
import os
import resource
import zipfile
from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch
from replay_model import SHAPE, assert_same, random_steps

from diamond_fast import _replay
from diamond_fast.replay import JournalError, Replay, load_recording
from diamond_fast.replay.__main__ import main
from diamond_fast.replay.formats import write_npz
from diamond_fast.replay.journal import Journal
from diamond_fast.runs import checkpoint
from diamond_fast.runs.durable import NewerFormatError
from diamond_fast.spec import MultiBinary


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_journal(path, num_envs=1):
    with closing(Replay.open(path, SHAPE, num_envs)) as replay:
        random_steps(replay, np.random.default_rng(0), 30)
        replay.commit()
    return path


def forge_journal(path, meta, head=None, body=()):
    """A journal whose checksums hold."""
    with closing(Journal.create(path, meta)) as journal:
        if head is not None:
            text = json.dumps(head).encode()
            journal.append([len(text).to_bytes(4, "little") + text, *body])
    return path


# --- journals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_envs", [2**26, 2**16 + 1, 10**400, -1, "9" * 100_000, [1], 1.5, None])
def test_a_header_with_a_strange_number_of_environments(tmp_path, num_envs):
    before = peak_memory()
    meta = {"frame_shape": [2, 2, 3], "num_envs": num_envs}
    path = forge_journal(tmp_path / "journal", meta, {"steps": 10**9, "slots": [], "closed": False})
    with pytest.raises(JournalError, match="num_envs") as caught:
        Replay.load(path)
    assert "\n" not in str(caught.value)
    assert peak_memory() - before < 100e6


def test_slots_are_looked_at_before_their_frames_take_memory(tmp_path):
    """75 kB that say they are 200 000 frames of 64x64: their flags are those of no steps."""
    zeros, frame = bytes(1 << 20), 64 * 64 * 3
    body = [zeros] * (200_000 * (frame + 13) // len(zeros) + 1)
    meta = {"frame_shape": [64, 64, 3], "num_envs": 1}
    path = forge_journal(
        tmp_path / "journal", meta, {"steps": 100_000, "slots": [200_000], "closed": False}, body[:300]
    )
    assert path.stat().st_size < 100_000
    before = peak_memory()
    with pytest.raises(JournalError, match="not 100000 steps in 200000 slots"):
        Replay.load(path)
    with pytest.raises(JournalError, match="not 100000 steps in 200000 slots"):
        Replay.open(path)
    assert peak_memory() - before < 100e6


def test_rewards_that_are_no_numbers(tmp_path, capsys):
    meta = {"frame_shape": [1, 1, 1], "num_envs": 1}
    body = [bytes([8]), bytes(8), np.float32(np.nan).tobytes(), bytes(1)]
    path = forge_journal(tmp_path / "journal", meta, {"steps": 1, "slots": [1], "closed": False}, body)
    with pytest.raises(JournalError, match="finite rewards"):
        Replay.load(path)
    assert main(["verify", str(path)]) == 1
    assert "damaged: " in capsys.readouterr().out


def test_a_journal_larger_than_memory(tmp_path, monkeypatch):
    path = write_journal(tmp_path / "journal")

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(_replay, "Store", no_memory)
    with pytest.raises(JournalError, match="journal: there is no memory for as much as it says it holds"):
        Replay.load(path)


def test_a_commit_that_is_longer_than_it_says(tmp_path):
    head, body = {"steps": 1, "slots": [1], "closed": False}, [bytes([8]), bytes(8), bytes(4), bytes(1)]
    meta = {"frame_shape": [1, 1, 1], "num_envs": 1}
    assert Replay.load(forge_journal(tmp_path / "journal", meta, head, body)).num_steps == 1
    with pytest.raises(JournalError, match="longer than its head says"):
        Replay.load(forge_journal(tmp_path / "journal", meta, head, [*body, b"more"]))


@pytest.mark.parametrize("head", [{"steps": 10**30, "slots": [1]}, {"steps": 1, "slots": [10**30]}, {"steps": 1}])
def test_heads_that_count_beyond_reason(tmp_path, head, capsys):
    meta = {"frame_shape": [1, 1, 1], "num_envs": 1}
    path = forge_journal(tmp_path / "journal", meta, {"closed": False} | head)
    with pytest.raises(JournalError) as caught:
        Replay.load(path)
    assert "\n" not in str(caught.value)
    follower = Replay((1, 1, 1))
    with closing(Journal(path, writable=False)) as journal, pytest.raises(JournalError):
        follower.catch_up(path, journal.length)
    assert main(["verify", str(path)]) == 1  # as `info` refuses it
    with pytest.raises(SystemExit):
        main(["info", str(path)])


def test_a_journal_that_another_process_writes_is_not_called_damaged(tmp_path):
    path = write_journal(tmp_path / "journal")
    checkpoint.save(tmp_path / "checkpoints", 1, {"denoiser": {"w": torch.zeros(1)}}, {})
    checkpoint.save(tmp_path / "checkpoints", 2, {"denoiser": {"w": torch.zeros(1)}}, {})
    said = []
    with closing(Replay.open(path, SHAPE)), pytest.raises(BlockingIOError, match="another process is writing"):
        checkpoint.load_latest(tmp_path / "checkpoints", said.append, use=lambda saved: Replay.open(path, SHAPE))
    assert said == []


def test_a_newer_journal_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    with monkeypatch.context() as newer:
        newer.setattr("diamond_fast.replay.journal._VERSION", 4)
        newer.setattr("diamond_fast.replay.journal._version", lambda meta: 4)
        write_journal(path)
    with pytest.raises(NewerFormatError, match="journal: written in format 4, this program reads up to 3"):
        Replay.open(path, SHAPE)


@pytest.mark.parametrize("version", [0, 1])
def test_a_version_that_the_header_belies(tmp_path, monkeypatch, version):
    """One that names an action is of version 2."""
    meta = {"frame_shape": [1, 1, 1], "num_envs": 1, "action": {"kind": "box", "n": 3}}
    with monkeypatch.context() as older:
        older.setattr("diamond_fast.replay.journal._version", lambda meta: version)
        path = forge_journal(tmp_path / "journal", meta)
    with pytest.raises(JournalError, match="damaged header"):
        Replay.load(path)


@pytest.mark.parametrize(
    "action",
    [
        None,
        [],
        "box",
        {},
        {"kind": "box"},
        {"kind": ["box"], "n": 3},
        {"kind": "a kind that comes later", "n": 3},
        {"kind": "box", "n": 0},
        {"kind": "box", "n": True},
        {"kind": "box", "n": 2.0},
        {"kind": "box", "n": 2**62},
        {"kind": "multi_binary", "n": 2**62},
        {"kind": "multi_binary", "n": 10**400},
    ],
)
def test_a_header_with_a_strange_action(tmp_path, action, capsys):
    before = peak_memory()
    meta = {"frame_shape": [1, 1, 1], "num_envs": 1, "action": action}
    path = forge_journal(tmp_path / "journal", meta, {"steps": 1, "slots": [1], "closed": False}, [bytes(100)])
    for read in (Replay.load, lambda path: Replay.open(path, (1, 1, 1))):
        with pytest.raises(JournalError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
    assert main(["verify", str(path)]) == 1
    assert peak_memory() - before < 100e6


def test_a_commit_that_ends_within_an_action(tmp_path):
    meta = {"frame_shape": [1, 1, 1], "num_envs": 1, "action": {"kind": "multi_binary", "n": 51}}
    head, body = {"steps": 1, "slots": [1], "closed": False}, bytes([8]) + bytes([1] * 51) + bytes(4) + bytes(1)
    for size in range(len(body)):
        path = forge_journal(tmp_path / "journal", meta, head, [body[:size]])
        with pytest.raises(JournalError, match="a commit ends early"):
            Replay.load(path)
    whole = Replay.load(forge_journal(tmp_path / "journal", meta, head, [body]))
    assert whole.action == MultiBinary(51)
    assert whole.episode(0).act.tolist() == [[1] * 51]


def test_a_commit_that_the_system_reads_in_pieces(tmp_path, monkeypatch):
    """As it does beyond 2 GiB."""
    path = write_journal(tmp_path / "journal")
    whole, pread = Replay.load(path), os.pread
    monkeypatch.setattr("os.pread", lambda fd, count, offset: pread(fd, min(count, 1000), offset))
    assert_same(Replay.load(path), whole)


# --- .npz -----------------------------------------------------------------------------------------------------------


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def header(shape, descr="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def members():
    ended = np.zeros(4, bool)
    ended[-1] = True
    return {
        "observations.npy": npy(np.zeros((4, 2, 2, 3), np.uint8)),
        "actions.npy": npy(np.zeros(4, np.int64)),
        "rewards.npy": npy(np.zeros(4, np.float32)),
        "terminations.npy": npy(ended),
        "truncations.npy": npy(np.zeros(4, bool)),
        "final_observations.npy": npy(np.zeros((1, 2, 2, 3), np.uint8)),
    }


def zipped(path, contents, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def test_the_forged_archives_differ_from_a_good_one_in_one_thing(tmp_path):
    assert load_recording(zipped(tmp_path / "a.npz", members())).num_steps == 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("actions", b""),
        ("actions", b"not an array"),
        ("actions", npy(np.zeros(4, np.int64))[:-1]),
        ("actions", npy(np.zeros(4, np.int64)) + b"more"),
        ("actions", npy(np.int64(4))),
        ("actions", npy(["a", "b", "c", "d"])),
        ("actions", npy(np.zeros(4, "datetime64[s]"))),
        ("actions", npy(np.zeros(4, complex))),
        ("actions", npy(np.zeros(4, [("x", np.int64)]))),
        ("actions", npy(np.full(4, 2**63, np.uint64))),
        ("actions", header((4,), "|O") + bytes(32)),
        ("actions", header((-4,), "<i8") + bytes(32)),
        ("observations", header((10**12, 64, 64, 3))),
        ("observations", header((2**62, 4))),
        ("observations", npy(np.zeros((4, 0, 0, 3), np.uint8))),
        ("observations", npy(np.zeros((4, 2, 2, 2, 3), np.uint8))),
        ("episode_lengths", npy(np.array([2**63, 2**63, 4], np.uint64))),
        ("episode_lengths", npy(np.array([[4]]))),
        ("final_observations", npy(np.zeros((1, 2, 2), np.uint8))),
    ],
)
def test_odd_members_of_an_archive(tmp_path, name, content, capsys):
    before = peak_memory()
    path = zipped(tmp_path / "a.npz", members() | {f"{name}.npy": content})
    with pytest.raises(ValueError, match=f"^{path}: ") as caught:
        load_recording(path)
    assert "\n" not in str(caught.value)
    assert main(["verify", str(path)]) == 1
    assert peak_memory() - before < 100e6


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_that_unfold_beyond_deflate_are_refused(tmp_path, method):
    """75 kB of these could hold gigabytes."""
    path = zipped(tmp_path / "a.npz", members(), method)
    with pytest.raises(ValueError, match="compressed in another way than NumPy does"):
        load_recording(path)


def test_archives_that_are_none(tmp_path):
    missing = members()
    del missing["actions.npy"]
    zipped(tmp_path / "plain.npz", missing | {"actions": npy(np.zeros(4))})
    np.save(tmp_path / "array", np.zeros(4))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, message in (("plain", "actions: missing"), ("array", "not a .npz file"), ("empty", "not a .npz file")):
        with pytest.raises(ValueError, match=rf"{name}\.npz: {message}"):
            load_recording(tmp_path / f"{name}.npz")


# --- the published form ---------------------------------------------------------------------------------------------


def published():
    return {
        "obs": torch.zeros(2, 3, 2, 2, dtype=torch.uint8),
        "act": torch.zeros(2, dtype=torch.int64),
        "rew": torch.zeros(2),
        "end": torch.tensor([0, 1], dtype=torch.uint8),
        "trunc": torch.zeros(2, dtype=torch.uint8),
        "info": {"final_observation": torch.zeros(1, 3, 2, 2)},
    }


def test_the_forged_episodes_differ_from_a_good_one_in_one_thing(tmp_path):
    torch.save(published(), tmp_path / "0.pt")
    assert load_recording(tmp_path).num_steps == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("info", [1]),
        ("info", torch.zeros(2)),
        ("info", {"final_observation": [1, 2]}),
        ("info", {"final_observation": torch.zeros(3)}),
        ("info", {"final_observation": torch.zeros(2, 3, 2, 2)}),
        ("info", {"final_observation": torch.zeros(1, 3, 2, 2, dtype=torch.uint8)}),
        ("info", {"final_observation": torch.full((1, 3, 2, 2), torch.nan)}),
        ("info", {"final_observation": torch.zeros(1, 3, 2, 0)}),
        ("act", torch.tensor(0)),
        ("act", torch.zeros(2, dtype=torch.bfloat16)),
        ("act", torch.zeros(2, 0, dtype=torch.int64)),
        ("act", torch.zeros(0, dtype=torch.int64)),
        ("rew", torch.zeros(2, dtype=torch.bfloat16)),
        ("rew", torch.zeros(3)),
        ("end", torch.tensor(1)),
        ("trunc", torch.zeros(2, 2)),
        ("obs", torch.zeros(2, 3, 0, 0, dtype=torch.uint8)),
        ("obs", torch.zeros(2, 0, 2, 2, dtype=torch.uint8)),
        ("obs", torch.zeros(2, 3, 2, 2, dtype=torch.bfloat16)),
        ("obs", torch.tensor(1)),
        ("obs", "frames"),
    ],
)
def test_odd_members_of_an_episode(tmp_path, name, value):
    torch.save(published() | {name: value}, tmp_path / "0.pt")
    with pytest.raises(ValueError, match=f"^{tmp_path}.*: ") as caught:
        load_recording(tmp_path)
    assert "\n" not in str(caught.value)
    assert main(["verify", str(tmp_path)]) == 1


# --- a full disk ----------------------------------------------------------------------------------------------------


@contextmanager
def room_for(num_bytes):
    """Every file ends there, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 700])
@pytest.mark.parametrize("command", ["export", "import"])
def test_a_full_disk_leaves_nothing_in_the_way(tmp_path, command, room, capsys):
    journal = write_journal(tmp_path / "journal")
    write_npz(Replay.load(journal), tmp_path / "recording.npz")
    source = {"export": journal, "import": tmp_path / "recording.npz"}[command]
    out = tmp_path / "out.npz"
    with room_for(room), pytest.raises(SystemExit) as stop:
        main([command, str(source), str(out)])
    error = capsys.readouterr().err
    assert stop.value.code != 0
    assert error.count("\n") == 1
    assert f"{out}: " in error
    assert "File too large" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "recording.npz"]
    assert main([command, str(source), str(out)]) == 0  # once there is room again
