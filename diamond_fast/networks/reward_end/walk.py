"""The reward/end model's encoder as a sequence of fused operations (``networks/backend.py``)."""

from typing import TYPE_CHECKING

from diamond_fast.networks.backend import Backend, Value, res_block, res_blocks
from diamond_fast.networks.blocks import Downsample

if TYPE_CHECKING:
    from diamond_fast.networks.reward_end.model import RewardEndEncoder


def reward_end_encoder(backend: Backend[Value], network: "RewardEndEncoder", x: Value) -> Value:
    x = backend.conv(network.conv_in, [x])
    for blocks, down in zip(network.blocks, network.downsamples, strict=True):
        if isinstance(down, Downsample):
            x = backend.conv(down.conv, [x])
        for block in res_blocks(blocks):
            x = res_block(backend, block, [x])
    return x
