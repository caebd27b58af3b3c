"""What a run's attempts make of it."""

import json
import os
import time

import pytest

from diamond_fast.sweeps import attempts
from diamond_fast.sweeps.attempts import MOST_LOST, SILENT, note, note_loss, standing


@pytest.fixture
def sweep(make_sweep):
    return make_sweep(a="--epochs 2", b="")


def begin(sweep, epochs=0, silent_for=0.0):
    note(sweep, "a", "start", epochs=epochs)
    sweep.alive_file("a").touch()
    then = time.time() - silent_for
    os.utime(sweep.alive_file("a"), (then, then))


def log_epochs(sweep, epochs, **last):
    folder = sweep.run("a").path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"game": "Boxing", "seed": 0}))
    lines = [
        {"epoch": e, "env_steps": 5 * e, "seconds": 2.5 * e, "test/return_mean": 10 * e} for e in range(1, epochs + 1)
    ]
    lines[-1] |= last
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_that_nobody_began(sweep):
    s = standing(sweep, "a")
    assert (s.state, s.epochs, s.score, s.seconds, s.node, s.line) == ("waiting", 0, None, 0.0, "", "")
    assert [s.name for s in attempts.standings(sweep)] == ["a", "b"]


def test_one_at_work_shows_its_last_line_and_figures(sweep):
    begin(sweep)
    log_epochs(sweep, 2)
    sweep.log_file("a").write_text("epoch 1/3: x\nepoch 2/3: loss 0.1, 5 s left\n\n")
    s = standing(sweep, "a")
    assert (s.state, s.epochs, s.score, s.seconds, s.left) == ("running", 2, 20.0, 5.0, 2.5)
    assert s.line == "epoch 2/3: loss 0.1, 5 s left"
    assert s.node


def test_a_run_does_not_say_how_it_would_go_on_alone(sweep):
    begin(sweep)
    note(sweep, "a", "end", how="stopped", why="Stopped. Go on from the last checkpoint with: python -m x")
    assert standing(sweep, "a").line == "Stopped."


def test_silence_means_that_it_is_lost(sweep):
    begin(sweep, silent_for=SILENT + 5)
    s = standing(sweep, "a")
    assert s.state == "lost"
    assert s.line.startswith("no sign of life from ")


@pytest.mark.parametrize("how", ["finished", "stopped", "failed", "lost"])
def test_the_last_word_counts(sweep, how):
    begin(sweep)
    note(sweep, "a", "end", how=how, why="the reason")
    s = standing(sweep, "a")
    assert (s.state, s.line) == (how, "the reason")


def test_a_finished_run_has_the_score_of_its_final_games(sweep):
    begin(sweep)
    log_epochs(sweep, 2, **{"final_test/returns": [1.0, 4.0]})
    note(sweep, "a", "end", how="finished")
    assert standing(sweep, "a").score == 2.5


def test_one_that_is_lost_again_and_again_fails_until_it_is_retried(sweep):
    for _ in range(MOST_LOST - 1):
        begin(sweep)
        note(sweep, "a", "end", how="lost", why="ended by SIGKILL")
    assert standing(sweep, "a").state == "lost"
    begin(sweep, silent_for=SILENT + 5)
    s = standing(sweep, "a")
    assert s.state == "failed"
    assert s.line.startswith("lost 3 times in a row without finishing an epoch; the last time: no sign of life")
    note(sweep, "a", "retry")
    assert standing(sweep, "a").state == "waiting"
    begin(sweep)
    note(sweep, "a", "end", how="lost", why="")
    assert standing(sweep, "a").state == "lost"


def test_whoever_gets_on_is_never_given_up(sweep):
    for epoch in range(1, 9):
        begin(sweep, epochs=epoch - 1)
        log_epochs(sweep, epoch)
        note(sweep, "a", "end", how="lost", why="preempted")
        assert standing(sweep, "a").state == "lost"


def test_being_told_to_stop_is_no_loss(sweep):
    for how in ("lost", "lost", "stopped", "lost", "lost"):
        begin(sweep)
        note(sweep, "a", "end", how=how, why="")
        assert standing(sweep, "a").state == how


def test_a_worker_that_cannot_say_so(sweep):
    begin(sweep)
    note_loss(sweep, "a", "its worker ended with -9")
    assert standing(sweep, "a").line == "its worker ended with -9"
    for _ in range(MOST_LOST):  # it does not even begin
        note_loss(sweep, "b", "no module")
    assert standing(sweep, "b").state == "failed"


def test_a_line_that_was_cut_short_says_nothing(sweep):
    begin(sweep)
    with open(sweep.attempts_file("a"), "a") as file:
        file.write('{"event": "en')
    assert standing(sweep, "a").state == "running"
