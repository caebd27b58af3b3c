"""Time of `replay_gather` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes; and of batches
that come from the host's pinned memory instead.

pytest benchmarks/test_replay_gather.py -m gpu
"""

import pytest
import torch
from kernel_cases import Case, paper_cases
from kernel_timing import compare, needs_gpu

from diamond_fast.frames import to_float

pytestmark = needs_gpu


def from_pinned_memory(case: Case):
    """The call that a mirror on the device saves."""
    on_host = torch.empty((case.bytes_moved // 5 // 3, 1, 1, 3), dtype=torch.uint8).pin_memory()
    return lambda: to_float(on_host.to("cuda", non_blocking=True))


@pytest.mark.parametrize("case", [c for c in paper_cases() if c.op == "replay_gather"], ids=lambda c: c.shape)
def test_replay_gather(measure, machine, case):
    compare(measure, machine, case, **{"from pinned memory": from_pinned_memory(case)})
