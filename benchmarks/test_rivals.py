"""Evaluations of the denoiser a second beside others' engines for CPUs, all in float32 but FastDenoiser with AMX.

    pytest benchmarks/test_rivals.py --benchmark-only          (OpenVINO and onnxruntime: pip install -e '.[rivals]')

Each engine is held against the readable network first. torch.compile takes minutes, so it is asked at one batch size:
Inductor with frozen weights, channels-last, in bfloat16 if the processor has AMX.
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
from rivals import in_engines
from workloads import contexts, make_denoiser

from diamond_fast.config import SamplerConfig
from diamond_fast.engine.fast_denoiser import FastDenoiser

COMPILED_BATCH = 32
STEPS = 1
pytestmark = pytest.mark.skipif(ON_GPU, reason="engines for CPUs")


@pytest.mark.parametrize("batch", [8, 32, 1])
def test_rivals(measure, machine, effort, device, cfg, tmp_path, batch):
    if measure.rivals == "without":
        pytest.skip("rivals are measured apart")
    twin, frames = paper_denoiser(effort == "tiny", device), contexts(batch, cfg.frame_size, cfg.frame_size, device)
    fast = FastDenoiser(twin, SamplerConfig(num_steps=STEPS), engine=paper_path(effort == "tiny", device))
    denoisers = {OURS: fast, TWIN: twin}
    denoisers["channels-last"] = make_denoiser(cfg.denoiser, device).to(memory_format=torch.channels_last)
    others, left_out = in_engines(twin, frames, tmp_path)
    if batch != COMPILED_BATCH:
        left_out[RIVAL] = f"compiling takes a minute or two a batch size: only {COMPILED_BATCH}"
    elif reason := why_not_compiled(effort):
        left_out[RIVAL] = reason
    else:
        others |= compiled_denoisers(device)
    candidates = {name: sampling(d, frames, STEPS) for name, d in {**denoisers, **others}.items()}
    more = {"left_out": left_out, "also": {"path": fast.path}, "optional": tuple(others)}
    measure_evaluations(measure, machine, "denoiser beside other engines", twin, frames, STEPS, candidates, **more)
