"""Evaluations of the denoiser a second (NFE/s) while frames are drawn: FastDenoiser, the readable twin, its rivals.

    pytest benchmarks/test_fast_denoiser.py --benchmark-only

The twin runs as published, in float32 (TF32 on a GPU), operation by operation, and on a GPU also compiled as the
published trainer compiles it. The strongest rival is the twin, channels-last, through torch.compile: in bfloat16 if the
machine is made for it; max-autotune on a GPU, Inductor with frozen weights on a CPU. An evaluation is of one sample.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch._inductor.config as inductor
from workloads import PAPER, TINY, WIDE, Frames, contexts, denoiser_flops, in_bfloat16, make_denoiser

from diamond_fast.config import DenoiserConfig, SamplerConfig
from diamond_fast.engine.choose import Path, choose_path, fast_dtype
from diamond_fast.engine.contest import Work
from diamond_fast.engine.cpu_program import why_unavailable
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.engine.fused_torch import Techniques
from diamond_fast.world_model import Denoiser, DiffusionSampler

ON_GPU = torch.cuda.is_available()
TWIN, OURS, COMPILED = "as published", "FastDenoiser", "as published, compiled"
COARSE = fast_dtype(torch.device("cuda" if ON_GPU else "cpu")) == torch.bfloat16
RIVAL = "torch.compile bf16" if COARSE else "torch.compile"
MOST_BY_TWIN = 32  # evaluations a call that a CPU is asked for, 3 seconds; at 3 steps three times that
COMPILED_BATCHES = (32, 256) if ON_GPU else (32,)  # compilers take a minute or two for each batch size
EFFORT_OF_GRID = {
    "full": [(n, steps) for steps in (3, 1, 10) for n in (32, 1, 256, 8, 128)],
    "quick": [(1, 3), (32, 3)],
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


def sampling(denoiser: Denoiser | FastDenoiser, frames: Frames, steps: int) -> Callable[[], object]:
    """A call that draws frames."""
    if not isinstance(denoiser, FastDenoiser):
        denoiser = DiffusionSampler(denoiser, SamplerConfig(num_steps=steps))
    return lambda: denoiser.sample(*frames)


def compiled(denoiser: Denoiser, **options) -> Denoiser:
    """With ``denoise`` compiled: all that is done more than once a frame."""
    denoiser.denoise = torch.compile(denoiser.denoise, dynamic=False, **options)
    return denoiser


@cache
def paper_denoiser(tiny: bool, device: torch.device) -> Denoiser:
    return make_denoiser((TINY if tiny else PAPER).denoiser, device)


@cache
def paper_path(tiny: bool, device: torch.device) -> Path:
    """The path for every case: measured once, for what training draws."""
    work = Work.of(paper_denoiser(tiny, device), SamplerConfig(), 32)
    return choose_path(device, work=replace(work, alone=True))


def rival(device: torch.device) -> Denoiser:
    """What a compiler makes the most of."""
    denoiser = make_denoiser(PAPER.denoiser, device)
    return in_bfloat16(denoiser) if COARSE else denoiser.to(memory_format=torch.channels_last)


@cache
def compiled_denoisers(device: torch.device) -> dict[str, Denoiser]:
    """Those a compiler works for; compiled when they are first called at a batch size."""
    if not ON_GPU:
        inductor.freezing = True  # weights are constants, packed once
        return {RIVAL: compiled(rival(device))}
    return {
        COMPILED: compiled(make_denoiser(PAPER.denoiser, device), mode="reduce-overhead"),
        RIVAL: compiled(rival(device), mode="max-autotune"),
    }


def why_not_compiled(effort: str, batch: int) -> str | None:
    if effort != "full":
        return "compiling takes a minute or two"
    if batch not in COMPILED_BATCHES:
        return f"compiling takes a minute or two a batch size: only {', '.join(map(str, COMPILED_BATCHES))}"
    if not ON_GPU and not (shutil.which("g++") or shutil.which("clang++")):
        return "no C++ compiler here"
    return None


def measure_evaluations(measure, machine, stem, twin, frames, steps, candidates, ours=OURS, **more):
    """Times the candidates and writes the row of their evaluations a second."""
    batch, (height, width) = len(frames.obs), frames.obs.shape[-2:]
    flops = batch * steps * denoiser_flops(twin.cfg, height, width)
    turns = measure.take_turns(candidates, optional=(COMPILED, RIVAL))
    case = {"batch": batch, "steps": steps, "frames": f"{height}x{width}"}
    floor = machine.arithmetic(flops, fast_dtype(frames.obs.device))
    measure.row(stem, case, turns, ours, work=batch * steps, unit="NFE/s", floor=floor, **more)


def test_sampling(measure, machine, effort, device, cfg, batch, steps):
    twin, frames = paper_denoiser(effort == "tiny", device), contexts(batch, cfg.frame_size, cfg.frame_size, device)
    fast = FastDenoiser(twin, SamplerConfig(num_steps=steps), engine=paper_path(effort == "tiny", device))
    candidates, left_out = {OURS: sampling(fast, frames, steps)}, {}
    if ON_GPU or batch * steps <= MOST_BY_TWIN * (3 if steps == 3 else 1):
        candidates[TWIN] = sampling(twin, frames, steps)
    else:
        left_out[TWIN] = "too long for a CPU"
    if reason := why_not_compiled(effort, batch):
        left_out[RIVAL] = reason
    elif not ON_GPU and steps != 3:
        left_out[RIVAL] = "at 3 steps only"
    else:
        candidates |= {name: sampling(d, frames, steps) for name, d in compiled_denoisers(device).items()}
    more = {"energy_of": candidates[OURS], "left_out": left_out, "also": {"path": fast.path}}
    measure_evaluations(measure, machine, "denoiser", twin, frames, steps, candidates, **more)


@pytest.mark.parametrize("batch", [1, 32])
def test_wide(measure, machine, effort, device, batch):
    """A network of 330 million parameters at 30x56, a size that needs padding."""
    if batch > 1 and not ON_GPU:
        pytest.skip("32 samples of the wide network: too long for a CPU")
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
