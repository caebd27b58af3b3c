"""Time of `mamba_step` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_mamba_step.py -m gpu
"""

from kernel_timing import timing_of

test_mamba_step = timing_of("mamba_step")
