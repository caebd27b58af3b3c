"""Frames drawn one after the other from six past ones, which are remembered, beside encoding all of them at every step.

pytest benchmarks/test_cached_network.py --benchmark-only
"""

from itertools import count

import pytest
import torch
from drawing import measure_evaluations
from workloads import NUM_ACTIONS, Frames, make_denoiser

from diamond_fast.config import DenoiserConfig, SamplerConfig
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.world_model import DiffusionSampler

CONTEXT = 6
NETWORKS = {
    "cross_attention": CrossAttentionConfig(num_steps_conditioning=CONTEXT),
    "dit": DiTConfig(num_steps_conditioning=CONTEXT),
    "unet3d": UNet3DConfig(num_steps_conditioning=CONTEXT),
}
MOMENTS = 64


@pytest.mark.parametrize("network", NETWORKS)
def test_remembered_frames(measure, machine, effort, device, network):
    batch, size, steps = {"full": 8, "quick": 2, "tiny": 1}[effort], 16 if effort == "tiny" else 64, 3
    spec, cfg = Spec(Frame(size, size), Discrete(NUM_ACTIONS), CONTEXT), SamplerConfig(num_steps=steps)
    denoiser = make_denoiser(DenoiserConfig(NETWORKS[network]), device, spec)
    film = torch.rand(batch, MOMENTS + CONTEXT, 3, size, size, device=device) * 2 - 1
    act = torch.randint(NUM_ACTIONS, film.shape[:2], device=device)

    def one_after_the_other(sampler):
        moments = count()

        def call():
            t = next(moments) % MOMENTS
            return sampler.sample(film[:, t : t + CONTEXT], act[:, t : t + CONTEXT])

        return call

    candidates = {
        "as written": one_after_the_other(DiffusionSampler(denoiser, cfg)),
        "remembered": one_after_the_other(FastDenoiser(denoiser, cfg, engine=choose_path(device))),
    }
    frames = Frames(film[:, :CONTEXT], act[:, :CONTEXT])
    case = {"network": network, "context": CONTEXT}
    measure_evaluations(measure, machine, "cached_network", denoiser, frames, steps, candidates, "remembered", case)
