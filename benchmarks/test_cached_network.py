"""Frames drawn one after the other from past ones that are remembered, by torch and as compiled programs
(``engine/memory_program.py``): beside encoding all of them at every step, and beside a U-Net that has them stacked,
over the context's length.

pytest benchmarks/test_cached_network.py --benchmark-only
"""

from dataclasses import replace
from itertools import count

import pytest
import torch
from drawing import measure_evaluations
from torch.profiler import ProfilerActivity, profile
from workloads import NUM_ACTIONS, Frames, make_denoiser

from diamond_fast.config import DenoiserConfig, InnerModelConfig, SamplerConfig
from diamond_fast.engine.choose import choose_path
from diamond_fast.engine.fast_denoiser import FastDenoiser
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.memory import FrameByFrameNetwork, MemoryNetwork
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.presets import PRESETS
from diamond_fast.spec import Discrete, Frame, Spec
from diamond_fast.speed import batch_of_zeros, count_flops, denoiser_forward
from diamond_fast.world_model import Denoiser, DiffusionSampler

CONTEXT = 6
NETWORKS = {
    "cross_attention": CrossAttentionConfig(num_steps_conditioning=CONTEXT),
    "dit": DiTConfig(num_steps_conditioning=CONTEXT),
    "unet3d": UNet3DConfig(num_steps_conditioning=CONTEXT),
}
MOMENTS = 64
STEPS = 3


def one_after_the_other(sampler, film, act):
    """Draws the next frame of a film [N,T,C,H,W], whose moments follow one another."""
    context, moments = film.size(1) - MOMENTS, count()

    def call():
        t = next(moments) % MOMENTS
        return sampler.sample(film[:, t : t + context], act[:, t : t + context])

    return call


@pytest.mark.parametrize("network", NETWORKS)
def test_remembered_frames(measure, machine, effort, device, network):
    batch, size = {"full": 8, "quick": 2, "tiny": 1}[effort], 16 if effort == "tiny" else 64
    spec, cfg = Spec(Frame(size, size), Discrete(NUM_ACTIONS), CONTEXT), SamplerConfig(num_steps=STEPS)
    denoiser = make_denoiser(DenoiserConfig(NETWORKS[network]), device, spec)
    film = torch.rand(batch, MOMENTS + CONTEXT, 3, size, size, device=device) * 2 - 1
    act = torch.randint(NUM_ACTIONS, film.shape[:2], device=device)

    engines = {"remembered": choose_path(device, choice="torch" if device.type == "cpu" else "auto")}
    if device.type == "cpu":
        engines["compiled"] = choose_path(device)
    candidates = {"as written": one_after_the_other(DiffusionSampler(denoiser, cfg), film, act)}
    for name, engine in engines.items():
        candidates[name] = one_after_the_other(FastDenoiser(denoiser, cfg, engine=engine), film, act)
    frames = Frames(film[:, :CONTEXT], act[:, :CONTEXT])
    case = {"network": network, "context": CONTEXT}
    measure_evaluations(
        measure, machine, "cached_network", denoiser, frames, STEPS, candidates, list(engines)[-1], case
    )


@pytest.mark.parametrize("context", [4, 8, 16])
@pytest.mark.parametrize("network", ["cross_attention", "dit", "unet3d"])
def test_cost_of_context(measure, effort, device, network, context):
    """One frame, by the small network of each architecture and by the small U-Net."""
    presets = {"unet": "small", network: f"small-{network.replace('_', '-')}"}
    inner_models = {name: PRESETS[preset].denoiser.inner_model for name, preset in presets.items()}
    compare(measure, effort, device, inner_models, context)


@pytest.mark.parametrize("network", ["cross_attention", "dit", "unet3d"])
def test_cost_at_full_width(measure, effort, device, network):
    """The same with as many channels as networks of the paper's size have, one residual block a level."""
    narrow = {"cond_channels": 16, "depths": (1, 1), "channels": (8, 16), "attn_depths": (0, 1)}
    wide = {"cond_channels": 256, "depths": (1,) * 4, "channels": (128, 256, 256, 512), "attn_depths": (0, 0, 1, 1)}
    levels = narrow if effort == "tiny" else wide
    encoder = {f"encoder_{name}": levels[name] for name in ("depths", "channels")}
    inner_models = {
        "unet": InnerModelConfig(**levels),
        "cross_attention": CrossAttentionConfig(**levels, **encoder),
        "dit": DiTConfig(width=32 if effort == "tiny" else 768, num_heads=4),
        "unet3d": UNet3DConfig(**levels),
    }
    compare(measure, effort, device, {name: inner_models[name] for name in ("unet", network)}, 4, widths="full")


def compare(measure, effort, device, inner_models, context, **case):
    """The second network beside the first, the U-Net.

    Beside the times stand its share of the U-Net's operations, as they are done; how much longer than that share it
    takes; and the most megabytes of torch's tensors that are held meanwhile besides the weights. The memory that a
    compiled program has of its own is not among them.
    """
    size = 16 if effort == "tiny" else 64
    spec = Spec(Frame(size, size), Discrete(NUM_ACTIONS), context)
    film = torch.rand(1, MOMENTS + context, 3, size, size, device=device) * 2 - 1
    act = torch.randint(NUM_ACTIONS, film.shape[:2], device=device)
    candidates, operations, held = {}, [], []
    for name, given in inner_models.items():
        inner_model = replace(given, num_steps_conditioning=context)
        denoiser = make_denoiser(DenoiserConfig(inner_model), device, spec).to(memory_format=torch.channels_last)
        fast = FastDenoiser(denoiser, SamplerConfig(num_steps=STEPS), engine=choose_path(device))
        candidates[name] = one_after_the_other(fast, film, act)
        operations.append(operations_of_a_frame(denoiser.cfg, spec))
        held.append(held_bytes(candidates[name]))
    network, share = list(inner_models)[-1], operations[1] / operations[0]
    turns = measure.take_turns(candidates)
    longer = min(turns.seconds[network]) / min(turns.seconds["unet"]) / share
    also = {"of the U-Net's operations": round(share, 2), "time over that share": round(longer, 2)}
    also["MB held"] = round(held[1] / 1e6, 2)
    also["MB held by the U-Net"] = round(held[0] / 1e6, 2)
    case = {"network": network, "context": context, "steps": STEPS, "frames": f"{size}x{size}", **case}
    measure.row("cached_network", case, turns, network, also=also)


@torch.no_grad()
def operations_of_a_frame(cfg, spec):
    """FLOPs of all its steps, and of what is to be remembered anew before them."""
    with torch.device("meta"):
        denoiser = Denoiser(cfg, spec)
        network = denoiser.inner_model
        if not isinstance(network, MemoryNetwork):
            return STEPS * count_flops(lambda: denoiser_forward(denoiser, 1))
        obs, act, _ = batch_of_zeros(spec, 1, spec.context, torch.device("meta"))
        new = 1 if isinstance(network, FrameByFrameNetwork) else spec.context
        memory = network.remember(obs, act)
        remembering = count_flops(lambda: network.remember(obs[:, :new], act[:, :new]))
        return remembering + STEPS * count_flops(lambda: network.recall(obs[:, 0], torch.zeros(1), memory, act[:, 0]))


def held_bytes(call):
    """The most that is held at once by tensors which a second call makes, and what the first one left to it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
        call()
    held = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
