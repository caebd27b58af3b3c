import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # tests share golden_vectors.py

torch.set_num_threads(1)  # networks this small gain nothing from more, and lose much where cores are shared

if not torch.cuda.is_available():
    # Triton's kernels then run in its interpreter. It has to be said before anything imports Triton.
    os.environ.setdefault("TRITON_INTERPRET", "1")
