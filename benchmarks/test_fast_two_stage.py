"""Frames a second in two resolutions, one at a time: FastTwoStage and the readable twin, together and stage by stage.

    pytest benchmarks/test_fast_two_stage.py --benchmark-only

The networks are those of the published world of Counter-Strike, 330 and 51 million parameters, and so are the steps of
its fast setting: one for each stage. The twin runs as published, in float32, operation by operation.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from drawing import OURS, TWIN
from workloads import make_denoiser

from diamond_fast.config import InnerModelConfig, RunConfig
from diamond_fast.engine.fast_two_stage import FastTwoStage
from diamond_fast.recording_presets import CSGO
from diamond_fast.replay import csgo
from diamond_fast.spec import upsampler_spec
from diamond_fast.speed import count_flops
from diamond_fast.upsampling import TwoStageSampler, upsampling_input

_SMALL = InnerModelConfig(cond_channels=16, depths=(1, 1), channels=(32, 32), attn_depths=(0, 0), context_noise=True)
TINY = replace(
    CSGO,
    frame_size=(6, 8),
    denoiser=replace(CSGO.denoiser, inner_model=_SMALL),
    upsampler=replace(CSGO.upsampler, inner_model=replace(_SMALL, num_steps_conditioning=1)),
)


def stages(cfg: RunConfig, device: torch.device) -> tuple[TwoStageSampler, FastTwoStage]:
    """The readable sampler and ours, with the same random weights."""
    spec = cfg.spec(csgo.ACTION)
    denoiser = make_denoiser(cfg.denoiser, device, spec)
    upsampler = make_denoiser(cfg.upsampler, device, upsampler_spec(spec.frame, cfg.upsampling))
    steps = cfg.world_model.sampler, cfg.world_model.upsampling
    return TwoStageSampler(denoiser, upsampler, *steps), FastTwoStage(denoiser, upsampler, *steps)


@pytest.mark.parametrize("stage", ["both", "denoiser", "upsampler"])
def test_two_stages(measure, machine, effort, device, stage):
    cfg = TINY if effort == "tiny" else CSGO
    twin, fast = stages(cfg, device)
    (height, width, _), (full_height, full_width, _) = cfg.frame_shape, cfg.full_frame_shape
    obs = torch.rand(1, 4, 3, height, width, device=device) * 2 - 1
    full = torch.rand(1, 1, 3, full_height, full_width, device=device) * 2 - 1
    act = torch.zeros(1, 4, csgo.ACTION.n, dtype=torch.uint8, device=device)
    guided = upsampling_input(obs[:, -1], full)

    def drawing(sampler: TwoStageSampler | FastTwoStage) -> Callable[[], object]:
        return {
            "both": lambda: sampler.sample(obs, act, full),
            "denoiser": lambda: sampler.small.sample(obs, act),
            "upsampler": lambda: sampler.full.sample(*guided),
        }[stage]

    turns = measure.take_turns({OURS: drawing(fast), TWIN: drawing(twin)})
    case = {"drawn": stage, "frames": f"{height}x{width}, {full_height}x{full_width}"}
    floor = machine.arithmetic(count_flops(drawing(twin)), torch.float32)
    path = {"both": fast, "denoiser": fast.small, "upsampler": fast.full}[stage].path
    measure.row("two stages", case, turns, OURS, work=1, unit="frames/s", floor=floor, also={"path": path})
