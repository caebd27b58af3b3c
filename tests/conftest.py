import os
import sys
from pathlib import Path

# Before torch is imported, here and in the programs that tests start: networks this small gain nothing from more
# threads, and lose much where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).parent))  # tests share golden_vectors.py

torch.set_num_threads(1)

if not torch.cuda.is_available():
    # Triton's kernels then run in its interpreter. It has to be said before anything imports Triton.
    os.environ.setdefault("TRITON_INTERPRET", "1")

MOST_WORKERS = 8  # each takes about a gigabyte


def pytest_xdist_auto_num_workers(config) -> int:
    """What ``-n auto`` means."""
    return max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0))))
