"""The three networks once more, as a sequence of fused operations: what a fast backend has to run.

A readable network of ``models/`` is walked in the order its operations run, and every step is handed to a backend:
``FusedTorch`` runs it at once, ``CpuProgram`` writes it down for later. A backend's values are its own; it is asked for

    conv(layer, inputs, norm, residual)   layer(silu(norm(inputs concatenated))) + residual
    attention(layer, x)                   a SelfAttention2d
    max_pool(x), resize(x, h, w), size(x)

and decides for itself where statistics, biases and concatenations go.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch import nn

from diamond_fast.models.actor_critic import ActorCriticEncoder
from diamond_fast.models.blocks import (
    AdaGroupNorm,
    Downsample,
    GroupNorm,
    ResBlock,
    SelfAttention2d,
    SmallResBlock,
    Upsample,
)
from diamond_fast.models.reward_end import RewardEndEncoder
from diamond_fast.models.unet import InnerModel, UNet

Value = TypeVar("Value")
Norm = AdaGroupNorm | GroupNorm


class Backend(Protocol[Value]):
    """Runs, or writes down, the operations of a network."""

    def conv(
        self,
        layer: nn.Conv2d,
        inputs: Sequence[Value],
        norm: Norm | None = None,
        residual: Value | None = None,
        upsample: bool = False,
    ) -> Value: ...

    def attention(self, layer: SelfAttention2d, x: Value) -> Value: ...

    def max_pool(self, x: Value) -> Value: ...

    def resize(self, x: Value, height: int, width: int) -> Value:
        """Cuts off, or adds zeros, at the right and the bottom."""
        ...

    def size(self, x: Value) -> tuple[int, int]: ...


def inner_model(backend: Backend[Value], network: InnerModel, x: Value) -> Value:
    """The denoiser's network on its preconditioned, concatenated input."""
    x = unet(backend, network.unet, backend.conv(network.conv_in, [x]))
    return backend.conv(network.conv_out, [x], network.norm_out)


def unet(backend: Backend[Value], network: UNet, x: Value) -> Value:
    height, width = backend.size(x)
    padded = (height + -height % network.multiple, width + -width % network.multiple)
    if padded != (height, width):
        x = backend.resize(x, *padded)

    skips = []
    for blocks, down in zip(network.d_blocks, network.downsamples, strict=True):
        if isinstance(down, Downsample):
            x = backend.conv(down.conv, [x])
        skips.append([x])
        for block in blocks.resblocks:
            x = res_block(backend, block, [x])
            skips[-1].append(x)

    for block in network.mid_blocks.resblocks:
        x = res_block(backend, block, [x])

    for blocks, up, level_skips in zip(network.u_blocks, network.upsamples, reversed(skips), strict=True):
        if isinstance(up, Upsample):
            x = backend.conv(up.conv, [x], upsample=True)
        for block, skip in zip(blocks.resblocks, reversed(level_skips), strict=True):
            x = res_block(backend, block, [x, skip])

    return x if padded == (height, width) else backend.resize(x, height, width)


def res_block(backend: Backend[Value], block: ResBlock, inputs: Sequence[Value]) -> Value:
    x = backend.conv(block.conv1, inputs, block.norm1)
    residual = inputs[0] if isinstance(block.proj, nn.Identity) else backend.conv(block.proj, inputs)
    x = backend.conv(block.conv2, [x], block.norm2, residual=residual)
    return x if isinstance(block.attn, nn.Identity) else backend.attention(block.attn, x)


def reward_end_encoder(backend: Backend[Value], network: RewardEndEncoder, x: Value) -> Value:
    x = backend.conv(network.conv_in, [x])
    for blocks, down in zip(network.blocks, network.downsamples, strict=True):
        if isinstance(down, Downsample):
            x = backend.conv(down.conv, [x])
        for block in blocks.resblocks:
            x = res_block(backend, block, [x])
    return x


def actor_critic_encoder(backend: Backend[Value], network: ActorCriticEncoder, x: Value) -> Value:
    for layer in network.encoder:
        if isinstance(layer, SmallResBlock):
            norm, _, conv = layer.f
            same = isinstance(layer.skip_projection, nn.Identity)
            residual = x if same else backend.conv(layer.skip_projection, [x])
            x = backend.conv(conv, [x], norm, residual=residual)
        elif isinstance(layer, nn.MaxPool2d):
            x = backend.max_pool(x)
        else:
            x = backend.conv(layer, [x])
    return x
