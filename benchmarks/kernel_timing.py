"""Times a kernel's call on a GPU beside its torch twin, the twin compiled, and a copy of the bytes it moves."""

import statistics
from collections.abc import Callable

import pytest
import torch
from kernel_cases import Case

CALLS, ROUNDS = 20, 30

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: a kernel interpreted has no speed"),
]


def captured(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of CALLS calls, so that what is timed is the device's work, not Python's."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            call()
    return graph


def microseconds(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median device time of a call of each candidate; they take turns, so that clocks and heat hit all alike."""
    graphs = {name: captured(call) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) * 1000 / CALLS)
    return {name: statistics.median(t) for name, t in times.items()}


def compare(benchmark, case: Case) -> None:
    """Puts microseconds a call of each implementation, and their ratios, into the benchmark's ``extra_info``.

    Small tensors stay in the cache between calls, for the copy as much as for the kernels.
    """
    call = case.make(torch.device("cuda"))
    compiled = torch.compile(lambda: call("torch"), mode="max-autotune-no-cudagraphs")
    source = torch.empty(case.bytes_moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    candidates = {
        "triton": lambda: call("triton"),
        "torch": lambda: call("torch"),
        "max_autotune": compiled,
        "copy": lambda: target.copy_(source),
    }
    times = microseconds(candidates)
    benchmark.extra_info |= {f"{name}_us": round(t, 2) for name, t in times.items()}
    benchmark.extra_info |= {
        "device": torch.cuda.get_device_name(),
        "share_of_copy_bandwidth": round(times["copy"] / times["triton"], 3),
        "times_torch": round(times["torch"] / times["triton"], 2),
        "times_max_autotune": round(times["max_autotune"] / times["triton"], 2),
    }
    benchmark.pedantic(candidates["triton"], rounds=ROUNDS, iterations=1)
