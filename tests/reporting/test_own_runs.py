"""What is read from the folders of finished, unfinished and damaged runs."""

import json

import pytest

from diamond_fast.reporting.own_runs import by_game, read_run, read_runs, remarks


def test_finished_run(write_run):
    run = read_run(write_run("Boxing", 3, tests=(1.5, 4.0), final=[90.0, 80.0, 70.0]))
    assert (run.game, run.seed, run.finished, run.num_final_episodes) == ("Boxing", 3, True, 3)
    assert run.score == 80.0
    assert run.steps.tolist() == [7_000, 8_000, 100_000]
    assert run.returns.tolist() == [1.5, 4.0, 80.0]
    assert (run.epochs, run.env_steps) == (20, 100_000)
    assert run.hours.shape == (3,)
    assert run.hours[-1] == pytest.approx(run.seconds / 3600)


def test_unfinished_run_has_the_score_of_its_last_test(write_run):
    run = read_run(write_run(tests=(1.5, 4.0)))
    assert not run.finished
    assert run.score == 4.0
    assert run.returns.tolist() == [1.5, 4.0]


def test_run_without_a_test_yet(write_run):
    path = write_run(tests=())
    assert read_run(path).score is None
    assert read_run(path).env_steps == 5_000
    (path / "metrics.jsonl").unlink()
    assert (read_run(path).env_steps, read_run(path).score) == (0, None)


def test_lines_that_a_crash_cut_short_do_not_count(write_run):
    path = write_run(tests=(1.5, 4.0))
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 30, "env_steps": 9000, "seconds": 1.0, "test/return_me')
    assert read_run(path).returns.tolist() == [1.5, 4.0]


def test_a_run_with_settings_this_version_does_not_know_is_read(write_run):
    path = write_run(tests=(1.0,))
    config = json.loads((path / "config.json").read_text())
    config["invented_later"] = {"depth": 3}
    del config["precision"]
    (path / "config.json").write_text(json.dumps(config))
    assert read_run(path).settings["invented_later.depth"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"game": "Pong", "seed": 0, "format": 2}', "has format 2, this version reads 1"),
        ('{"seed": 0}', "no game or no seed"),
        ('{"game": "Pong"}', "no game or no seed"),
    ],
)
def test_damaged_settings_are_named(write_run, text, message):
    path = write_run()
    (path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        read_run(path)


@pytest.mark.parametrize("returns", [[], [1.0, None], "many"])
def test_damaged_final_returns_are_named(write_run, returns):
    path = write_run()
    with open(path / "metrics.jsonl", "a") as file:
        line = {"epoch": 9, "env_steps": 9, "seconds": 9.0, "final_test/returns": returns}
        file.write(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: damaged: final_test/returns is not a list of numbers"):
        read_run(path)


@pytest.mark.parametrize("mean", ["high", [1]])
def test_damaged_metrics_are_named(write_run, mean):
    path = write_run()
    with open(path / "metrics.jsonl", "a") as file:
        line = {"epoch": 9, "env_steps": 9, "seconds": 9.0, "test/return_mean": mean}
        file.write(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: "):
        read_run(path)


def test_a_bad_run_among_many_is_skipped_and_named(write_run, tmp_path):
    good, damaged, no_run = write_run("Pong", 1), write_run("Pong", 2), tmp_path / "Pong-profile"
    (damaged / "config.json").write_text("{")
    no_run.mkdir()
    told = []
    assert [run.seed for run in read_runs([damaged, good, no_run, tmp_path / "nowhere"], told.append)] == [1]
    assert [line.split(":")[0] for line in told] == [
        str(damaged / "config.json"),
        str(no_run),
        str(tmp_path / "nowhere"),
    ]


def test_runs_are_ordered_and_counted_once(write_run):
    pong, boxing1, boxing0 = write_run("Pong", 0), write_run("Boxing", 1), write_run("Boxing", 0)
    runs = read_runs([pong, boxing1, boxing0, pong / ".." / pong.name])
    assert [str(run) for run in runs] == ["Boxing seed 0", "Boxing seed 1", "Pong seed 0"]
    assert {game: [run.seed for run in seeds] for game, seeds in by_game(runs).items()} == {
        "Boxing": [0, 1],
        "Pong": [0],
    }


@pytest.mark.parametrize("number", ["1e999", "NaN", "1" + "0" * 30, "-1"])
def test_numbers_that_cannot_be_cost_one_line(write_run, number):
    path = write_run(tests=(1.5, 4.0))
    lines = (path / "metrics.jsonl").read_text().splitlines()
    lines.insert(2, f'{{"epoch": 1, "env_steps": {number}, "seconds": 1.0, "test/return_mean": 2}}')
    (path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_run(path).returns.tolist() == [1.5, 4.0]


def test_nothing_to_remark_on_runs_by_the_rules(write_run):
    assert remarks(read_runs([write_run("Pong", seed, final=[1.0] * 100) for seed in (0, 1)])) == []
    assert remarks([]) == []


def test_remarks(write_run, short_collection):
    paths = [
        write_run("Pong", 0, final=[1.0] * 100),
        write_run("Pong", 0, final=[1.0] * 4, name="again", collection=short_collection),
        write_run("Boxing", 1, model_free=True),
        write_run("diamond_fast/Catch-v0", 0, frame_size=24, final=[1.0] * 20),
    ]
    duplicate, steps, model_free, games, settings = remarks(read_runs(paths))
    assert duplicate.startswith("Pong, seed 0: 2 runs have the same seed (")
    assert steps == "Not the benchmark's rules: 1 of 3 runs without 100 000 real steps (Pong seed 0)."
    assert model_free == "Not the benchmark's rules: 1 of 3 runs model-free (Boxing seed 1)."
    assert games.endswith("1 of 3 runs with another number of final games than 100 (Pong seed 0).")
    assert settings.startswith("Runs of Atari 100k differ in their settings")
    assert "--model-free True / False" in settings
    assert "--collection.num-steps-total 100000 / 1600" in settings
    assert "frame-size" not in settings
