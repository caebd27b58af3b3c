"""Presets that differ in the denoiser's network have the sizes that they promise, counted on the meta device."""

from dataclasses import replace

import pytest
import torch

from diamond_fast.config_checks import checked
from diamond_fast.presets import PRESETS
from diamond_fast.replay import csgo
from diamond_fast.spec import Discrete
from diamond_fast.speed import count_flops, denoiser_forward
from diamond_fast.world_model import Agent, Denoiser


@pytest.mark.parametrize(("preset", "millions"), [("csgo-frame-stack", 122), ("csgo-cross-attention", 184)])
def test_parameters_are_the_papers_within_one_percent(preset, millions, tmp_path):
    cfg = checked(replace(PRESETS[preset], static_dataset=str(tmp_path)))
    with torch.device("meta"):
        agent = Agent(cfg, csgo.ACTION)
    assert agent.spec.context == 6
    assert agent.spec.frame.shape == (64, 64, 3)
    assert sum(p.numel() for p in agent.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    assert cfg.denoiser_update.steps_first_epoch + 299 * cfg.denoiser_update.steps_per_epoch == 120_000


@pytest.mark.parametrize("preset", ["small-cross-attention", "small-dit"])
def test_small_networks_take_as_many_operations(preset):
    flops = {}
    for name in ("small", preset):
        cfg = checked(replace(PRESETS[name], game="Boxing"))
        with torch.device("meta"):
            denoiser = Denoiser(cfg.denoiser, cfg.spec(Discrete(18)))
        flops[name] = count_flops(lambda denoiser=denoiser: denoiser_forward(denoiser, 1))
    assert flops[preset] == pytest.approx(flops["small"], rel=0.05)
