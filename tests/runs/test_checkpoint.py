"""Checkpoints: what was saved comes back; a commit is one rename; damage is noticed and survived."""

import hashlib
import json
import os
import shutil
import sys

import pytest
import torch

from diamond_fast.runs import checkpoint
from diamond_fast.runs.checkpoint import NewerFormatError, latest_epoch, load, load_latest, save
from diamond_fast.runs.durable import sealed, unsealed


def tensors(epoch):
    generator = torch.Generator().manual_seed(epoch)
    weight = torch.randn(4, 8, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    return {
        "denoiser": {"conv.weight": weight, "tied": weight, "view": weight[0]},
        "actor_critic": {"steps": torch.tensor(epoch), "none": torch.zeros(0)},
    }


def state(epoch):
    return {"optimizers": {"denoiser": {"state": {0: {"exp_avg": torch.full((2,), float(epoch))}}}}, "journal": epoch}


def save_epochs(folder, *epochs):
    for epoch in epochs:
        save(folder, epoch, tensors(epoch), state(epoch))


def check(loaded, epoch):
    assert loaded.epoch == epoch
    assert loaded.tensors.keys() == tensors(epoch).keys()
    for group, named in tensors(epoch).items():
        assert loaded.tensors[group].keys() == named.keys()
        for name, tensor in named.items():
            assert torch.equal(loaded.tensors[group][name], tensor), name
            assert loaded.tensors[group][name].dtype == tensor.dtype
    assert loaded.state["journal"] == epoch
    exp_avg = loaded.state["optimizers"]["denoiser"]["state"][0]["exp_avg"]
    assert torch.equal(exp_avg, torch.full((2,), float(epoch)))


def test_the_newest_epoch_comes_back(tmp_path):
    save_epochs(tmp_path / "checkpoints", 9, 10)
    check(load_latest(tmp_path / "checkpoints"), 10)
    assert latest_epoch(tmp_path / "checkpoints") == 10


def test_three_generations_stay_and_nothing_else(tmp_path):
    save_epochs(tmp_path, 1, 2, 3, 4, 5)
    expected = {f"epoch_00000{i}{suffix}" for i in (3, 4, 5) for suffix in ("", ".json")}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_an_epoch_can_be_saved_again(tmp_path):
    save_epochs(tmp_path, 1, 2)
    save(tmp_path, 2, {"denoiser": {"w": torch.ones(1)}}, "second")
    loaded = load_latest(tmp_path)
    assert (loaded.epoch, loaded.state) == (2, "second")
    assert len(list(tmp_path.iterdir())) == 4


def test_nothing_saved_yet(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_latest(tmp_path / "checkpoints")
    assert latest_epoch(tmp_path / "checkpoints") is None


@pytest.mark.parametrize("name", ["state", "a/b", "..", "", "Upper"])
def test_a_group_that_cannot_name_a_file_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a file"):
        save(tmp_path, 1, {name: {}}, None)
    assert list(tmp_path.iterdir()) == []


def damaged_files(folder, epoch):
    return [folder / f"epoch_{epoch:06d}.json", *sorted((folder / f"epoch_{epoch:06d}").iterdir())]


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path):
    save(tmp_path, 1, {"model": {"w": torch.arange(3.0)}}, {"rng": torch.arange(4, dtype=torch.uint8)})
    save(tmp_path, 2, {"model": {"w": torch.arange(3.0)}}, {"rng": torch.arange(4, dtype=torch.uint8)})
    for path in damaged_files(tmp_path, 2):
        original = path.read_bytes()
        flips = [(i, 1 << (i % 8)) for i in range(len(original))]
        for i, bit in flips:
            path.write_bytes(original[:i] + bytes([original[i] ^ bit]) + original[i + 1 :])
            lines = []
            assert load_latest(tmp_path, lines.append).epoch == 1, (path.name, i)
            assert len(lines) == 1
            assert "epoch_000002 is damaged" in lines[0]
            assert "\n" not in lines[0]
        for length in range(0, len(original), 7):
            path.write_bytes(original[:length])
            assert load_latest(tmp_path, lambda line: None).epoch == 1, (path.name, length)
        path.unlink()
        assert load_latest(tmp_path, lambda line: None).epoch == 1
        path.write_bytes(original)
    assert load_latest(tmp_path).epoch == 2


def test_all_generations_damaged(tmp_path):
    save_epochs(tmp_path, 1, 2)
    for epoch in (1, 2):
        (tmp_path / f"epoch_{epoch:06d}" / "denoiser.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"all checkpoints are damaged.*denoiser.safetensors has 0 bytes"):
        load_latest(tmp_path, lambda line: None)


def test_the_run_goes_on_from_an_older_epoch_and_forgets_the_damaged_ones(tmp_path):
    save_epochs(tmp_path, 1, 2, 3)
    for epoch in (2, 3):
        path = tmp_path / f"epoch_{epoch:06d}.json"
        path.write_bytes(path.read_bytes()[:-5])
    assert load_latest(tmp_path, lambda line: None).epoch == 1
    save_epochs(tmp_path, 2)
    lines = []
    check(load_latest(tmp_path, lines.append), 2)
    assert lines == []
    assert {path.name for path in tmp_path.iterdir()} == {
        "epoch_000001", "epoch_000001.json", "epoch_000002.json", "epoch_000002.2"
    }  # fmt: skip


def files_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_newer_format_ends_the_reading_and_is_never_removed(tmp_path, monkeypatch):
    save_epochs(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        save_epochs(tmp_path, 3, 4)
    before, lines = files_below(tmp_path), []
    with pytest.raises(NewerFormatError, match=r"epoch_000004\.json: has format 2, this version reads 1; go on with"):
        load_latest(tmp_path, lines.append)
    assert lines == []
    assert files_below(tmp_path) == before
    (tmp_path / "epoch_000004" / "state.safetensors").unlink()  # damage to what cannot be read changes nothing
    (tmp_path / "epoch_000004.json").write_bytes(b"{")  # a damaged one is passed over, and the next is newer
    with pytest.raises(NewerFormatError, match=r"epoch_000003\.json"):
        load_latest(tmp_path, lines.append)
    for epoch in (2, 3, 4, 5, 6, 7):
        with pytest.raises(NewerFormatError):
            load(tmp_path / "epoch_000003.json")
        if epoch != 3:
            save(tmp_path, epoch, tensors(epoch), state(epoch))
    after = files_below(tmp_path)
    kept = [path for path in before if "epoch_000003" in str(path)]
    assert len(kept) == 4
    assert all(after[path] == before[path] for path in kept)


@pytest.mark.parametrize("written", [0, -1, "2", None, [2], 1.5])
def test_a_format_that_never_was_is_damage(tmp_path, written):
    save_epochs(tmp_path, 1)
    save_epochs(tmp_path, 2)
    path = tmp_path / "epoch_000002.json"
    path.write_bytes(sealed("manifest", {**unsealed("manifest", path), "format": written}))
    assert load_latest(tmp_path, lambda line: None).epoch == 1


def test_only_our_own_names_are_touched(tmp_path):
    """Links and copies that people make: saving goes on, and leaves them alone."""
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    save_epochs(folder, 1, 2)
    elsewhere.mkdir()
    (elsewhere / "weights").write_text("mine")
    shutil.copytree(folder / "epoch_000002", folder / "epoch_best")
    shutil.copytree(folder / "epoch_000002", folder / "epoch_000002_copy")
    shutil.copy(folder / "epoch_000002.json", folder / "epoch_000002 (1).json")
    shutil.copy(folder / "epoch_000002.json", folder / "epoch_best.json")
    (folder / "epoch_best.partial").write_text("mine")
    (folder / "epoch_000009.json").mkdir()
    (folder / "epoch_000007").symlink_to(elsewhere)
    (folder / "epoch_000001.5").symlink_to(folder / "epoch_000001")
    (folder / "epoch_000004").symlink_to("nowhere")
    (folder / "epoch_latest.json").symlink_to("epoch_000002.json")
    (folder / "notes.txt").write_text("mine")
    ours = {f"epoch_00000{i}{suffix}" for i in (1, 2) for suffix in ("", ".json")}
    theirs = {path.name for path in folder.iterdir()} - ours
    save_epochs(folder, 3, 4, 5, 6)
    check(load_latest(folder, lambda line: pytest.fail(line)), 6)
    assert {path.name for path in folder.iterdir()} - theirs == {
        "epoch_000004.2", "epoch_000004.json", *(f"epoch_00000{i}{suffix}" for i in (5, 6) for suffix in ("", ".json"))
    }  # fmt: skip
    assert theirs <= {path.name for path in folder.iterdir()}
    assert (elsewhere / "weights").read_text() == "mine"
    assert (folder / "epoch_best" / "state.safetensors").exists()
    assert latest_epoch(folder) == 6


def test_a_link_with_the_name_of_a_commit_is_read_but_never_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    save_epochs(tmp_path / "elsewhere", 1)
    folder.mkdir()
    for name in ("epoch_000001", "epoch_000001.json"):
        (folder / name).symlink_to(tmp_path / "elsewhere" / name)
    check(load_latest(folder), 1)
    save_epochs(folder, 2, 3, 4, 5)
    check(load(folder / "epoch_000001.json"), 1)


# What json still reads, and what reads it then does not: from Python 3.12 on a comprehension is no frame of its own.
DEEP = 900 if sys.version_info < (3, 12) else 1200


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * DEEP + b"]" * DEEP, "no manifest"),
        (
            b'{"format": 1, "epoch": 1, "folder": "epoch_000001", "files": {"state": %s}, "state": ' + b"[" * DEEP,
            "no manifest",
        ),
    ],
)
def test_lists_without_end_are_one_line(tmp_path, manifest, message):
    save_epochs(tmp_path, 1)
    recorded = unsealed("manifest", tmp_path / "epoch_000001.json")
    if b"%s" in manifest:
        manifest = manifest % json.dumps(recorded["files"]["state"]).encode() + b"]" * DEEP + b"}"
    checksum = hashlib.sha256(manifest).hexdigest().encode()
    (tmp_path / "epoch_000001.json").write_bytes(b'{"sha256": "%s",\n"manifest": %s}\n' % (checksum, manifest))
    with pytest.raises(ValueError, match=message) as caught:
        load_latest(tmp_path)
    assert "epoch_000001.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [{"folder": "../elsewhere"}, {"folder": "/etc"}, {"files": {"../x": {}}}])
