"""What a fast backend has to run: a network once more, as a sequence of fused operations.

A network that has a ``walk`` hands its operations to a backend in the order they run: ``FusedTorch`` runs each at once,
``CpuProgram`` writes it down for later. A backend's values are its own; it is asked for

    conv(layer, inputs, norm, residual)   layer(silu(norm(inputs concatenated))) + residual
    attention(layer, x)                   a SelfAttention2d
    max_pool(x), resize(x, h, w), size(x)

and decides for itself where statistics, biases and concatenations go.

A denoiser's network with a walk also splits its ``forward`` in two: ``conditioning(levels, act)``, computed in float32
by the modules it names in ``conditioning_modules``, and the rest; if it is told of noise in its context, that level is
the third argument of both. Its first convolution is called ``conv_in``, its last
one ``conv_out``.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

from torch import nn

from diamond_fast.networks.blocks import AdaGroupNorm, GroupNorm, ResBlock, SelfAttention2d

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


def res_blocks(level: nn.Module) -> list[ResBlock]:
    """The residual blocks of a level (``ResBlocks`` of a network)."""
    return cast(list[ResBlock], level.resblocks)


def res_block(backend: Backend[Value], block: ResBlock, inputs: Sequence[Value]) -> Value:
    """The walk of one residual block."""
    x = backend.conv(block.conv1, inputs, block.norm1)
    residual = inputs[0] if isinstance(block.proj, nn.Identity) else backend.conv(block.proj, inputs)
    x = backend.conv(block.conv2, [x], block.norm2, residual=residual)
    return x if isinstance(block.attn, nn.Identity) else backend.attention(block.attn, x)
