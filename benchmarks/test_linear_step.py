"""Time of `linear_step` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_linear_step.py -m gpu
"""

from kernel_timing import timing_of

test_linear_step = timing_of("linear_step")
