"""Writing beside the training: the training goes on, nothing is lost of an error, and copying is quick."""

import threading
import time

import pytest
import torch

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


def test_saving_the_papers_agent_holds_training_up_for_less_than_one_percent():
    """Of 18 s, which an epoch of the paper's run takes if an update takes 45 ms; there, too, CPUs do this work."""
    agent = Agent(RunConfig(), 18)
    optimizers = [torch.optim.AdamW(model.parameters()) for model in agent.children()]
    for p in agent.parameters():
        p.grad = torch.zeros_like(p)
    for optimizer in optimizers:
        optimizer.step()
    seconds = []
    for epoch in range(3):
        tensors = {name: model.state_dict() for name, model in agent.named_children()}
        started = time.thread_time()
        snapshot = checkpoint.snapshot(epoch, tensors, [optimizer.state_dict() for optimizer in optimizers])
        seconds.append(time.thread_time() - started)
    copied = sum(t.numel() * t.element_size() for group in snapshot.groups.values() for t in group.values())
    assert copied > 150e6
    assert min(seconds) < 0.01 * 18
