"""An endless iterator of batches."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diamond_fast import _replay
from diamond_fast.replay.batch import Batch, Form

_every: weakref.WeakSet[Segments] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked process, where the thread whose turn it was is missing."""
    for segments in _every:
        segments._turn = threading.Lock()


os.register_at_fork(after_in_child=_let_go)


class Segments(Iterator[Batch]):
    """Batches in order, each a pure function of (seed, stream, its number, what is visible when it is asked for).

    Made by `Replay.segments`, which says what is drawn. Threads fill the next batches ahead; how many there are shows
    in nothing but time. Threads that share an iterator get every batch once.
    """

    def __init__(
        self,
        store: _replay.Store,
        form: Form,
        options: dict[str, Any],
        seed: int,
        stream: int,
        num_threads: int,
    ) -> None:
        self._store = store
        self._form = form
        self._layout = layout = form.layout
        self._options = options
        self._num_threads = num_threads
        self.part = slice(None)
        """Which segments of each batch are given: several processes that share its work draw the same batches."""
        self._turn = threading.Lock()
        _every.add(self)
        self._pool = _replay.BlockPool(layout.num_bytes)
        self._restart(seed, stream, next_batch=0)

    def _restart(self, seed: int, stream: int, next_batch: int) -> None:
        self._sampler = _replay.SamplerOptions(**self._options, seed=seed, stream=stream)
        self._state = {"seed": seed, "stream": stream, "next_batch": next_batch}
        self._ring: deque[Tensor] = deque()
        self._prefetcher: Any = None
        if self._num_threads:
            self._prefetcher = _replay.Prefetcher(self._store, self._sampler, self._layout, self._num_threads)

    def __next__(self) -> Batch:
        """Returns the next batch.

        Raises:
            RuntimeError: nothing is visible yet, or fewer steps in all than one segment has.
        """
        with self._turn:
            try:
                block = self._fill_now() if self._prefetcher is None else self._take_from_ring()
            except BaseException:  # an interrupt, too, may have come between a batch's parts: start the ring anew
                self._restart(**self._state)
                raise
            self._state["next_batch"] += 1
            return Batch(block, self._form, self.part)

    next = __next__

    def state_dict(self) -> dict[str, int]:
        """Returns the whole random state, as plain integers: after `load_state_dict` the same batches follow."""
        with self._turn:
            return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from `state_dict()`.

        Raises:
            ValueError: state is not of this kind.
        """
        if set(state) != set(self._state):
            raise ValueError(f"state: expected the keys {sorted(self._state)}, got {sorted(state)}")
        state = {key: int(value) for key, value in state.items()}
        with self._turn:
            self._restart(**state)

    def _fill_now(self) -> Tensor:
        block, memory = self._new_block()
        self._store.draw_into(self._sampler, self._state["next_batch"], self._layout, memory)
        return block

    def _take_from_ring(self) -> Tensor:
        if not self._ring:
            self._ask(self._state["next_batch"])
        self._prefetcher.take()
        taken = self._ring.popleft()
        while len(self._ring) <= self._num_threads:  # one being filled by each thread, and one ready
            self._ask(self._state["next_batch"] + 1 + len(self._ring))
        return taken

    def _ask(self, batch: int) -> None:
        block, memory = self._new_block()
        self._prefetcher.ask(batch, memory)
        self._ring.append(block)

    def _new_block(self) -> tuple[Tensor, np.ndarray]:
        """A block to fill, as a tensor and as the same memory for the compiled core.

        It was used before if possible: fresh pages would cost more than filling them.
        """
        if torch.cuda.is_initialized():  # this process uses a GPU; on a machine with one, a run on the CPU does not
            block = torch.empty(self._layout.num_bytes, dtype=torch.uint8, pin_memory=True)
            return block, block.numpy()
        memory = self._pool.take(self._layout.num_bytes)
        return torch.from_numpy(memory), memory
