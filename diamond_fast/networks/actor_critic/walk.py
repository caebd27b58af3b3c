"""The policy's encoder as a sequence of fused operations (``networks/backend.py``)."""

from typing import TYPE_CHECKING, cast

from torch import nn

from diamond_fast.networks.backend import Backend, Value
from diamond_fast.networks.blocks import GroupNorm, SmallResBlock

if TYPE_CHECKING:
    from diamond_fast.networks.actor_critic.model import ActorCriticEncoder


def actor_critic_encoder(backend: Backend[Value], network: "ActorCriticEncoder", x: Value) -> Value:
    for layer in network.encoder:
        if isinstance(layer, SmallResBlock):
            norm, conv = cast(GroupNorm, layer.f[0]), cast(nn.Conv2d, layer.f[2])
            skip = layer.skip_projection
            residual = x if isinstance(skip, nn.Identity) else backend.conv(skip, [x])
            x = backend.conv(conv, [x], norm, residual=residual)
        elif isinstance(layer, nn.Conv2d):
            x = backend.conv(layer, [x])
        else:
            x = backend.max_pool(x)
    return x
