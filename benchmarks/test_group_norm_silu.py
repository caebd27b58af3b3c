"""Time of `group_norm_silu` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_group_norm_silu.py -m gpu
"""

import pytest
from kernel_cases import paper_cases
from kernel_timing import compare, needs_gpu

pytestmark = needs_gpu


@pytest.mark.parametrize("case", [c for c in paper_cases() if c.op == "group_norm_silu"], ids=lambda c: c.shape)
def test_group_norm_silu(measure, machine, case):
    compare(measure, machine, case)
