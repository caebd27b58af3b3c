"""The kernels' tests on a GPU under NVIDIA's compute-sanitizer: no access out of bounds, no misaligned one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer of the CUDA toolkit")
def test_compute_sanitizer_finds_nothing():
    folder = Path(__file__).parent
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", "not compute_sanitizer", folder]
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "3", "--target-processes", "all", *tests]
    # It knows what CUDA allocates: torch's own allocator would hand out pieces of blocks far larger than a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
