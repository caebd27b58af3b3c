"""Writing beside the training: the training goes on, nothing is lost of an error, and it waits for one copy alone."""

import threading
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diamond_fast.config import RunConfig
from diamond_fast.runs import checkpoint
from diamond_fast.runs.background import BackgroundWriter
from diamond_fast.world_model import Agent


def test_starting_does_not_wait_and_the_next_start_does():
    writer, disk, done = BackgroundWriter(), threading.Event(), []

    def slow_write():
        disk.wait(30)
        done.append("first")

    writer.start(slow_write)
    assert done == []  # this line was reached while the disk was at work
    disk.set()
    writer.start(lambda: done.append("second"))
    assert done[0] == "first"
    writer.close()
    assert done == ["first", "second"]


def test_an_error_is_raised_where_it_is_waited_for_and_only_once():
    def full():
        raise OSError(28, "No space left on device", "x")

    writer = BackgroundWriter()
    for wait in (writer.wait, lambda: writer.start(full), writer.close):
        writer.start(full)
        with pytest.raises(OSError, match="No space left"):
            wait()
    writer.close()


class _Written(TorchDispatchMode):
    """Counts the bytes that each operation writes; views write none."""

    def __init__(self):
        super().__init__()
        self.num_bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.num_bytes[func.name()] += out.numel() * out.element_size()
        return out


def test_before_saving_the_papers_agent_is_copied_once_and_nothing_else_of_its_size_is_done():
    """Training waits for this alone. `benchmarks/test_checkpoint.py` says how long it takes."""
    agent = Agent(RunConfig(), 18)
    optimizers = [torch.optim.AdamW(model.parameters()) for model in agent.children()]
    for p in agent.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in optimizers:
        optimizer.step()
    tensors = {name: model.state_dict() for name, model in agent.named_children()}
    with _Written() as written:
        snapshot = checkpoint.snapshot(0, tensors, [optimizer.state_dict() for optimizer in optimizers])
    weights = sum(p.numel() * p.element_size() for p in agent.state_dict().values())
    state = sum(t.numel() * t.element_size() for group in snapshot.groups.values() for t in group.values())
    assert state > 150e6
    assert state >= 3 * weights  # AdamW's two moments are as large as the weights
    assert written.num_bytes.pop("aten::_to_copy") == state
    assert written.num_bytes.total() < 2 * weights  # are they finite?
