"""Evaluations of the denoiser a second with one thread, and with all while another process takes a core.

pytest benchmarks/test_threads.py --benchmark-only
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from drawing import ON_GPU, OURS, TWIN, measure_evaluations, paper_denoiser, paper_path, sampling
from rivals import in_engines
from workloads import contexts

from diamond_fast.config import SamplerConfig
from diamond_fast.engine.fast_denoiser import FastDenoiser

QUIET = "FastDenoiser, nothing beside it"
STEPS = 1
pytestmark = pytest.mark.skipif(ON_GPU, reason="a GPU does not share a processor's cores")


@pytest.mark.parametrize("batch", [8, 32])
@pytest.mark.usefixtures("one_thread")
def test_one_thread(measure, machine, effort, device, cfg, tmp_path, batch):
    twin, frames = paper_denoiser(effort == "tiny", device), contexts(batch, cfg.frame_size, cfg.frame_size, device)
    fast = FastDenoiser(twin, SamplerConfig(num_steps=STEPS), engine=paper_path(effort == "tiny", device))
    others, left_out = {}, {}
    if measure.rivals != "without" and effort != "quick":
        others, left_out = in_engines(twin, frames, tmp_path, engines=("OpenVINO",))
    candidates = {name: sampling(d, frames, STEPS) for name, d in {OURS: fast, TWIN: twin, **others}.items()}
    more = {"left_out": left_out, "also": {"path": fast.path}, "optional": tuple(others), "case": {"threads": 1}}
    measure_evaluations(measure, machine, "denoiser with one thread", twin, frames, STEPS, candidates, **more)


@contextmanager
def busy_process():
    """Yields what wraps a call so that a process that only counts runs beside it, and at no other time."""
    counts = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # it must not count on without us
    with subprocess.Popen([sys.executable, "-c", counts]) as process:

        def beside(call):
            def run():
                os.kill(process.pid, signal.SIGCONT)
                call()
                os.kill(process.pid, signal.SIGSTOP)

            return run

        time.sleep(0.5)  # until it counts
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield beside
        finally:
            process.kill()


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="needs two threads, one of which is disturbed")
def test_beside_a_busy_process(measure, machine, effort, device, cfg):
    """One core of all is taken by another process, which has as good a claim to it."""
    batch = 8
    twin, frames = paper_denoiser(effort == "tiny", device), contexts(batch, cfg.frame_size, cfg.frame_size, device)
    fast = FastDenoiser(twin, SamplerConfig(num_steps=STEPS), engine=paper_path(effort == "tiny", device))
    ours, theirs = sampling(fast, frames, STEPS), sampling(twin, frames, STEPS)
    with busy_process() as beside:
        candidates = {OURS: beside(ours), QUIET: ours, TWIN: beside(theirs)}
        stem = "denoiser beside a busy process"
        measure_evaluations(measure, machine, stem, twin, frames, STEPS, candidates, also={"path": fast.path})
