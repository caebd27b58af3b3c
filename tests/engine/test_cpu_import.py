"""Which of the engine's instruction sets is taken, and that no instruction lies outside the library of its set."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diamond_fast.engine import cpu_program
from diamond_fast.engine.cpu_program import CHOICE, INSTRUCTION_SETS, CpuProgram, why_not

_cpu = pytest.importorskip("diamond_fast._cpu")  # where it is built; an illegal instruction would end the process

# Instructions and registers that are beyond a set, as objdump writes them.
AVX, AVX512, BF16 = r"\tv[a-z]", r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])\b", r"\ttile|\ttdp|\tv(dp|cvt)\w*bf16"
BEYOND = {"portable": f"{AVX}|{AVX512}|{BF16}", "avx2": f"{AVX512}|{BF16}", "avx512": BF16, "amx": None}
WITHIN = {"portable": "addps", "avx2": "vfmadd", "avx512": "%zmm", "amx": "tdpbf16ps"}


def instructions(library: Path) -> list[str]:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True).stdout
    return [line for line in listing.splitlines() if "\t" in line]


def library(name: str) -> Path:
    path = cpu_program._library(name)
    if not path.exists():
        pytest.skip(
            f"{path.name} is not built: the compiler lacks the instructions, or this is another kind of machine"
        )
    return path


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions named here are those of x86")
@pytest.mark.parametrize("name", BEYOND)
def test_a_library_holds_instructions_of_its_set_alone(name):
    lines = instructions(library(name))
    assert any(WITHIN[name] in line for line in lines)
    if (beyond := BEYOND[name]) is not None:
        assert [line for line in lines if re.search(beyond, line)] == []


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions named here are those of x86")
def test_what_every_processor_loads_holds_instructions_that_every_processor_has():
    assert [line for line in instructions(Path(_cpu.__file__)) if re.search(BEYOND["portable"], line)] == []


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_it_can_be_looked_at_and_refuses_what_the_processor_lacks(name):
    missing = _cpu.missing(name)
    if missing:
        with pytest.raises(RuntimeError, match=f"this processor or its system lacks {missing[0]}"):
            _cpu.Program(1, name, "nowhere.so")
        assert why_not(name) == f"the processor lacks {', '.join(missing)}"
        with pytest.raises(RuntimeError, match="the CPU engine cannot run here: the processor lacks"):
            CpuProgram(lambda b, v: v, [(3, 1.0)], 4, 4, on=name)
    else:
        with pytest.raises(RuntimeError, match=r"nowhere\.so"):
            _cpu.Program(1, name, "nowhere.so")


def test_unknown_sets_are_refused():
    with pytest.raises(ValueError, match="expected amx, avx512, avx2, neon or portable, got sse9"):
        _cpu.missing("sse9")


def test_the_fastest_set_is_taken():
    runs = [name for name, dtype in INSTRUCTION_SETS.items() if dtype == torch.float32 and why_not(name) is None]
    assert cpu_program.instruction_set(torch.float32) == runs[0]
    assert CpuProgram(lambda b, v: v, [(3, 1.0)], 4, 4, dtype=torch.float32).instruction_set == runs[0]


SAYS = """
import torch
from diamond_fast.engine.cpu_program import instruction_set, why_unavailable
print(instruction_set(torch.float32), instruction_set(torch.bfloat16), why_unavailable(), sep="|")
"""


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("portable", f"portable|None|{CHOICE} is portable"),
        ("fastest", f"ValueError: {CHOICE}: expected one of amx, avx512, avx2, neon, portable, got fastest"),
    ],
)
def test_an_environment_variable_chooses(choice, expected):
    done = subprocess.run([sys.executable, "-c", SAYS], env={CHOICE: choice}, capture_output=True, text=True)
    assert (done.stdout or done.stderr).splitlines()[-1] == expected
