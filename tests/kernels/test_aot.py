"""What the compiled kernels are made of, on chips that are not here. Compiled in a process of its own: this one may
interpret Triton's kernels, and then cannot compile them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"
ALL_CHIPS = [80, 86, 89, 90, 100, 120]

# A buffer of 16 channels of which 3 are written; single sums.
NARROW_STORES = {
    "_edm_step_kernel",
    "_linear_step_kernel",
    "_masked_mean_kernel",
    "_backward_reduce_kernel",
    "_bias_residual_stats_kernel",
}


def compiled(cases: str, capabilities: list[int]) -> list[dict]:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, SCRIPT, "--json", "--cases", cases, "--capabilities", *map(str, capabilities)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def assert_fit_for_the_chip(found: list[dict], wide: bool) -> None:
    for kernel in found:
        name = f"{kernel['kernel']} of {kernel['op']} {kernel['case']} on sm_{kernel['capability']}"
        instructions = kernel["instructions"]
        assert kernel["spill_bytes"] == 0, f"{name}: spills {kernel['spill_bytes']} bytes"
        assert not any(op.startswith(("LDL", "STL")) for op in instructions), f"{name}: uses local memory"
        double = [op for op in instructions if op.split(".")[0] in ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX")]
        assert not double, f"{name}: double precision, {double}"
        # in shared memory (ATOMS) sm_100 hands out what its tensor cores work in
        assert not any(op.startswith(("ATOM.", "ATOMG", "RED.")) for op in instructions), f"{name}: atomics"
        assert kernel["shared_bytes"] <= kernel["shared_limit"], f"{name}: {kernel['shared_bytes']} bytes shared"
        if wide:
            assert_wide(name, kernel)


def assert_wide(name: str, kernel: dict) -> None:
    loads, stores = (
        {op: count for op, count in kernel["instructions"].items() if op.startswith(kind)} for kind in ("LDG", "STG")
    )
    if kernel["kernel"] != "_masked_mean_kernel":
        assert any(".128" in op for op in loads), f"{name}: no 16-byte loads, {loads}"
    if kernel["kernel"] not in NARROW_STORES:
        assert any(".128" in op for op in stores), f"{name}: no 16-byte stores, {stores}"


def test_on_an_h100():
    found = compiled("few", [90])
    assert {kernel["op"] for kernel in found} == {
        "ada_group_norm_silu",
        "bias_residual_stats",
        "edm_loss",
        "edm_precondition_input",
        "edm_step",
        "frames_to_float",
        "fused_conv",
        "linear_step",
        "lstm_unroll",
        "mamba_step",
    }
    assert_fit_for_the_chip(found, wide=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_at_the_papers_shapes_on_every_chip():
    assert_fit_for_the_chip(compiled("paper", ALL_CHIPS), wide=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("capability", ALL_CHIPS)
def test_over_the_launch_parameters(capability):
    assert_fit_for_the_chip(compiled("sweep", [capability]), wide=False)
