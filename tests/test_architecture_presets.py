"""Presets that differ in the denoiser's network have the sizes that they promise, counted on the meta device."""

from dataclasses import replace

import pytest
import torch

from diamond_fast.config_checks import checked
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.cross_attention.model import CrossAttentionNetwork
from diamond_fast.presets import PRESETS
from diamond_fast.replay import csgo
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.speed import count_flops, denoiser_forward
from diamond_fast.world_model import Agent, Denoiser


@pytest.mark.parametrize(
    ("preset", "millions"), [("csgo-frame-stack", 122), ("csgo-cross-attention", 184), ("csgo-unet3d", 122)]
)
def test_parameters_are_the_papers_within_one_percent(preset, millions, tmp_path):
    cfg = checked(replace(PRESETS[preset], static_dataset=str(tmp_path)))
    with torch.device("meta"):
        agent = Agent(cfg, csgo.ACTION)
    assert agent.spec.context == 6
    assert agent.spec.frame.shape == (64, 64, 3)
    assert sum(p.numel() for p in agent.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    assert cfg.denoiser_update.steps_first_epoch + 299 * cfg.denoiser_update.steps_per_epoch == 120_000


def operations(network, context):
    """Of remembering one frame, and of an evaluation that recalls so many, on 64x64 pixels."""
    with torch.device("meta"):
        frame, act = torch.zeros(1, 1, 3, 64, 64), torch.zeros(1, 1, *network.spec.action.shape, dtype=torch.int64)
        memory = [x.expand(1, context, *x.shape[2:]) for x in network.remember(frame, act)]
        return (
            count_flops(lambda: network.remember(frame, act)),
            count_flops(lambda: network.recall(frame[:, 0], torch.zeros(1), memory, act[:, 0])),
        )


@torch.no_grad()
def test_cross_attention_is_as_much_dearer_as_published():
    """Frames one after the other, 7.4 a second against 2.5 (table 8): by operations within a tenth."""
    rates = []
    for preset in ("csgo-frame-stack", "csgo-cross-attention"):
        cfg = PRESETS[preset]
        with torch.device("meta"):
            denoiser = Denoiser(cfg.denoiser, cfg.spec(csgo.ACTION))
        rates.append(count_flops(lambda denoiser=denoiser: denoiser_forward(denoiser, 1)))
    assert rates[1] / rates[0] == pytest.approx(7.4 / 2.5, rel=0.1)


@torch.no_grad()
def test_remembering_halves_the_operations_at_six_frames():
    """Three steps of each frame: all six encoded at each, or the newest one once."""
    steps, context = 3, 6
    spec = Spec(Frame(64, 64), Discrete(4), context)
    with torch.device("meta"):
        network = CrossAttentionNetwork(CrossAttentionConfig(num_steps_conditioning=context), spec)
    encode, recall = operations(network, context)
    assert steps * (recall + context * encode) > 2 * (steps * recall + encode)


@pytest.mark.parametrize("preset", ["small-cross-attention", "small-unet3d", "small-dit"])
def test_small_networks_take_as_many_operations(preset):
    flops = {}
    for name in ("small", preset):
        cfg = checked(replace(PRESETS[name], game="Boxing"))
        with torch.device("meta"):
            denoiser = Denoiser(cfg.denoiser, cfg.spec(Discrete(18)))
        flops[name] = count_flops(lambda denoiser=denoiser: denoiser_forward(denoiser, 1))
    assert flops[preset] == pytest.approx(flops["small"], rel=0.05)
