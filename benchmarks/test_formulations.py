"""Frames drawn by EDM, DDPM and flow matching with as many denoising steps: the same network, interleaved.

pytest benchmarks/test_formulations.py --benchmark-only

Whatever a formulation does around the network should cost next to nothing: they are meant to be within 5 %.
"""

import pytest
import torch
from drawing import measure_evaluations
from workloads import PAPER, TINY, contexts, make_denoiser

from diamond_fast.config import of_kind
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.fast_denoiser import FastDenoiser

NAMES = ("edm", "ddpm", "flow")
ON_GPU = torch.cuda.is_available()


@pytest.mark.parametrize("steps", [3, 10])
def test_formulations(measure, machine, effort, device, steps):
    if steps > 3 and effort != "full" and not ON_GPU:
        pytest.skip("10 steps: for a full run")
    cfg = TINY if effort == "tiny" else PAPER
    batch = {"full": 32 if ON_GPU else 8, "quick": 4, "tiny": 2}[effort]
    frames, path = contexts(batch, cfg.frame_size, cfg.frame_size, device), choose_path(device)
    candidates, twin = {}, None
    for name in NAMES:
        kind = cfg if name == cfg.formulation else of_kind(cfg, name, cfg.network)
        denoiser = make_denoiser(kind.denoiser, device)
        twin = twin or denoiser
        fast = FastDenoiser(denoiser, kind.world_model.with_denoising_steps(steps).sampler, engine=path)
        candidates[name] = lambda fast=fast: fast.sample(*frames)
    measure_evaluations(measure, machine, "formulations", twin, frames, steps, candidates, "edm")
