"""Time of `lstm_unroll` at the paper's shapes: kernel, torch eager and compiled, a copy of the bytes.

pytest benchmarks/test_lstm_unroll.py -m gpu
"""

from kernel_timing import timing_of

test_lstm_unroll = timing_of("lstm_unroll")
