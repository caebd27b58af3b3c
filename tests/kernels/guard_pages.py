"""Memory that ends, or begins, at a page nobody may touch: a kernel that leaves its tensors by one byte faults."""

import ctypes
import itertools
import mmap

import torch

_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_NO_ACCESS = 0
_turn = itertools.count()


def guarded(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """A copy with a forbidden page on either side, one of them at its very end or, in every other copy, beginning."""
    size = storage.nbytes()
    if size == 0:
        return storage
    page = mmap.PAGESIZE
    inner = -(-size // page) * page
    memory = mmap.mmap(-1, inner + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for forbidden in (address, address + page + inner):
        if _mprotect(forbidden, page, _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = page if next(_turn) % 2 else page + inner - size
    copy = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=start).untyped_storage()
    copy.copy_(storage)
    return copy
