"""The U-Net over space and time as a sequence of operations (``networks/memory_walk.py``)."""

from functools import partial
from typing import TYPE_CHECKING, cast

from diamond_fast.networks.memory_walk import MemoryBackend, Value
from diamond_fast.networks.unet.walk import padded_unet

if TYPE_CHECKING:
    from diamond_fast.networks.unet3d.model import TimeAttention2d, UNet3D


def recall(backend: MemoryBackend[Value], network: "UNet3D", x: Value) -> Value:
    """One frame, past or noisy. All that the future looks at is there behind its last look."""
    levels = len(network.unet.d_blocks)
    places = (
        *enumerate(network.d_looks, network.first),
        (levels, network.mid_look),
        *enumerate(network.u_looks, levels + 1),
    )
    behind = {place: partial(_look, backend, cast("TimeAttention2d", look)) for place, look in places}
    return padded_unet(backend, network, x, behind)


def _look(backend: MemoryBackend[Value], layer: "TimeAttention2d", x: Value) -> Value:
    qkv = backend.conv(layer.qkv_proj, [backend.norm(layer.norm, x)])
    y = backend.look(qkv, layer.num_heads, layer.distance_emb, own=True, same_place=True)
    return backend.conv(layer.out_proj, [y], residual=x)
