"""The C++ tests, plainly and under the sanitizers: `pytest tests/test_csrc.py -m 'slow or not slow'` runs them all."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
STORE = [CSRC / name for name in ("store.cpp", "frames.cpp", "sampler.cpp", "batch.cpp", "prefetch.cpp")]
PROGRAMS = {"store_test": STORE, "planted_faults": STORE, "team_test": []}
TESTS = ("store_test", "team_test")
SANITIZERS = {
    "asan+ubsan": ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "tsan": ["-g", "-fsanitize=thread"],
}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def build(program: str, folder: Path, *flags: str) -> Path:
    binary = folder / program
    sources = [f"-I{CSRC}", Path(__file__).parent / "csrc" / f"{program}.cpp", *PROGRAMS[program]]
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", *flags, *sources]
    subprocess.run([*command, "-o", binary], check=True, timeout=200)
    return binary


def run(*command: str | Path) -> subprocess.CompletedProcess:
    # ThreadSanitizer wants its shadow memory where address randomisation may put something else.
    fixed_addresses = ["setarch", platform.machine(), "-R"] if shutil.which("setarch") else []
    return subprocess.run([*fixed_addresses, *command], capture_output=True, text=True, timeout=250)


def assert_passes(done: subprocess.CompletedProcess) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "all passed\n", "")


@pytest.mark.parametrize("program", TESTS)
def test_cpp(program, tmp_path):
    assert_passes(run(build(program, tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("program", TESTS)
def test_cpp_under(program, sanitizer, tmp_path):
    assert_passes(run(build(program, tmp_path, *SANITIZERS[sanitizer])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizer", "fault", "report"),
    [("asan+ubsan", "overflow", "heap-buffer-overflow"), ("tsan", "race", "WARNING: ThreadSanitizer: data race")],
)
def test_planted_faults_are_reported(sanitizer, fault, report, tmp_path):
    done = run(build("planted_faults", tmp_path, *SANITIZERS[sanitizer]), fault)
    assert done.returncode != 0
    assert report in done.stderr
