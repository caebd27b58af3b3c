"""Time of `edm_loss` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_edm_loss.py -m gpu
"""

from kernel_timing import timing_of

test_edm_loss = timing_of("edm_loss")
