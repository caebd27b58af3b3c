"""Networks of other architectures that take as many operations for a frame as a given U-Net, and what they cost."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from diamond_fast.config import DenoiserConfig, RunConfig
from diamond_fast.estimate import estimate
from diamond_fast.networks.config import NetworkConfig
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.memory import MemoryNetwork
from diamond_fast.networks.unet.config import InnerModelConfig
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.spec import Action, Spec
from diamond_fast.speed import batch_of_zeros, count_flops, denoiser_forward
from diamond_fast.world_model import Denoiser

MOST_PATCHES = 64
SHARES = 32
"""Widths are tried in steps of a 32nd of the U-Net's, up to twice as wide."""


@cache  # networks are compared more than once
def operations(inner: NetworkConfig, spec: Spec) -> int:
    """FLOPs of one evaluation for one frame, nothing of the past being remembered."""
    with torch.device("meta"), torch.no_grad():
        denoiser = Denoiser(DenoiserConfig(inner), spec)
        return count_flops(lambda: denoiser_forward(denoiser, 1))


def as_many(network: str, unet: InnerModelConfig, spec: Spec) -> NetworkConfig:
    """The network of that architecture that comes nearest to a U-Net in operations, in worlds of that kind.

    Convolutional ones have the U-Net's levels and blocks, and differ in width, first all levels as the U-Net's do, then
    those below the finest. A transformer has as many blocks as its default, patches as small as ``MOST_PATCHES`` allow,
    and differs in width.

    Raises:
        ValueError: none is made for this architecture.
    """
    if network == "unet":
        return unet
    if network not in FAMILIES:
        raise ValueError(f"--networks {network}: no widths to choose from; known: unet, {', '.join(FAMILIES)}")
    common = {"img_channels": unet.img_channels, "num_steps_conditioning": spec.context}
    wanted = operations(unet, spec)
    near = _around(wanted, [replace(cfg, **common) for cfg in FAMILIES[network](unet, spec)], spec)
    if network in FINER:
        near += _around(wanted, FINER[network](near[0]), spec)
    return min(near, key=lambda cfg: abs(operations(cfg, spec) - wanted))


def _around(wanted: int, family: list[NetworkConfig], spec: Spec) -> list[NetworkConfig]:
    """The last of a family, from narrow to wide, that takes no more operations, and the next one if there is one."""
    low, high = 0, len(family) - 1  # by bisection: operations grow with width
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if operations(family[middle], spec) <= wanted else (low, middle - 1)
    return family[low : low + 2]


def _widths(unet: InnerModelConfig) -> Iterator[tuple[int, ...]]:
    """The U-Net's channels, narrower and wider, in even numbers."""
    shares = (step / SHARES for step in range(4, 2 * SHARES + 1))
    yield from dict.fromkeys(tuple(max(2, 2 * round(c * share / 2)) for c in unet.channels) for share in shares)


def _fitting(cfgs: Iterator[NetworkConfig]) -> list[NetworkConfig]:
    """Those whose widths split into groups and heads."""
    fitting = []
    for cfg in cfgs:
        try:
            cfg.check("network")
        except ValueError:
            continue
        fitting.append(cfg)
    return fitting


def _cross_attention(unet: InnerModelConfig, spec: Spec) -> list[NetworkConfig]:
    return _fitting(
        CrossAttentionConfig(
            cond_channels=unet.cond_channels,
            depths=unet.depths,
            channels=widths,
            attn_depths=unet.attn_depths,
            encoder_depths=unet.depths,
            encoder_channels=widths,
        )
        for widths in _widths(unet)
    )


def _unet3d(unet: InnerModelConfig, spec: Spec) -> list[NetworkConfig]:
    return _fitting(
        UNet3DConfig(
            cond_channels=unet.cond_channels, depths=unet.depths, channels=widths, attn_depths=unet.attn_depths
        )
        for widths in _widths(unet)
    )


def _dit(unet: InnerModelConfig, spec: Spec) -> list[NetworkConfig]:
    size = 1
    while -(-spec.frame.height // size) * -(-spec.frame.width // size) > MOST_PATCHES:
        size *= 2
    return _fitting(DiTConfig(patch_size=size, width=width) for width in range(8, 1025, 8))


FAMILIES: dict[str, Callable[[InnerModelConfig, Spec], list[NetworkConfig]]] = {
    "cross_attention": _cross_attention,
    "unet3d": _unet3d,
    "dit": _dit,
}
"""Networks of one architecture, from narrow to wide."""


def _wider_below(*fields: str) -> Callable[[Any], list[NetworkConfig]]:
    """Makes of a network those with up to twice as many channels at all levels but the finest."""

    def wider(cfg: Any) -> list[NetworkConfig]:
        finest, *below = cfg.channels
        more = ((finest, *(c + extra for c in below)) for extra in range(0, max(below, default=0) + 1, 2))
        return _fitting(replace(cfg, **dict.fromkeys(fields, widths)) for widths in more)

    return wider


FINER: dict[str, Callable[[Any], list[NetworkConfig]]] = {
    "cross_attention": _wider_below("channels", "encoder_channels"),
    "unet3d": _wider_below("channels"),
}
"""From one network to the next wider one of its family, in smaller steps."""


def costs_of(cfg: RunConfig, action: Action) -> dict[str, int]:
    """What the denoiser costs in operations and memory, counted.

    Returns:
        ``operations`` of an evaluation that remembers nothing, and ``recall_operations`` of one to which the past is
        known; ``remembered_bytes`` of the past for one video, in float32; ``training_bytes`` that are kept for the
        backward pass of one sequence.
    """
    spec = cfg.spec(action)
    inner = cfg.denoiser.inner_model
    total = operations(inner, spec)
    cost = estimate(replace(cfg, denoiser_update=replace(cfg.denoiser_update, batch_size=1)), action).costs["denoiser"]
    remembered, recall = 0, total
    with torch.device("meta"), torch.no_grad():
        network = Denoiser(DenoiserConfig(inner), spec).inner_model
        if isinstance(network, MemoryNetwork):
            obs, act, _ = batch_of_zeros(spec, 1, spec.context, torch.device("meta"))
            memory = network.remember(obs, act)
            remembered = sum(x.numel() * x.element_size() for x in memory)
            recall = count_flops(lambda: network.recall(obs[:, 0], torch.zeros(1), memory, act[:, 0]))
    return {
        "operations": total,
        "recall_operations": recall,
        "remembered_bytes": remembered,
        "training_bytes": cost.activation_bytes,
    }
