"""What readers make of mutated files: tests/fuzzing.py, a few dozen of each kind here and 3 000 with -m slow."""

import json
import subprocess
import sys
from pathlib import Path

import fuzzing
import pytest
from fuzzing import KINDS

FUZZING = Path(__file__).with_name("fuzzing.py")


def check(folder, count, names, timeout):
    command = [sys.executable, FUZZING, folder, str(count), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{(folder / 'progress').read_text()}: {done.returncode}\n{done.stderr[-2000:]}"
    *findings, memory = map(json.loads, done.stdout.splitlines())
    assert [each for each in findings if "wrong" in each] == []
    assert [each["read"] + each["refused"] for each in findings] == [count] * len(names)
    assert all(each["refused"] > count / 10 for each in findings), findings
    assert memory["megabytes_more"] < 300
    return [*findings, memory]


def test_some_mutations_of_every_kind(tmp_path):
    check(tmp_path, 40, list(KINDS), timeout=280)


@pytest.mark.slow
@pytest.mark.timeout(3700)
@pytest.mark.parametrize("kind", KINDS)
def test_3_000_mutations(tmp_path, kind, capsys):
    findings = check(tmp_path, 3000, [kind], timeout=3600)
    assert findings[0]["read"] > 0  # the checksums that forgers make are right
    with capsys.disabled():
        print(f"\n{findings}")


def test_a_reader_that_fails_is_found():
    """What the fuzzers call wrong: an error of another kind, and a message of two lines."""

    class Reader(fuzzing.Kind):
        def __init__(self, error):
            self.error = error

        def read(self):
            raise self.error

    assert fuzzing.complaint(Reader(KeyError("x"))) == ("failed", "KeyError: 'x'")
    assert fuzzing.complaint(Reader(MemoryError())) == ("failed", "MemoryError: ")
    assert fuzzing.complaint(Reader(ValueError("a\nb")))[1] is not None
    assert fuzzing.complaint(Reader(ValueError("a: b"))) == ("refused", None)
