"""What people see of a sweep."""

import io

from rich.console import Console

from diamond_fast.sweeps import show
from diamond_fast.sweeps.attempts import Standing, note
from diamond_fast.sweeps.show import Display, as_table, summary, write_page


def standing(name, state, seconds=0.0, score=None, line="", left=None):
    return Standing(name, "", state, 3, score, seconds, left, "node7", line)


FOUND = [
    standing("a", "finished", 100.0, 1.25),
    standing("b", "running", 40.0, line="epoch 3/5: 20 s left", left=95.0),
    standing("c", "waiting"),
    standing("d", "failed", 10.0, line="out of memory on <cuda>"),
]


def test_the_summary_counts_and_says_what_is_left():
    assert summary(FOUND) == (
        "1 running, 1 failed, 1 waiting, 1 finished; 2 min 40 s of training left, by those that finished"
    )
    assert summary(FOUND[:1]) == "1 finished"
    assert summary(FOUND[1:]) == "1 running, 1 failed, 1 waiting"


def rows(table) -> list[str]:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    (head,) = (i for i, line in enumerate(lines) if line.startswith("run "))
    return [line.rstrip() for line in lines[head + 1 :]]


def test_the_table_begins_with_what_a_reader_looks_for():
    shown = rows(as_table(FOUND))
    assert [line.split()[0] for line in shown] == ["b", "d", "c", "a"]
    assert shown[0].endswith("epoch 3/5: 20 s left")
    assert "1 min 35 s" in shown[0]
    assert "1.25" in shown[3]
    assert [line.split()[0] for line in rows(as_table(FOUND, most=3))] == ["b", "d", "c"]


def test_a_row_is_one_line_if_there_is_room_for_so_many():
    long = standing("a", "failed", line="too little memory " * 20)
    assert len(rows(as_table([long]))) > 1
    assert len(rows(as_table([long], most=5))) == 1


def test_the_page_needs_nothing_else_and_refreshes_until_the_end(make_sweep):
    sweep = make_sweep(a="", b="")
    write_page(sweep, FOUND)
    page = (sweep.path / "index.html").read_text()
    assert 'http-equiv="refresh"' in page
    assert "out of memory on &lt;cuda&gt;" in page
    assert "http://" not in page
    write_page(sweep, [FOUND[0], FOUND[3]])
    assert 'http-equiv="refresh"' not in (sweep.path / "index.html").read_text()


def test_without_a_terminal_each_change_is_a_line(make_sweep, capsys, monkeypatch):
    monkeypatch.setattr(show, "LOOK_EVERY", -1.0)
    sweep = make_sweep(a="", b="")
    with Display(sweep) as display:
        display.tick()
        note(sweep, "a", "start", epochs=0)
        sweep.alive_file("a").touch()
        display.tick()
        display.tick()
        note(sweep, "a", "end", how="failed", why="no more")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a running (1 running, 1 waiting)", "a failed: no more (1 failed, 1 waiting)"]
    assert (sweep.path / "index.html").exists()
