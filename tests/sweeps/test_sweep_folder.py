import json

import pytest

from diamond_fast.sweeps.folder import Planned, SweepFolder

A, B = Planned("a-seed0", "", ("--game", "A")), Planned("b-seed0", "x=1", ("--game", "B"))


def test_what_is_written_is_read(tmp_path):
    made = SweepFolder.create(tmp_path / "s", "the command", [A, B])
    assert SweepFolder.open(tmp_path / "s") == made
    assert made.planned("b-seed0") == B
    assert made.where


def test_more_runs_may_come_and_none_may_go_or_change(tmp_path):
    SweepFolder.create(tmp_path, "one", [A])
    assert SweepFolder.create(tmp_path, "two", [A, B]).runs == (A, B)
    with pytest.raises(ValueError, match=r"holds a sweep with b-seed0, which is not asked for; name another"):
        SweepFolder.create(tmp_path, "one", [A])
    with pytest.raises(ValueError, match=r"holds a sweep whose b-seed0 has other settings; name another"):
        SweepFolder.create(tmp_path, "one", [A, Planned("b-seed0", "x=1", ("--game", "C"))])


def test_what_is_no_sweep(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out .*file: is a file; name a folder"):
        SweepFolder.create(tmp_path / "file", "", [A])
    with pytest.raises(ValueError, match=r"the folder is not empty; name a new one"):
        SweepFolder.create(tmp_path, "", [A])
    with pytest.raises(ValueError, match=r"not the folder of a sweep \(it has no sweep.json\)"):
        SweepFolder.open(tmp_path)


def test_damage_shows(tmp_path):
    SweepFolder.create(tmp_path, "", [A])
    manifest = tmp_path / "sweep.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace("a-seed0", "a-seed1"))
    with pytest.raises(ValueError, match=r"sweep.json: damaged: sweep.json differs from its checksum"):
        SweepFolder.open(tmp_path)
    manifest.write_text(whole[:-9])
    with pytest.raises(ValueError, match="damaged"):
        SweepFolder.open(tmp_path)


def test_a_newer_format_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("diamond_fast.sweeps.folder.FORMAT", 2)
    SweepFolder.create(tmp_path, "", [A])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        SweepFolder.open(tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text())["sweep"]["format"] == 2


def test_one_process_drives_and_one_works_at_a_run(tmp_path):
    sweep = SweepFolder.create(tmp_path, "", [A])
    with sweep.only_driver(), pytest.raises(ValueError, match="another process drives this sweep"), sweep.only_driver():
        pass
    with sweep.only_attempt("a-seed0") as first, sweep.only_attempt("a-seed0") as second:
        assert (first, second) == (True, False)
    with sweep.only_attempt("a-seed0") as third:
        assert third
