"""Time of `frames_to_float` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_frames_to_float.py -m gpu
"""

from kernel_timing import timing_of

test_frames_to_float = timing_of("frames_to_float")
