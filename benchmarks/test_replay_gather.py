"""The gather from the device's copy of the replay, beside its twin, a copy of as many bytes, and batches from the host.

pytest benchmarks/test_replay_gather.py -m gpu --benchmark-json=replay_gather.json
"""

import pytest
import torch

from diamond_fast.frames import to_float
from diamond_fast.kernels.replay_gather import replay_gather

NUM_FRAMES = 100_000
FRAME_SHAPE = (64, 64, 3)
BATCH_SIZE = 32

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def slab() -> torch.Tensor:
    return torch.randint(0, 256, (NUM_FRAMES, *FRAME_SHAPE), dtype=torch.uint8, device="cuda")


def milliseconds(call) -> float:
    """Median over calls, each with random frames that are in no cache."""
    times = []
    for _ in range(50):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times)[len(times) // 2]


@pytest.mark.parametrize("seq_length", [19, 6])
def test_replay_gather(benchmark, slab, seq_length):
    def random_rows() -> torch.Tensor:
        starts = torch.randint(0, NUM_FRAMES - seq_length, (BATCH_SIZE, 1), device="cuda")
        return starts + torch.arange(seq_length, device="cuda")

    rows = iter([random_rows() for _ in range(200)])
    num_bytes = BATCH_SIZE * seq_length * 64 * 64 * 3
    source = torch.empty(num_bytes * 5 // 2, dtype=torch.uint8, device="cuda")  # as many bytes move: 1 read, 4 written
    target = torch.empty_like(source)
    on_host = torch.empty((BATCH_SIZE, seq_length, *FRAME_SHAPE), dtype=torch.uint8).pin_memory()

    def from_host() -> torch.Tensor:
        return to_float(on_host.to("cuda", non_blocking=True))

    for impl in ("triton", "torch"):
        replay_gather(slab, next(rows), impl)  # compiles
    triton_ms = milliseconds(lambda: replay_gather(slab, next(rows), "triton"))
    benchmark.extra_info |= {
        "device": torch.cuda.get_device_name(),
        "triton_us": round(1e3 * triton_ms, 2),
        "torch_us": round(1e3 * milliseconds(lambda: replay_gather(slab, next(rows), "torch")), 2),
        "copy_of_as_many_bytes_us": round(1e3 * milliseconds(lambda: target.copy_(source)), 2),
        "from_pinned_host_us": round(1e3 * milliseconds(from_host), 2),
        "gb_per_s": round(5 * num_bytes / triton_ms / 1e6),
    }
    indices = random_rows()

    def once() -> None:
        replay_gather(slab, indices, "triton")
        torch.cuda.synchronize()

    benchmark(once)
