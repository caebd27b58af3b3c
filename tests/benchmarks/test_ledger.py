"""Rows are on disk as soon as they are measured, and the next session goes on from there."""

from types import SimpleNamespace

import pytest
from ledger import Ledger, benchmark_name
from pages.document import new, read

ITEMS = [SimpleNamespace(nodeid=f"benchmarks/test_updates.py::test_update[denoiser-{n}]") for n in (8, 32)]


@pytest.fixture
def begin(document, tmp_path):
    """Begins a session; returns its ledger and what it is to measure."""

    def session(rivals="with", again=False, **changed):
        names = ("hardware", "software", "commit", "date", "effort", "threads", "rates")
        settings = {**{name: document[name] for name in names}, **changed}
        ledger = Ledger(tmp_path, lambda: new(**settings), rivals, again)
        return ledger, [benchmark_name(x.nodeid) for x in ledger.begin(list(ITEMS))]

    return session


def row(batch: int) -> dict:
    return {"stem": "update", "case": {"batch": batch}, "rivals": "with"}


def skipped(reason: str):
    location = ("benchmarks/test_updates.py", 1, "test_update[denoiser-32]")
    return SimpleNamespace(skipped=True, failed=False, longrepr=("", 1, f"Skipped: {reason}"), location=location)


def test_a_killed_session_has_written_its_rows_and_the_next_one_measures_the_rest(begin, tmp_path):
    ledger, names = begin()
    assert names == ["updates::test_update[denoiser-8]", "updates::test_update[denoiser-32]"]
    ledger.note(ITEMS[0].nodeid, [row(8)], 12.34)  # and is killed: nothing else is called
    (path,) = tmp_path.glob("*.json")
    (written,) = read(path)["rows"]
    assert written == {**row(8), "benchmark": names[0], "took": 12.3}
    ledger, rest = begin()
    assert rest == names[1:]
    ledger.note(ITEMS[1].nodeid, [row(32)], 1.0)
    ledger.pytest_sessionfinish()
    assert [r["case"]["batch"] for r in read(path)["rows"]] == [8, 32]
    assert begin()[1] == []
    assert begin(again=True)[1] == names


def test_rows_of_another_commit_or_number_of_threads_are_measured_again(begin):
    ledger, names = begin()
    ledger.note(ITEMS[0].nodeid, [row(8)], 1.0)
    assert begin(threads=1)[1] == begin(commit={"id": "another", "dirty": False})[1] == names


def test_rows_of_another_commit_are_kept_beside_the_new_ones(begin, tmp_path):
    ledger, _ = begin(date="2026-11-27T01:02:03")
    ledger.note(ITEMS[0].nodeid, [row(8)], 1.0)
    (path,) = tmp_path.glob("*.json")
    before = path.read_bytes()
    other = {"id": "another", "dirty": False}
    for report in (None, skipped("no time")):  # stopped before its first row
        ledger, _ = begin(commit=other)
        if report:
            ledger.pytest_runtest_logreport(report)
        ledger.pytest_sessionfinish()
        assert path.read_bytes() == before
    ledger, _ = begin(commit=other)
    ledger.note(ITEMS[1].nodeid, [row(32)], 1.0)
    assert (tmp_path / "before" / f"{path.stem}-2026-11-27T010203.json").read_bytes() == before
    assert [r["case"]["batch"] for r in read(path)["rows"]] == [32]
    assert list(tmp_path.glob("*.json")) == [path]


def test_what_was_not_run_is_told_of_the_last_session_that_tried(begin, tmp_path):
    ledger, _ = begin()
    ledger.pytest_runtest_logreport(skipped("no time"))
    ledger.document["not_run"].append({"benchmark": "test_other", "reason": "x", "cases": 1})
    ledger._not_run_before = list(ledger.document["not_run"])
    ledger.pytest_sessionfinish()
    (path,) = tmp_path.glob("*.json")
    other = {"benchmark": "test_other", "reason": "x", "cases": 1}
    assert read(path)["not_run"] == [other, {"benchmark": "test_update[denoiser-32]", "reason": "no time", "cases": 1}]
    ledger, _ = begin()
    ledger.pytest_sessionfinish()
    assert read(path)["not_run"] == [other]


def test_without_a_folder_nothing_is_written():
    def fails():
        raise AssertionError("a document was made")

    ledger = Ledger(None, fails, "with", False)
    assert ledger.begin(list(ITEMS)) == ITEMS
    ledger.note(ITEMS[0].nodeid, [row(8)], 1.0)
    ledger.pytest_sessionfinish()
