"""The cross-attention network as sequences of operations (``networks/memory_walk.py``)."""

from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor

from diamond_fast.networks.backend import res_block, res_blocks
from diamond_fast.networks.blocks import Downsample, ResBlock, Upsample
from diamond_fast.networks.memory import places
from diamond_fast.networks.memory_walk import MemoryBackend, Value
from diamond_fast.networks.unet.walk import padded_unet

if TYPE_CHECKING:
    from diamond_fast.networks.cross_attention.model import CrossAttention2d, CrossAttentionNetwork


def encoder(backend: MemoryBackend[Value], network: "CrossAttentionNetwork", x: Value) -> list[Value]:
    """Keys and values of a frame for each look, on the way down and then on the way up."""
    encoder, (height, width) = network.encoder, backend.size(x)
    multiple = 2 ** (len(encoder.d_blocks) - 1)
    padded = (height + -height % multiple, width + -width % multiple)
    x = backend.conv(encoder.conv_in, [x if padded == (height, width) else backend.resize(x, *padded)])
    skips = []
    for blocks, down in zip(encoder.d_blocks, encoder.downsamples, strict=True):
        if isinstance(down, Downsample):
            x = backend.conv(down.conv, [x])
        for block in res_blocks(blocks):
            x = res_block(backend, block, [x])
        skips.append(x)
    features = [res_block(backend, encoder.mid_block, [x])]  # the deepest first
    for u_block, up, skip in zip(encoder.u_blocks, encoder.upsamples, skips[-2::-1], strict=False):
        x = backend.conv(cast(Upsample, up).conv, [features[-1]], upsample=True)
        features.append(res_block(backend, cast(ResBlock, u_block), [x, skip]))
    down_looks = zip(network.d_looks, reversed(features), strict=True)
    up_looks = zip(reversed(network.u_looks), features, strict=True)
    return [
        _keys_and_values(backend, cast("CrossAttention2d", look), level) for look, level in (*down_looks, *up_looks)
    ]


def recall(backend: MemoryBackend[Value], network: "CrossAttentionNetwork", x: Value) -> Value:
    levels, first = len(network.unet.d_blocks), network.first
    behind = {}
    for i, (down, up) in enumerate(zip(network.d_looks, network.u_looks, strict=True), first):
        behind[i] = partial(_look, backend, cast("CrossAttention2d", down))
        behind[2 * levels - i] = partial(_look, backend, cast("CrossAttention2d", up))
    return padded_unet(backend, network, x, behind)


def _look(backend: MemoryBackend[Value], layer: "CrossAttention2d", x: Value) -> Value:
    h, w = backend.size(x)

    def queries_of_places() -> Tensor:
        weight = layer.q_proj.weight.flatten(1).float()
        return (weight @ places(h, w, weight.size(1), weight.device).mT).unflatten(1, (h, w))

    q = backend.conv(layer.q_proj, [backend.norm(layer.norm, x)], residual=backend.constant(queries_of_places))
    y = backend.look(q, layer.num_heads, layer.age_emb, own=False)
    return backend.conv(layer.out_proj, [y], residual=x)


def _keys_and_values(backend: MemoryBackend[Value], layer: "CrossAttention2d", x: Value) -> Value:
    h, w = backend.size(x)

    def of_places() -> Tensor:
        weight = layer.kv_proj.weight.float()
        return (weight @ places(h, w, weight.size(1), weight.device).mT).unflatten(1, (h, w))

    return backend.linear(layer.kv_proj, backend.norm(layer.norm_past, x), residual=backend.constant(of_places))
