"""The policy's encoder as a sequence of fused operations (``networks/backend.py``)."""

from typing import TYPE_CHECKING

from torch import nn

from diamond_fast.networks.backend import Backend, Value
from diamond_fast.networks.blocks import SmallResBlock

if TYPE_CHECKING:
    from diamond_fast.networks.actor_critic.model import ActorCriticEncoder


def actor_critic_encoder(backend: Backend[Value], network: "ActorCriticEncoder", x: Value) -> Value:
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
