"""Time of `group_norm_silu` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_group_norm_silu.py -m gpu
"""

from kernel_timing import timing_of

test_group_norm_silu = timing_of("group_norm_silu")
