"""The columns of torch.compile: once what is measured was called, no further call compiles anything.

By Dynamo's counter, with a compiler that leaves operations as they are: what is traced anew does not depend on it.
"""

import drawing
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from workloads import TINY, contexts, make_agent, make_denoiser, noise_replay, published_updates, with_batches

CPU = torch.device("cpu")


@pytest.fixture
def traced(monkeypatch):
    """Counts what is compiled, in ``frame_count``; nothing is remembered before and after."""
    counter, compile = CompileCounter(), torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda function, mode=None, **how: compile(function, backend=counter, **how))
    yield counter
    torch._dynamo.reset()


def test_frames_are_drawn_with_a_network_compiled_once_for_each_batch_size(traced):
    """Whatever the number of steps, and so of noise levels."""
    denoiser = drawing.compiled(make_denoiser(TINY.denoiser, CPU), mode="max-autotune")
    for num_sizes, batch in enumerate((2, 3), start=1):
        frames = contexts(batch, 16, 16, CPU)
        for steps in (3, 1, 4):
            call = drawing.sampling(denoiser, frames, steps)
            for _ in range(2):
                call()
            assert traced.frame_count == num_sizes


def test_no_later_update_compiles_anything(traced):
    """Rollouts of three steps, at the horizon of which every episode starts anew."""
    cfg = with_batches(TINY, 2, 3)
    updates = published_updates(cfg, make_agent(cfg, CPU), noise_replay(cfg, 60, episode_steps=20), CPU, compiled=True)
    update = updates["actor_critic"]
    update.objective.begin_epoch()
    update.step()
    compiled = traced.frame_count
    assert compiled > 0
    for _ in range(3):
        update.step()
    assert traced.frame_count == compiled
