"""CUDA graphs: a function's kernels recorded once for each shape of its inputs, then launched together."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

WARM_UPS = 3  # runs before recording: libraries choose algorithms, kernels are compiled


@contextmanager
def own_casts() -> Iterator[None]:
    """Around a capture: it reads no cast of a weight made before it, and leaves none behind.

    Autocast keeps casts until it ends, which frees their memory while the graph lives on.
    """
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


class Recording:
    """A function recorded with inputs of one shape. Its inputs and outputs lie at fixed addresses.

    Args:
        function: of tensors, gives a list of tensors; asks the device nothing and makes no random numbers.
        inputs: examples.
        pool: memory shared with other recordings that never run at the same time.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], pool: tuple[int, int]):
        self.inputs = [x.clone() for x in inputs]
        with torch.cuda.device(inputs[0].device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    function(*self.inputs)
            current.wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            # other threads, such as one that prefetches batches, may go on using the GPU
            with own_casts(), torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.outputs = list(function(*self.inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs of its own for every call: the next one would overwrite those at the fixed addresses."""
        for fixed, x in zip(self.inputs, inputs, strict=True):
            fixed.copy_(x)
        self.graph.replay()
        return [y.clone() for y in self.outputs]


class Recorded:
    """A function that is recorded when it first meets a shape on a GPU, and called as it is elsewhere.

    Where the caller is capturing a graph, that one takes the function's kernels.

    Args:
        function: as for ``Recording``; everything else it reads must stay at its address.
        max_recordings: the least recently used is dropped beyond that.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], max_recordings: int = 8):
        self.function = function
        self.max_recordings = max_recordings
        self._recordings: OrderedDict[tuple, Recording] = OrderedDict()
        self._pool: tuple[int, int] | None = None

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        if not inputs[0].is_cuda or torch.cuda.is_current_stream_capturing():
            return list(self.function(*inputs))
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (autocast, *((x.shape, x.dtype, x.device) for x in inputs))
        if key not in self._recordings:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            while len(self._recordings) >= self.max_recordings:
                self._recordings.popitem(last=False)
            self._recordings[key] = Recording(self.function, inputs, self._pool)
        self._recordings.move_to_end(key)
        return self._recordings[key](inputs)
