"""Time of `edm_step` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_edm_step.py -m gpu
"""

import pytest
from kernel_cases import paper_cases
from kernel_timing import compare, needs_gpu

pytestmark = needs_gpu


@pytest.mark.parametrize("case", [c for c in paper_cases() if c.op == "edm_step"], ids=lambda c: c.shape)
def test_edm_step(measure, machine, case):
    compare(measure, machine, case)
