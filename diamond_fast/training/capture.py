"""An update's forward pass, backward pass and optimiser step as one CUDA graph: one launch instead of thousands."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diamond_fast.engine.graphs import own_casts

Batches = Sequence[tuple[Tensor, ...]]
Function = Callable[[Batches], dict[str, Tensor]]
WARM_UP_CALLS = 3
"""Calls before the capture: libraries choose their algorithms, the optimiser allocates its moments."""


class CudaGraphs:
    """How functions are captured on a GPU. All graphs share one pool of memory: they never run at the same time."""

    def __init__(self, device: torch.device):
        self.device = device
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Function, batches: Batches) -> dict[str, Tensor]:
        """Calls it on a stream of its own, as a capture must find it."""
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            result = function(batches)
        current.wait_stream(stream)
        return result

    def capture(self, function: Function, batches: Batches) -> tuple[Callable[[], None], dict[str, Tensor]]:
        """Records what it does with these tensors, without doing it.

        Random numbers continue from replay to replay: a graph knows the default generator. Other threads, such as the
        one that writes checkpoints, may go on using the GPU.

        Returns:
            what replays it, and where its results will be.
        """
        graph = torch.cuda.CUDAGraph()
        with (
            own_casts(),
            torch.cuda.device(self.device),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            result = function(batches)
        return graph.replay, result


class Captured:
    """A function that is captured at one of its first calls and replayed from then on.

    Args:
        name: of the function, for messages.
        function: works on the given tensors and on state at fixed addresses, and waits for nothing. Batches have the
            same shapes at each call.
        graphs: how to capture it.

    The first calls are ordinary ones. Where the capture fails, which is said in one line, all are.
    """

    def __init__(self, name: str, function: Function, graphs: Any):
        self.name = name
        self.function = function
        self.graphs = graphs
        self.num_calls = 0
        self._inputs: list[tuple[Tensor, ...]] | None = None
        self._replay: Callable[[], None] | None = None
        self._result: dict[str, Tensor] = {}

    def __call__(self, batches: Batches) -> dict[str, Tensor]:
        """The function's result; once captured, in tensors that the next call overwrites."""
        self.num_calls += 1
        if self.num_calls <= WARM_UP_CALLS:
            return self.graphs.warm_up(self.function, batches)
        if self.num_calls == WARM_UP_CALLS + 1:
            self._capture(batches)
        if self._replay is None:
            return self.function(batches)
        for held, given in zip(self._inputs, batches, strict=True):
            for to, tensor in zip(held, given, strict=True):
                to.copy_(tensor, non_blocking=True)
        self._replay()
        return self._result

    def _capture(self, batches: Batches) -> None:
        self._inputs = [tuple(torch.empty_like(x) for x in given) for given in batches]
        try:
            self._replay, self._result = self.graphs.capture(self.function, self._inputs)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            print(f"{self.name}: not captured as a CUDA graph ({reason}); going on without one", flush=True)
