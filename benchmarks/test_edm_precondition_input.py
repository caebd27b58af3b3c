"""Time of `edm_precondition_input` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_edm_precondition_input.py -m gpu
"""

from kernel_timing import timing_of

test_edm_precondition_input = timing_of("edm_precondition_input")
