"""Time of `fused_conv` at the paper's shapes: kernel, torch eager (cuDNN) and compiled, a copy of the bytes.

pytest benchmarks/test_fused_conv.py -m gpu
"""

from kernel_timing import timing_of

test_fused_conv = timing_of("fused_conv")
