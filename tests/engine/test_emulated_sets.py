"""Instruction sets that a processor lacks, on any processor: compiled against twins of the instructions in plain C++.

That operations are put together of them correctly is shown here, forward and back; that the twins are what a processor
does, by the other tests of the engine on one that has them. They are slow, so networks are small here.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
import test_cpu_program as forward
import test_cpu_training as backward
import test_memory_program as memory
from cpu_engine import Engine

from diamond_fast import _cpu
from diamond_fast.engine import cpu_program

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(
    scope="module",
    params=["amx", pytest.param("avx512", marks=pytest.mark.slow), pytest.param("neon", marks=pytest.mark.slow)],
)
def library(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("emulated") / f"{request.param}.so"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wno-psabi", "-Werror", "-fPIC", "-shared", "-pthread"]
    source = ROOT / "csrc" / "cpu" / f"set_{request.param}.cpp"
    instructions = ROOT / "tests" / "csrc" / "emulated"
    subprocess.run(["g++", *flags, f"-I{instructions}", source, "-o", path], check=True, timeout=400)
    return path


@pytest.fixture
def engine(library, monkeypatch):
    compiled = _cpu.Program

    def program(num_threads, instruction_set, path):
        assert (instruction_set, path) == (library.stem, str(library))
        return compiled(num_threads, "portable", path)  # which asks the processor for nothing

    monkeypatch.setattr(_cpu, "Program", program)
    monkeypatch.setattr(cpu_program, "_library", lambda _: library)
    monkeypatch.setattr(cpu_program, "why_not", lambda _: None)
    return Engine(library.stem)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1), (16, 10), (3, 33)])
@pytest.mark.parametrize(
    "shape", [(3, 3, 3, 1), (64, 64, 3, 1), (16, 48, 3, 1), (17, 16, 3, 1), (15, 40, 3, 2), (33, 70, 1, 1)]
)
def test_convolution(engine, size, shape):
    forward.test_convolution(engine, size, shape)


@pytest.mark.parametrize("channels", [(20, 36), (16, 16)])
def test_convolution_of_an_upsampled_input(engine, channels):
    forward.test_convolution_of_an_upsampled_input(engine, (9, 12), channels)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolution_of_two_inputs_and_a_residual(engine, kernel):
    forward.test_convolution_of_two_inputs_and_a_residual(engine, kernel)


@pytest.mark.parametrize("channels", [(16, 0), (48, 0), (16, 16), (96, 32)])
@pytest.mark.parametrize("mean", [0.0, 60.0])
def test_norm_and_silu(engine, channels, mean):
    forward.test_adaptive_norm_and_silu(engine, (11, 23), channels, mean)


def test_attention_and_pooling(engine):
    forward.test_learned_norm_attention_and_pooling(engine)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_shows(engine, bad):
    forward.test_what_is_not_a_number_shows(engine, bad)


def test_attention_to_past_frames_and_tokens(engine):
    for own, past in ((False, 3), (True, 3)):
        memory.test_attention_to_past_frames(engine, (5, 7), 2, own, past)
    memory.test_attention_over_time(engine, (5, 7), 70)
    memory.test_operations_of_tokens(engine, 40)
    memory.test_constants_norms_and_several_outputs(engine)


@pytest.mark.parametrize("size", [(5, 7), (17, 18)])
@pytest.mark.parametrize("shape", [(16, 16, 16, 3, 1), (20, 64, 33, 3, 2), (33, 33, 70, 1, 1)])
def test_gradients_of_convolutions(engine, size, shape):
    backward.test_convolutions(engine, size, shape)


def test_gradients_of_norms_and_skips(engine):
    backward.test_norms(engine, 96, (5, 7))
    backward.test_values_that_are_read_more_than_once(engine)


def test_gradients_of_attention_pooling_and_resizing(engine):
    backward.test_attention_pooling_and_resizing(engine)
