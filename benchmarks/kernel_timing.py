"""Times a kernel's call on a GPU against its torch twin, the twin compiled, and a copy of the bytes it moves."""

from collections.abc import Callable, Sequence

import pytest
import torch
from kernel_cases import Case, paper_cases

CALLS = 20


def captured(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of CALLS calls in rotation, so that what is timed is the device's work, not Python's."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            for call in calls:
                call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(CALLS):
            calls[i % len(calls)]()
    return graph


def copies_beyond_the_cache(case: Case) -> int:
    """How many sets of inputs a rotation needs for each to be out of the GPU's cache when its turn comes."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(CALLS, 1 + 2 * cache // case.bytes_moved)


def compare(measure, machine, case: Case, ours: str = "Triton", **others: Callable[[], object]) -> None:
    """Bytes a second of each implementation, each over inputs that are not in the cache.

    Args:
        ours: what the kernel is written in, and its ``impl``.
        others: further candidates, by name.
    """
    device = torch.device("cuda")
    calls = [case.make(device) for _ in range(copies_beyond_the_cache(case))]
    compiled = {}
    if measure.rivals != "without":  # capturing it would compile it
        mode = "max-autotune-no-cudagraphs"
        compiled = {"torch.compile": [torch.compile(lambda c=c: c("torch"), mode=mode) for c in calls]}
    pairs = [torch.empty(2, case.bytes_moved // 2, dtype=torch.uint8, device=device) for _ in calls]
    candidates = {
        ours: [lambda c=c: c(ours.lower()) for c in calls],
        "torch": [lambda c=c: c("torch") for c in calls],
        **compiled,
        "copy": [lambda p=p: p[0].copy_(p[1]) for p in pairs],
        **{name: [call] for name, call in others.items()},
    }
    graphs = {name: captured(rotation) for name, rotation in candidates.items()}
    turns = measure.take_turns({name: graph.replay for name, graph in graphs.items()}, optional=("torch.compile",))
    seconds, what = machine.memory(case.bytes_moved)
    measure.row(
        case.op, {"call": case.shape}, turns, ours,
        work=CALLS * case.bytes_moved / 1e9, unit="GB/s", floor=(CALLS * seconds, f"{CALLS} times {what}"),
    )  # fmt: skip


def timing_of(
    op: str, cases: Sequence[Case] = (), ours: str = "Triton", **others: Callable[[Case], Callable[[], object]]
) -> Callable[..., None]:
    """A kernel's benchmark: each of its calls at the paper's shapes.

    Args:
        op: the stem of the kernel's file.
        cases: its calls, if they are not among the paper's cases.
        ours: as for ``compare``.
        others: what makes further candidates, by name.
    """

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: a kernel interpreted has no speed")
    @pytest.mark.parametrize("case", cases or [c for c in paper_cases() if c.op == op], ids=lambda c: c.shape)
    def timing(measure, machine, case):
        compare(measure, machine, case, ours, **{name: make(case) for name, make in others.items()})

    return timing
