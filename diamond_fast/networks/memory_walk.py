"""Networks that remember past frames as sequences of operations, for compiled programs (see ``backend.py``).

What is remembered of a frame is, for each attention that looks at the past, its keys and values [2*C,h,w].
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from diamond_fast.networks.backend import Backend, Value
from diamond_fast.networks.blocks import GroupNorm
from diamond_fast.networks.exact import outside_autocast


class MemoryBackend(Backend[Value], Protocol[Value]):
    """Runs, or writes down, the operations of such a network."""

    def linear(self, layer: nn.Linear, x: Value, residual: Value | None = None) -> Value:
        """At every position, + residual."""
        ...

    def norm(self, layer: GroupNorm, x: Value) -> Value:
        """Without an activation behind it."""
        ...

    def constant(self, make: Callable[[], Tensor]) -> Value:
        """[C,h,w] that depends on weights alone."""
        ...

    def look(self, x: Value, num_heads: int, frames: nn.Embedding, own: bool, same_place: bool = False) -> Value:
        """Attention to past frames.

        Args:
            x: queries [C,h,w], or with ``own`` queries, keys and values [3*C,h,w].
            frames: what tells them apart: added to keys [T,C]; with ``same_place`` to scores [T+1,heads].
            own: positions look at their own frame, too.
            same_place: at the same position of each frame alone.
        """
        ...

    def row(self, layer: nn.Linear) -> int:
        """Where a layer of the conditioning begins in a sample's row."""
        ...

    def layer_norm(self, x: Value, scale: int, shift: int) -> Value:
        """At every position, * (1 + scale) + shift from these places of the row on."""
        ...

    def gelu(self, x: Value) -> Value: ...

    def gated_sum(self, x: Value, other: Value, gate: int) -> Value:
        """x + gate * other, with the gate from this place of the row on."""
        ...


@runtime_checkable
class WalkingMemory(Protocol):
    """A ``MemoryNetwork`` that also runs as compiled programs.

    What a frame's own looks offer is remembered of it, unless there is a ``walk_encoder`` that gives it.
    """

    def past_conditioning(self, act: Tensor) -> Tensor:
        """What a past frame's adaptive norms see, of its action: [M,...] -> [M,E]."""
        ...

    def next_conditioning(self, c_noise: Tensor, act: Tensor) -> Tensor:
        """What the noisy frame's see: c_noise [N] or [1], act [N,...] -> [N,E]."""
        ...

    def as_map(self, frames: Tensor) -> Tensor:
        """Frames [N,C,H,W] as the walk's input."""
        ...

    def as_frames(self, output: Tensor, height: int, width: int) -> Tensor:
        """The walk's output as frames [N,C,H,W]."""
        ...

    def walk_recall(self, backend: MemoryBackend[Value], x: Value) -> Value: ...


class WalkOverFrames:
    """Part of a ``WalkingMemory`` whose walk takes and gives frames as they are, padded by its own operations.

    Its norms see the sum of two embeddings, of the noise level and the last action, behind a small network.
    """

    noise_emb: nn.Module
    act_emb: nn.Module
    cond_proj: nn.Module

    def next_conditioning(self, c_noise: Tensor, act: Tensor) -> Tensor:
        with outside_autocast(act.device):  # so that training sees what sampling computes
            return self.cond_proj(self.noise_emb(c_noise) + self.act_emb(act))

    def as_map(self, frames: Tensor) -> Tensor:
        return frames

    def as_frames(self, output: Tensor, height: int, width: int) -> Tensor:
        return output
