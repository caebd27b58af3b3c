"""Time of `replay_gather` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes; and of batches
that come from the host's pinned memory instead.

pytest benchmarks/test_replay_gather.py -m gpu
"""

import torch
from kernel_cases import Case
from kernel_timing import timing_of

from diamond_fast.frames import to_float


def from_pinned_memory(case: Case):
    """The call that a mirror on the device saves."""
    on_host = torch.empty((case.bytes_moved // 5 // 3, 1, 1, 3), dtype=torch.uint8).pin_memory()
    return lambda: to_float(on_host.to("cuda", non_blocking=True))


test_replay_gather = timing_of("replay_gather", **{"from pinned memory": from_pinned_memory})
