"""CUDA graphs: a function's kernels recorded once for each shape of its inputs, then launched together."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

WARM_UP_CALLS = 3
"""Calls before a capture: libraries choose algorithms, kernels are compiled, optimisers allocate their moments."""


class CaptureError(Exception):
    """A function could not be captured. Streams, allocator and random numbers of the process may be of no more use."""


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


@lru_cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Where functions warm up before they are captured.

    It is no stream that a capture uses: a library's workspace for that one then belongs to the memory of its graphs,
    and cannot be given to anything else while one of them lives.
    """
    return torch.cuda.Stream(device)


@contextmanager
def measuring_convolutions() -> Iterator[None]:
    """Around warm-ups: for shapes that are new to cuDNN it times its algorithms, and takes the fastest from then on.

    A capture takes those too, as it may not time anything itself.
    """
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Pool:
    """What graphs share that never run at the same time: memory, and a stream, as the allocator keeps memory by stream.

    They have to live equally long: with the first one goes what libraries keep for the stream.
    """

    def __init__(self, device: torch.device):
        self.handle = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)


class _Graph:
    """What is kept for inputs of one shape."""

    def __init__(self, pool: Pool):
        self.pool = pool
        self.num_calls = 0
        self.replay: Callable[[], None] | None = None
        self.inputs: Any = None
        self.outputs: Any = None


class Captured:
    """A function that is captured on a GPU, and called as it is elsewhere.

    If the caller is capturing a graph itself, that one takes the function's kernels. If a capture fails, which is said
    in one line, the function is called as it is from then on; or, as not much else works then, CaptureError is raised.

    Args:
        name: of the function, for messages.
        function: takes tensors and returns tensors, either in tuples, lists and dicts of any depth. It asks the device
            nothing, and everything else that it reads or writes stays at its address.
        changes_state: whether a call changes more than what it returns. If so, the first calls with inputs of a shape
            are ordinary ones; if not, the first call repeats the function until it can be captured.
        generators: that it draws random numbers from, in addition to the default one. They continue from call to call.
        pool: shared with other functions; None: each graph has its own.
        max_graphs: the least recently used is dropped beyond that.
        must: a capture that fails raises CaptureError.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        changes_state: bool = False,
        generators: Sequence[torch.Generator] = (),
        pool: Pool | None = None,
        max_graphs: int = 8,
        must: bool = False,
    ):
        self.name = name
        self.function = function
        self.changes_state = changes_state
        self.generators = generators
        self.pool = pool
        self.max_graphs = max_graphs
        self.must = must
        self.failed = False
        self._graphs: OrderedDict[tuple, _Graph] = OrderedDict()

    def __call__(self, *inputs: Any) -> Any:
        """The function's result, in tensors that no later call overwrites."""
        tensors = tree_leaves(inputs)
        if self.failed or not self.can_capture(tensors[0]):
            return self.function(*inputs)
        gradients = torch.is_grad_enabled()
        # What is made in inference mode, and lasts until the next call, could not be written outside of it.
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            return self._call(inputs, tensors)

    def _call(self, inputs: Any, tensors: Sequence[Tensor]) -> Any:
        graph = self._graph_for(tensors)
        while graph.num_calls < WARM_UP_CALLS:
            graph.num_calls += 1
            result = self.warm_up(graph, inputs)
            if self.changes_state:
                return result
        if graph.replay is None:
            graph.inputs = tree_map(torch.clone, inputs)
            try:
                graph.replay, graph.outputs = self.capture(graph)
            except Exception as error:  # a library or a compiler can raise anything
                self.failed = True
                self._graphs.clear()
                reason = str(error).strip().partition("\n")[0]
                if self.must:
                    raise CaptureError(f"{self.name}: not captured as a CUDA graph ({reason})") from error
                print(f"{self.name}: not captured as a CUDA graph ({reason}); going on without one", flush=True)
                return self.function(*inputs)
        for held, given in zip(tree_leaves(graph.inputs), tensors, strict=True):
            held.copy_(given, non_blocking=True)
        graph.replay()
        return tree_map(torch.clone, graph.outputs)

    def can_capture(self, tensor: Tensor) -> bool:
        return tensor.is_cuda and not torch.cuda.is_current_stream_capturing()

    def _graph_for(self, tensors: Sequence[Tensor]) -> _Graph:
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (autocast, *((x.shape, x.dtype, x.device) for x in tensors))
        if key not in self._graphs:
            while len(self._graphs) >= self.max_graphs:
                self._graphs.popitem(last=False)
            self._graphs[key] = _Graph(self.pool or Pool(tensors[0].device))
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def warm_up(self, graph: _Graph, inputs: Any) -> Any:
        """Calls the function as a capture will: not on the stream that work of others is on."""
        stream = side_stream(graph.pool.stream.device)
        current = torch.cuda.current_stream(stream.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream), measuring_convolutions():
            result = self.function(*inputs)
        current.wait_stream(stream)
        return result

    def capture(self, graph: _Graph) -> tuple[Callable[[], None], Any]:
        """Records what the function does with the graph's inputs, without doing it.

        Returns:
            what replays it, and where its results will be.
        """
        recorded, stream = torch.cuda.CUDAGraph(), graph.pool.stream
        for generator in self.generators:
            recorded.register_generator_state(generator)
        with (
            own_casts(),
            torch.cuda.stream(stream),  # here too: a capture that fails does not give the stream back
            # other threads, such as one that writes a checkpoint, may go on using the GPU
            torch.cuda.graph(recorded, pool=graph.pool.handle, stream=stream, capture_error_mode="thread_local"),
        ):
            outputs = self.function(*graph.inputs)
        return recorded.replay, outputs
