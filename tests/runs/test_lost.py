"""Runs without a checkpoint: new ones begin, those that lost theirs are refused with everything as it was."""

from contextlib import closing

import pytest

from diamond_fast.config import RunConfig
from diamond_fast.replay.journal import Journal
from diamond_fast.runs.folder import RunFolder
from diamond_fast.runs.lost import check_nothing_is_lost
from diamond_fast.runs.metrics import Metrics


@pytest.fixture
def run(tmp_path):
    """As it is while its first checkpoint is being written: nothing is committed, everything else is there."""
    run = RunFolder.create(tmp_path / "run", RunConfig(game="Boxing"))
    journal = Journal.create(run.replay / "journal", {})
    journal.append([b"experience"])
    journal.close()
    with closing(Metrics(run.metrics_file)) as metrics:
        metrics.log({}, epoch=0, env_steps=5_000)
    (run.checkpoints / "epoch_000000").mkdir()
    return run


def test_before_the_first_checkpoint_nothing_can_be_lost(run):
    check_nothing_is_lost(run)


def test_afterwards_what_is_left_is_named(run):
    run.no_checkpoint_yet.unlink()
    (run.checkpoints / "epoch_000000.2").mkdir()
    (run.checkpoints / "epoch_best").mkdir()
    with pytest.raises(
        ValueError,
        match=r"run: the manifests of its checkpoints \(checkpoints/epoch_\*\.json\) are missing, but there are "
        r"checkpoints/epoch_000000, checkpoints/epoch_000000\.2, metrics\.jsonl up to epoch 0, "
        r"replay/journal with \d+ bytes; put the manifests back, or start a new run with --out$",
    ):
        check_nothing_is_lost(run)


@pytest.mark.parametrize("left", ["checkpoints", "metrics", "journal"])
def test_each_trace_alone_is_enough(run, left):
    run.no_checkpoint_yet.unlink()
    if left != "checkpoints":
        (run.checkpoints / "epoch_000000").rmdir()
    if left != "metrics":
        run.metrics_file.unlink()
    if left != "journal":
        (run.replay / "journal").unlink()
    with pytest.raises(ValueError, match=r"manifests of its checkpoints"):
        check_nothing_is_lost(run)


def test_older_runs_said_nothing_and_may_still_begin(run):
    """Those stopped while they collected their first experience had a journal and empty metrics."""
    run.no_checkpoint_yet.unlink()
    (run.checkpoints / "epoch_000000").rmdir()
    run.metrics_file.write_bytes(b"")
    check_nothing_is_lost(run)
