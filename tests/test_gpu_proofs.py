"""The script that runs what only a GPU can prove: what it does again, what it does not, and how it goes on.

Python is replaced by a script that writes down what it was asked for: whether the proofs hold is not tested here.
"""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_proofs.sh"


@pytest.fixture
def proofs(tmp_path):
    """Runs the script; returns its exit code and the commands it gave since."""
    python, commands = tmp_path / "python", tmp_path / "commands"
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$*" >> {commands}\n'
        f'[[ "$*" == *diamond_fast.train* ]] && mkdir -p {tmp_path}/made/boxing/{{checkpoints,pictures}} '
        f"&& touch {tmp_path}/made/boxing/metrics.jsonl {tmp_path}/made/boxing/pictures/learning_curves.png\n"
        f'[[ "$*" == *diamond_fast.bench* ]] && touch {tmp_path}/made/bench/machine.json {tmp_path}/out/figures.jsonl\n'
        f"sleep $(cat {tmp_path}/takes)\n"
        f"exit $(cat {tmp_path}/exit_code)\n"
    )
    python.chmod(0o755)

    def run(*steps: str, exit_code: int = 0, takes: int = 0, **environment: str) -> tuple[int, list[str]]:
        (tmp_path / "exit_code").write_text(str(exit_code))
        (tmp_path / "takes").write_text(str(takes))
        commands.write_text("")
        folders = {
            name: str(tmp_path / folder) for name, folder in (("OUT", "out"), ("WORK", "made"), ("WHEELS", "wheels"))
        }
        environment = {**os.environ, **folders, "PYTHON": str(python), **environment}
        done = subprocess.run(["bash", SCRIPT, *steps], env=environment, capture_output=True, text=True, check=False)
        run.output = done.stdout + done.stderr
        return done.returncode, commands.read_text().splitlines()

    return run


def test_what_is_done_is_not_done_again_unless_asked_for(proofs):
    code, commands = proofs("tests", "updates", "kernels")
    assert code == 0
    assert len(commands) == 3
    assert commands[1].endswith("--rivals without --only recompute updates")
    assert " --rivals without --only ada_group_norm_silu " in commands[2]
    proofs("--list")
    assert "tests (540 s): exit code 0\n" in proofs.output
    assert "denoiser (420 s): not done\n" in proofs.output
    _, commands = proofs()
    assert commands
    assert not any("gpu and not slow" in command or "--only recompute" in command for command in commands)
    _, commands = proofs("tests")
    assert len(commands) == 1


def test_the_extensions_are_built_from_what_the_machine_has_and_the_wheels_that_came_along(proofs, tmp_path):
    _, commands = proofs("setup")
    assert commands[0] == "-m pip install -e . --no-deps --no-build-isolation"
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "tyro-1.0-py3-none-any.whl").touch()
    _, commands = proofs("setup")
    assert commands[0].startswith("-m pip install --no-index --no-deps")
    assert commands[1] == "-m pip install -e . --no-deps --no-build-isolation"
    _, (command,) = proofs("--wheels", "3.13")
    assert "--python-version 3.13" in command
    for package in ("tyro", "gymnasium", "ale-py"):
        assert f" {package} " in command


def test_a_rehearsal_does_every_step_and_leaves_six_files(proofs, tmp_path):
    code, commands = proofs(REHEARSAL="1")
    assert code == 0
    assert len(commands) == 8  # setup is two
    (bench,) = [command for command in commands if "diamond_fast.bench" in command]
    assert bench.endswith(" --rivals without --tiny --only checkpoint fast_denoiser imagination recompute")
    assert not any("cuda" in command for command in commands)
    done = [line.split()[0] for line in (tmp_path / "out" / "done").read_text().splitlines()]
    order = ["setup", "tests", "denoiser", "imagination", "updates", "training", "runs", "kernels", "rivals"]
    assert done == [*order, "rest", "sanitizer"]
    names = ["bench.json", "done", "figures.jsonl", "logs.tar.gz", "training_curve.png", "training_metrics.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == names


def test_each_step_has_a_time_of_its_own(proofs):
    code, _ = proofs("tests", takes=20, TESTS_SECONDS="1")
    assert code == 1
    assert "== tests: not done within 1 s\n" in proofs.output
    proofs("--list", TESTS_SECONDS="1")
    assert "tests (1 s): not done\n" in proofs.output


def test_failures_are_told(proofs):
    code, _ = proofs("tests", exit_code=3)
    assert code == 1
    proofs("--list")
    assert "tests (540 s): exit code 3\n" in proofs.output


def test_the_training_goes_on_from_its_folder(proofs):
    _, (first,) = proofs("training", exit_code=124)
    assert "--game Boxing" in first
    assert "--resume" not in first
    code, (second,) = proofs("training", exit_code=124)
    assert "--resume" in second
    assert "--game" not in second
    assert code == 0  # stopped in time is what was asked for


def test_nothing_is_begun_after_the_limit(proofs):
    code, commands = proofs("tests", "updates", LIMIT="-1")
    assert (code, commands) == (0, [])
    assert "tests: left for the next call" in proofs.output


def test_an_unknown_step_is_refused(proofs):
    code, commands = proofs("test")
    assert (code, commands) == (2, [])
    assert proofs.output.startswith("test: no such step; one of setup tests")
