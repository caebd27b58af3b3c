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
        f'[[ "$*" == *diamond_fast.train* ]] && mkdir -p {tmp_path}/out/boxing/{{checkpoints,pictures}} '
        f"&& touch {tmp_path}/out/boxing/metrics.jsonl {tmp_path}/out/boxing/pictures/learning_curves.png\n"
        f"exit $(cat {tmp_path}/exit_code)\n"
    )
    python.chmod(0o755)

    def run(*steps: str, exit_code: int = 0, **environment: str) -> tuple[int, list[str]]:
        (tmp_path / "exit_code").write_text(str(exit_code))
        commands.write_text("")
        environment = {**os.environ, "OUT": str(tmp_path / "out"), "PYTHON": str(python), **environment}
        done = subprocess.run(["bash", SCRIPT, *steps], env=environment, capture_output=True, text=True, check=False)
        run.output = done.stdout + done.stderr
        return done.returncode, commands.read_text().splitlines()

    return run


def test_what_is_done_is_not_done_again_unless_asked_for(proofs):
    code, commands = proofs("tests", "benchmark_updates", "benchmark_edm_step")
    assert code == 0
    assert len(commands) == 3
    assert commands[1].endswith("--only updates recompute")
    assert commands[2].endswith("--only edm_step")
    proofs("--list")
    assert "tests: exit code 0\n" in proofs.output
    assert "benchmark_denoiser: not done\n" in proofs.output
    _, commands = proofs()
    assert commands
    assert not any("gpu and not slow" in command or "--only edm_step" in command for command in commands)
    _, commands = proofs("tests")
    assert len(commands) == 1


def test_failures_are_told(proofs):
    code, _ = proofs("tests", exit_code=3)
    assert code == 1
    proofs("--list")
    assert "tests: exit code 3\n" in proofs.output


def test_the_training_goes_on_from_its_folder(proofs):
    _, (first,) = proofs("training", exit_code=124)
    assert "--game Boxing" in first
    assert "--resume" not in first
    code, (second,) = proofs("training", exit_code=124)
    assert "--resume" in second
    assert "--game" not in second
    assert code == 0  # stopped in time is what was asked for


def test_nothing_is_begun_after_the_limit(proofs):
    code, commands = proofs("tests", "benchmark_updates", LIMIT="-1")
    assert (code, commands) == (0, [])
    assert "tests: left for the next call" in proofs.output


def test_an_unknown_step_is_refused(proofs):
    code, commands = proofs("test")
    assert (code, commands) == (2, [])
    assert proofs.output.startswith("test: no such step; one of doctor tests")
