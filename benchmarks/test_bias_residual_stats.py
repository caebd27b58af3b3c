"""Time of `bias_residual_stats` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_bias_residual_stats.py -m gpu
"""

from kernel_timing import timing_of

test_bias_residual_stats = timing_of("bias_residual_stats")
