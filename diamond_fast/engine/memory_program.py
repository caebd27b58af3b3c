"""Programs of networks that remember past frames. The twin is the network itself (``networks/memory.py``).

Keys and values of past frames are handed to a program as it left them, [2*C,h,w] for each attention that looks at them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diamond_fast.engine.cpu_program import CpuProgram, array
from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.networks.blocks import NORM_EPS, GroupNorm
from diamond_fast.networks.memory import Memory

NOTHING = np.empty(0, np.float32)


class MemoryProgram(CpuProgram):
    """A program with the operations of ``networks/memory_walk.py``, for as many past frames as its network knows."""

    def __init__(
        self, walk: Callable[[Any, int], int | list[int]], channels: int, size: tuple[int, int], **options: Any
    ):
        self._constants: list[Callable[[], Tensor]] = []
        self._given: list[Tensor] = []  # the constants as they are now, [1,C,h,w]
        self._embeddings: list[tuple[int, nn.Embedding]] = []
        self._look_shapes: list[tuple[int, int, int]] = []  # of what each look remembers
        super().__init__(walk, [(channels, 1.0)], *size, **options)

    # What a backend offers.

    def linear(self, layer: nn.Linear, x: int, residual: int | None = None) -> int:
        no_residual = -1 if residual is None else residual
        value = self._program.conv([x], layer.out_features, kernel=1, residual=no_residual)
        self._convs.append((self._program.num_ops() - 1, layer))
        return value

    def norm(self, layer: GroupNorm, x: int) -> int:
        value = self._program.norm(x, self._norm(layer, silu=False))
        self._remember(self._program.num_ops() - 1, layer)
        return value

    def constant(self, make: Callable[[], Tensor]) -> int:
        self._constants.append(make)
        channels, height, width = make().shape
        return self._program.input([channels], [1.0], height, width)

    def look(self, x: int, num_heads: int, frames: nn.Embedding, own: bool, same_place: bool = False) -> int:
        most_past = frames.num_embeddings - same_place
        value = self._program.look(x, num_heads, most_past, own, same_place)
        self._embeddings.append((self._program.num_ops() - 1, frames))
        channels, height, width = self._program.shape(value)
        self._look_shapes.append((2 * channels, height, width))
        return value

    def row(self, layer: nn.Linear) -> int:
        first = self._modulation_size
        self.modulations.append(layer)
        self._modulation_size += layer.out_features
        return first

    def layer_norm(self, x: int, scale: int, shift: int) -> int:
        return self._program.layer_norm(x, NORM_EPS, scale, shift)

    def gelu(self, x: int) -> int:
        return self._program.gelu(x)

    def gated_sum(self, x: int, other: int, gate: int) -> int:
        return self._program.gated_sum(x, other, gate)

    # Running

    @torch.no_grad()
    def refresh(self) -> None:
        super().refresh()
        self._given = [make()[None].float() for make in self._constants]
        for op, embedding in self._embeddings:
            self._program.set_conv(op, array(embedding.weight), NOTHING)

    def run(self, x: Tensor, cond: Tensor, memory: Sequence[Tensor] = ()) -> list[Tensor]:
        """All outputs [N,...] for x [N,C,h,w], cond [N,E], memory of past frames [N,T,2*C,h,w]."""
        return self._forward(partial(self._program.run, **_looked_at(memory)), self._inputs(x), self.modulation(cond))[
            0
        ]

    def remember(self, x: Tensor, cond: Tensor, memory: Sequence[Tensor] = ()) -> Memory:
        """What the looks of such frames offer to the future: [N,2*C,h,w]."""
        own = [torch.empty(len(x), *shape) for shape in self._look_shapes]
        run = partial(self._program.remember, **_looked_at(memory))
        self._hand_over(run, self._inputs(x), self.modulation(cond), own)
        return own

    def _inputs(self, x: Tensor) -> list[Tensor]:
        return [x, *(given.expand(len(x), -1, -1, -1) for given in self._given)]


def _looked_at(memory: Sequence[Tensor]) -> dict[str, Any]:
    past = memory[0].size(1) if memory else 0
    return {"memories": [array(x) for x in memory] if past else [], "past": past}


class MemoryPrograms:
    """A network's ``encode``, ``remember`` and ``recall`` as compiled programs. What is remembered has its own form.

    Args:
        network: a ``WalkingMemory``, whose weights are used.
        dtype: what programs store activations in: bfloat16 or float32.
        options: of the programs.
    """

    def __init__(self, network: Any, dtype: torch.dtype, **options: Any):
        self._source = network
        self._options = {"dtype": dtype, **options}
        self._copies = WeightCopies(network, torch.float32)  # of the conditioning
        self._programs: dict[tuple[str, torch.Size], MemoryProgram] = {}  # by walk and size

    def refresh(self) -> None:
        """Takes the weights as they are now, in place."""
        self._copies.refresh(self._source)
        for program in self._programs.values():
            program.refresh()

    def encode(self, frames: Tensor, act: Tensor) -> Memory:
        """As the twin's, frames [M,C,H,W] -> [M,2*C,h,w]."""
        network, x = self._copies.network, self._source.as_map(frames)
        cond = network.past_conditioning(act)
        if hasattr(self._source, "walk_encoder"):
            return self._program("walk_encoder", x).run(x, cond)
        return self._program("walk_recall", x).remember(x, cond)

    def remember(self, frames: Tensor, act: Tensor) -> Memory:
        """As the twin's, frames [N,T,C,H,W] -> [N,T,2*C,h,w]: each frame sees those before it."""
        own: list[Memory] = []  # frame by frame
        for frame, at in zip(frames.unbind(1), act.unbind(1), strict=True):
            x = self._source.as_map(frame)
            cond = self._copies.network.past_conditioning(at)
            own.append(self._program("walk_recall", x).remember(x, cond, _joined(own)))
        return _joined(own)

    def recall(self, noisy_next_obs: Tensor, c_noise: Tensor, memory: Memory, act: Tensor) -> Tensor:
        """As the twin's."""
        x = self._source.as_map(noisy_next_obs)
        cond = self._copies.network.next_conditioning(c_noise, act)
        (output,) = self._program("walk_recall", x).run(x, cond, memory)
        return self._source.as_frames(output, *noisy_next_obs.shape[-2:])

    def _program(self, walk: str, x: Tensor) -> MemoryProgram:
        key = (walk, x.shape[1:])
        if key not in self._programs:
            height, width = x.shape[-2:]
            self._programs[key] = MemoryProgram(
                getattr(self._source, walk), x.size(1), (height, width), **self._options
            )
        return self._programs[key]


def _joined(own: list[Memory]) -> Memory:
    """Of T frames [N,2*C,h,w] -> [N,T,2*C,h,w]."""
    return [torch.stack(x, dim=1) for x in zip(*own, strict=True)]
