"""The U-Net as a sequence of fused operations (``networks/backend.py``)."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from diamond_fast.networks.backend import Backend, Value, res_block, res_blocks
from diamond_fast.networks.blocks import Downsample, Upsample

if TYPE_CHECKING:
    from diamond_fast.networks.cross_attention.model import CrossAttentionNetwork
    from diamond_fast.networks.unet.model import InnerModel, UNet
    from diamond_fast.networks.unet3d.model import UNet3D


def inner_model(backend: Backend[Value], network: "InnerModel", x: Value) -> Value:
    """The denoiser's network on its preconditioned, concatenated input."""
    x = unet(backend, network.unet, backend.conv(network.conv_in, [x]))
    return backend.conv(network.conv_out, [x], network.norm_out)


def unet(
    backend: Backend[Value],
    network: "UNet",
    x: Value,
    behind: Mapping[int, Callable[[Value], Value]] | None = None,
) -> Value:
    """The U-Net. ``behind``: what else happens behind a level's blocks, by the level's number: of L levels on the way
    down 0 to L - 1, L in the middle, L + 1 to 2 L on the way up."""
    height, width = backend.size(x)
    padded = (height + -height % network.multiple, width + -width % network.multiple)
    if padded != (height, width):
        x = backend.resize(x, *padded)
    behind, level = behind or {}, 0

    def finished(x: Value) -> Value:
        nonlocal level
        level += 1
        return behind[level - 1](x) if level - 1 in behind else x

    skips = []
    for blocks, down in zip(network.d_blocks, network.downsamples, strict=True):
        if isinstance(down, Downsample):
            x = backend.conv(down.conv, [x])
        skips.append([x])
        for block in res_blocks(blocks):
            x = res_block(backend, block, [x])
            skips[-1].append(x)
        x = skips[-1][-1] = finished(x)

    for block in res_blocks(network.mid_blocks):
        x = res_block(backend, block, [x])
    x = finished(x)

    for blocks, up, level_skips in zip(network.u_blocks, network.upsamples, reversed(skips), strict=True):
        if isinstance(up, Upsample):
            x = backend.conv(up.conv, [x], upsample=True)
        for block, skip in zip(res_blocks(blocks), reversed(level_skips), strict=True):
            x = res_block(backend, block, [x, skip])
        x = finished(x)

    return x if padded == (height, width) else backend.resize(x, height, width)


def padded_unet(
    backend: Backend[Value],
    network: "CrossAttentionNetwork | UNet3D",
    x: Value,
    behind: Mapping[int, Callable[[Value], Value]],
) -> Value:
    """A network whose input is padded before its first convolution, and cropped before its last."""
    multiple = network.unet.multiple
    height, width = backend.size(x)
    padded = (height + -height % multiple, width + -width % multiple)
    if padded != (height, width):
        x = backend.resize(x, *padded)
    x = unet(backend, network.unet, backend.conv(network.conv_in, [x]), behind)
    if padded != (height, width):
        x = backend.resize(x, height, width)
    return backend.conv(network.conv_out, [x], network.norm_out)
