import pytest
import torch
from guard_pages import guarded

from diamond_fast.kernels._triton import INTERPRETED


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    """Where kernels run: interpreted on the CPU, or on a GPU with ``pytest -m gpu``."""
    if request.param == "cpu" and not INTERPRETED:
        pytest.skip("this process compiles Triton kernels; set TRITON_INTERPRET=1 to interpret them instead")
    if request.param == "cuda" and (INTERPRETED or not torch.cuda.is_available()):
        pytest.skip("needs a CUDA device, and TRITON_INTERPRET unset")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _empty_means_nan():
    """Fills new memory with NaN, so that reading what no kernel wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _no_kernel_leaves_its_tensors(monkeypatch):
    """The interpreter runs on what it takes for copies on the host; an access out of bounds ends the process."""
    monkeypatch.setattr(torch.UntypedStorage, "cpu", guarded)
