"""Time of `ada_group_norm_silu` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_ada_group_norm_silu.py -m gpu
"""

from kernel_timing import timing_of

test_ada_group_norm_silu = timing_of("ada_group_norm_silu")
