"""Drawing frames: the denoisers that take turns at it, and their row."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
import torch._inductor.config as inductor
from workloads import PAPER, TINY, Frames, denoiser_flops, in_bfloat16, make_denoiser

from diamond_fast.config import SamplerConfig
from diamond_fast.engine.choose import Path, choose_path, fast_dtype
from diamond_fast.engine.contest import Work
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.world_model import Denoiser, DiffusionSampler

ON_GPU = torch.cuda.is_available()
TWIN, OURS, COMPILED = "as published", "FastDenoiser", "as published, compiled"
COARSE = fast_dtype(torch.device("cuda" if ON_GPU else "cpu")) == torch.bfloat16
RIVAL = "torch.compile bf16" if COARSE else "torch.compile"


def sampling(denoiser: Denoiser | FastDenoiser, frames: Frames, steps: int) -> Callable[[], object]:
    """A call that draws frames."""
    if not isinstance(denoiser, FastDenoiser):
        denoiser = DiffusionSampler(denoiser, SamplerConfig(num_steps=steps))
    return lambda: denoiser.sample(*frames)


def compiled(denoiser: Denoiser, **options) -> Denoiser:
    """With its network compiled, once for each batch size."""
    denoiser.inner_model.compile(dynamic=False, **options)
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


def why_not_compiled(effort: str) -> str | None:
    """Why a compiler is not asked."""
    if effort != "full":
        return "compiling takes a minute or two"
    if not ON_GPU and not (shutil.which("g++") or shutil.which("clang++")):
        return "no C++ compiler here"
    return None


def measure_evaluations(
    measure, machine, stem, twin, frames, steps, candidates, ours=OURS, case=None, optional=(), **more
):
    """Times the candidates and writes the row of their evaluations a second."""
    batch, (height, width) = len(frames.obs), frames.obs.shape[-2:]
    flops = batch * steps * denoiser_flops(twin.cfg, height, width)
    turns = measure.take_turns(candidates, optional=(COMPILED, RIVAL, *optional))
    case = {"batch": batch, "steps": steps, "frames": f"{height}x{width}", **(case or {})}
    floor = machine.arithmetic(flops, fast_dtype(frames.obs.device))
    measure.row(stem, case, turns, ours, work=batch * steps, unit="NFE/s", floor=floor, **more)