def test_a_manifest_names_nothing_outside_of_its_folder(tmp_path, names):
    save_epochs(tmp_path, 1)
    path = tmp_path / "epoch_000001.json"
    path.write_bytes(sealed("manifest", {**unsealed("manifest", path), **names}))
    with pytest.raises(ValueError, match="names files outside of"):
        load_latest(tmp_path)


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_save_that_fails_anywhere_loses_no_committed_epoch(tmp_path, monkeypatch, call):
    """Fail each system call of a save in turn; whatever happens, an epoch loads and the next save works."""
    save_epochs(tmp_path, 1, 2, 3)
    real = getattr(os, call) if call != "open" else open
    for failing in range(100):
        calls = 0

        def flaky(*args, failing=failing, **kwargs):
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            if call == "open":
                patch.setattr("builtins.open", flaky)
            else:
                patch.setattr(os, call, flaky)
            try:
                save(tmp_path, 4, tensors(4), state(4))
                failed = False
            except OSError:
                failed = True
        lines = []
        loaded = load_latest(tmp_path, lines.append)
        check(loaded, loaded.epoch)
        assert loaded.epoch in (3, 4)
        assert lines == []
        if not failed:
            break
    assert failing > 2
    assert loaded.epoch == 4
    assert len(list(tmp_path.iterdir())) == 6


def test_manifest_is_readable_json(tmp_path):
    save_epochs(tmp_path, 1)
    manifest = json.loads((tmp_path / "epoch_000001.json").read_text())["manifest"]
    assert manifest["epoch"] == 1
    assert set(manifest["files"]) == {"denoiser", "actor_critic", "state"}
    assert manifest["state"]["journal"] == 1
