"""Paths that fail at what a GPU's may fail at. In a module of their own: the process that tries them imports it."""

import os
import signal
from dataclasses import dataclass

from diamond_fast.engine.path import Path


@dataclass(frozen=True)
class KilledPath(Path):
    """Ends its process at the first loss, as a driver may."""

    def autocast(self):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class FailingPath(Path):
    """A kernel of it raises at its first use, as one that cannot be compiled does: with several lines."""

    def autocast(self):
        if self.engine == "fused":
            raise ValueError("at 7:4: sizes do not match\nin a kernel")
        return super().autocast()


@dataclass(frozen=True)
class PoorPath(Path):
    """Finds no memory, whatever engine it has, as on a GPU that another program has filled."""

    def autocast(self):
        raise MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
