"""Time of `edm_step` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_edm_step.py -m gpu
"""

from kernel_timing import timing_of

test_edm_step = timing_of("edm_step")
