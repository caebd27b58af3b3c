"""The interpreter's memory in these tests is guarded: without that, a kernel could read its neighbours unnoticed."""

import faulthandler
import os
import signal

import pytest
import torch
from guard_pages import guarded

from diamond_fast.kernels._triton import INTERPRETED, tl, triton


@triton.jit
def _copy(x, y, first, last, BLOCK: tl.constexpr):
    """Elements first to last - 1, of which -1 and n are none."""
    i = tl.arange(0, BLOCK) - 1
    mask = (i >= first) & (i < last)
    tl.store(y + i, tl.load(x + i, mask=mask), mask=mask)


def copies(n, first, beyond):
    for _ in range(2):
        x, y = torch.arange(n, dtype=torch.float32), torch.zeros(n)
        _copy[(1,)](x, y, first, n + beyond, BLOCK=2048)
        assert torch.equal(x, y)


@pytest.mark.skipif(not INTERPRETED, reason="this process compiles Triton kernels; set TRITON_INTERPRET=1")
@pytest.mark.parametrize("n", [5, 1025])
@pytest.mark.parametrize(("first", "beyond", "faults"), [(0, 0, False), (0, 1, True), (-1, 0, True)])
def test_a_kernel_that_leaves_its_tensors_ends_its_process(n, first, beyond, faults):
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        try:
            copies(n, first, beyond)
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGSEGV if faults else 0)


def test_a_guarded_copy_is_one():
    x = torch.arange(1000, dtype=torch.int64)
    for _ in range(2):
        copy = torch.empty(0, dtype=torch.int64).set_(guarded(x.untyped_storage()), 0, x.shape)
        assert torch.equal(copy, x)
        assert copy.data_ptr() != x.data_ptr()
