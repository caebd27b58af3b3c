"""The U-Net as a sequence of fused operations (``networks/backend.py``)."""

from typing import TYPE_CHECKING

from diamond_fast.networks.backend import Backend, Value, res_block, res_blocks
from diamond_fast.networks.blocks import Downsample, Upsample

if TYPE_CHECKING:
    from diamond_fast.networks.unet.model import InnerModel, UNet


def inner_model(backend: Backend[Value], network: "InnerModel", x: Value) -> Value:
    """The denoiser's network on its preconditioned, concatenated input."""
    x = unet(backend, network.unet, backend.conv(network.conv_in, [x]))
    return backend.conv(network.conv_out, [x], network.norm_out)


def unet(backend: Backend[Value], network: "UNet", x: Value) -> Value:
    height, width = backend.size(x)
    padded = (height + -height % network.multiple, width + -width % network.multiple)
    if padded != (height, width):
        x = backend.resize(x, *padded)

    skips = []
    for blocks, down in zip(network.d_blocks, network.downsamples, strict=True):
        if isinstance(down, Downsample):
            x = backend.conv(down.conv, [x])
        skips.append([x])
        for block in res_blocks(blocks):
            x = res_block(backend, block, [x])
            skips[-1].append(x)

    for block in res_blocks(network.mid_blocks):
        x = res_block(backend, block, [x])

    for blocks, up, level_skips in zip(network.u_blocks, network.upsamples, reversed(skips), strict=True):
        if isinstance(up, Upsample):
            x = backend.conv(up.conv, [x], upsample=True)
        for block, skip in zip(res_blocks(blocks), reversed(level_skips), strict=True):
            x = res_block(backend, block, [x, skip])

    return x if padded == (height, width) else backend.resize(x, height, width)
