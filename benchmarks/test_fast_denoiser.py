"""Evaluations of the denoiser a second (NFE/s) while frames are drawn: FastDenoiser and the readable twin.

    pytest benchmarks/test_fast_denoiser.py --benchmark-only

The twin runs as published, in float32 (TF32 on a GPU), operation by operation, and on a GPU also compiled as the
published trainer compiles it, and by torch.compile's max-autotune, channels-last in bfloat16. What others' engines make
of a CPU: ``test_rivals.py``. An evaluation is of one sample.
"""

import pytest
import torch
from drawing import (
    ON_GPU,
    OURS,
    RIVAL,
    TWIN,
    compiled_denoisers,
    measure_evaluations,
    paper_denoiser,
    paper_path,
    sampling,
    why_not_compiled,
)
from measuring import only_on_gpu
from workloads import TINY, WIDE, contexts, in_bfloat16, make_denoiser

from diamond_fast.config import DenoiserConfig, SamplerConfig
from diamond_fast.engine.cpu_program import why_unavailable
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.world_model import Denoiser

MOST_BY_TWIN = 32  # evaluations a call that a CPU is asked for, 3 seconds; at 3 steps three times that
COMPILED_BATCHES = (32, 256)  # compilers take a minute or two for each batch size
EFFORT_OF_GRID = {
    "full": [(n, steps) for steps in (3, 1, 10) for n in (32, 1, 256, 8, 128)],
    "quick": [(8, 3), (1, 3)],
    "tiny": [(2, 3)],
}


def pytest_generate_tests(metafunc):
    """The grid; on a CPU without what would take minutes."""
    from conftest import effort_name

    if metafunc.function is test_sampling:
        cases = []
        for n, steps in EFFORT_OF_GRID[effort_name(metafunc.config)]:
            too_long = not ON_GPU and n * steps > 1000
            marks = pytest.mark.skip(reason=f"{n * steps} evaluations a call: too long for a CPU") if too_long else ()
            cases.append(pytest.param(n, steps, marks=marks))
        metafunc.parametrize(("batch", "steps"), cases)


def test_sampling(measure, machine, effort, device, cfg, batch, steps):
    twin, frames = paper_denoiser(effort == "tiny", device), contexts(batch, cfg.frame_size, cfg.frame_size, device)
    fast = FastDenoiser(twin, SamplerConfig(num_steps=steps), engine=paper_path(effort == "tiny", device))
    candidates, left_out = {OURS: sampling(fast, frames, steps)}, {}
    if ON_GPU or batch * steps <= MOST_BY_TWIN * (3 if steps == 3 else 1):
        candidates[TWIN] = sampling(twin, frames, steps)
    else:
        left_out[TWIN] = "too long for a CPU"
    if ON_GPU and batch not in COMPILED_BATCHES:
        left_out[RIVAL] = f"compiling takes a minute or two a batch size: only {', '.join(map(str, COMPILED_BATCHES))}"
    elif ON_GPU and (reason := why_not_compiled(effort)):
        left_out[RIVAL] = reason
    elif ON_GPU:
        candidates |= {name: sampling(d, frames, steps) for name, d in compiled_denoisers(device).items()}
    more = {"energy_of": candidates[OURS], "left_out": left_out, "also": {"path": fast.path}}
    measure_evaluations(measure, machine, "denoiser", twin, frames, steps, candidates, **more)


@pytest.mark.parametrize("batch", [1, only_on_gpu(32, "32 samples of the wide network: too long for a CPU")])
def test_wide(measure, machine, effort, device, batch):
    """A network of 330 million parameters at 30x56, a size that needs padding."""
    cfg = TINY.denoiser if effort == "tiny" else DenoiserConfig(WIDE)
    steps, (height, width) = 1 if device.type == "cpu" else 3, (30, 56)
    twin, frames = make_denoiser(cfg, device), contexts(batch, height, width, device)
    fast = FastDenoiser(twin, SamplerConfig(num_steps=steps))
    candidates = {OURS: sampling(fast, frames, steps), TWIN: sampling(twin, frames, steps)}
    more = {"energy_of": candidates[OURS], "also": {"path": fast.path}}
    measure_evaluations(measure, machine, "denoiser, wide network", twin, frames, steps, candidates, **more)


GPU_LADDER = {
    "+ one product for all scales and shifts": "one_modulation",
    "+ fused norms": "fused_norms",
    "+ no concatenations": "no_concat",
    "+ fused bias, residual and statistics": "fused_epilogues",
    "+ fused preconditioning and sampler step": "fused_edm",
    "+ CUDA graphs": "cuda_graphs",
}


def gpu_rungs(twin: Denoiser) -> dict[str, FastDenoiser]:
    """Each with one technique more than the one before."""
    off = dict.fromkeys(GPU_LADDER.values(), False)
    rungs = {"+ bfloat16, channels-last": FastDenoiser(twin, techniques=Techniques(**off))}
    for title, technique in GPU_LADDER.items():
        off[technique] = True
        rungs[title] = FastDenoiser(twin, techniques=Techniques(**off))
    return rungs


def cpu_rungs(twin: Denoiser) -> dict[str, Denoiser | FastDenoiser]:
    """Channels-last and bfloat16 come with any torch; the program of fused operations only if there is AMX."""
    channels_last = make_denoiser(twin.cfg, twin.device).to(memory_format=torch.channels_last)
    rungs: dict[str, Denoiser | FastDenoiser] = {"+ channels-last": channels_last}
    if why_unavailable() is None:
        rungs["+ bfloat16"] = in_bfloat16(twin)
        rungs["+ one compiled program on AMX tiles, activations in the cache"] = FastDenoiser(twin)
    else:
        rungs["FastDenoiser"] = FastDenoiser(twin)
    return rungs


def test_ladder(measure, machine, effort, device, cfg):
    """What each technique gains, on top of those before it."""
    batch = {"full": 32 if ON_GPU else 8, "quick": 4, "tiny": 1}[effort]
    twin, frames = paper_denoiser(effort == "tiny", device), contexts(batch, cfg.frame_size, cfg.frame_size, device)
    rungs = {TWIN: twin, **(gpu_rungs(twin) if ON_GPU else cpu_rungs(twin))}
    candidates = {name: sampling(denoiser, frames, 3) for name, denoiser in rungs.items()}
    stem, ours = "denoiser, technique by technique", list(candidates)[-1]
    measure_evaluations(measure, machine, stem, twin, frames, 3, candidates, ours, ladder=True)
