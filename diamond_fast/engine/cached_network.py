"""A network that remembers past frames: none is encoded more often than need be. The twin is its ``forward``."""

from typing import cast

import torch
from torch import Tensor

from diamond_fast.engine.autocast_network import AutocastNetwork
from diamond_fast.engine.memory_program import MemoryPrograms
from diamond_fast.networks.memory import FrameByFrameNetwork, Memory, MemoryNetwork

Conditioning = tuple[Tensor, Tensor, Memory]
"""Level [N], actions [N,T,...], and what is remembered of the context: one list for all steps of a frame."""


class RememberedFrames:
    """Past frames are encoded once for all denoising steps.

    On a CPU a frame that was in the context before is not encoded again at all, if each is encoded by itself. A GPU is
    not asked whether it was.

    Args:
        network: whose past frames they are.
        encoder: what encodes them: the network, or its compiled programs.
    """

    def __init__(self, network: MemoryNetwork, encoder: MemoryNetwork | MemoryPrograms):
        self._one_by_one = isinstance(network, FrameByFrameNetwork)
        self._encoder = encoder
        self._before: tuple[Tensor, Tensor, Memory] | None = None  # the last contexts, their actions, and their memory

    def forget(self) -> None:
        """Forgets what other weights have made of past frames."""
        self._before = None

    def conditioning(self, levels: Tensor, act: Tensor) -> list[Conditioning]:
        """For all noise levels of a frame."""
        memory: Memory = []  # filled at the first step
        return [(level.expand(len(act)), act, memory) for level in levels]

    def fill(self, memory: Memory, context: Tensor, act: Tensor) -> None:
        """At a frame's first step: context [N,T*C,H,W], act [N,T,...] -> tensors [N,T,...]."""
        if not memory:
            memory += self._remembered(context.unflatten(1, (act.size(1), -1)), act)

    def _remembered(self, frames: Tensor, act: Tensor) -> Memory:
        if frames.device.type != "cpu" or not self._one_by_one:  # few launches
            return self._encoder.remember(frames, act)
        encode = cast(FrameByFrameNetwork | MemoryPrograms, self._encoder).encode
        if self._before is not None and _went_on(*self._before[:2], frames, act):
            newest = encode(frames[:, -1], act[:, -1])
            memory = [torch.cat((x[:, 1:], y[:, None]), 1) for x, y in zip(self._before[2], newest, strict=True)]
        else:  # moment by moment: as many frames at a time as when the newest is added, so that it makes no difference
            moments = zip(frames.unbind(1), act.unbind(1), strict=True)
            memory = [torch.stack(x, 1) for x in zip(*(encode(*moment) for moment in moments), strict=True)]
        self._before = frames.clone(), act.clone(), memory  # the caller may write the next ones in their place
        return memory


class CachedNetwork(AutocastNetwork):
    """The network's own operations, with past frames remembered.

    Args:
        network: whose weights are used.
        device, dtype: where and in what it runs.
    """

    def __init__(self, network: MemoryNetwork, device: torch.device, dtype: torch.dtype):
        super().__init__(network, device, dtype)
        self._memory_network = network
        self._past = RememberedFrames(network, network)

    def refresh(self) -> None:
        """Forgets what other weights have made of past frames."""
        self._past.forget()

    def conditioning(self, levels: Tensor, act: Tensor, *context_level: Tensor) -> list[Conditioning]:
        return self._past.conditioning(levels, act)

    def evaluate(self, network_input: tuple[Tensor, Tensor], conditioning: Conditioning) -> Tensor:
        (x, context), (level, act, memory) = network_input, conditioning
        with self.autocast():
            self._past.fill(memory, context, act)
            return self._memory_network.recall(x, level, memory, act[:, -1]).float()


class CachedProgramNetwork:
    """The same as compiled programs on a CPU.

    Args:
        network: with walks (``networks/memory_walk.py``), whose weights are used.
        dtype: what programs store activations in: bfloat16 or float32.
    """

    def __init__(self, network: MemoryNetwork, dtype: torch.dtype):
        self._programs = MemoryPrograms(network, dtype)
        self._past = RememberedFrames(network, self._programs)

    def refresh(self) -> None:
        """Takes the weights as they are now, and forgets what others have made of past frames."""
        self._programs.refresh()
        self._past.forget()

    def conditioning(self, levels: Tensor, act: Tensor, *context_level: Tensor) -> list[Conditioning]:
        return self._past.conditioning(levels, act)

    def evaluate(self, network_input: tuple[Tensor, Tensor], conditioning: Conditioning) -> Tensor:
        (x, context), (level, act, memory) = network_input, conditioning
        self._past.fill(memory, context, act)
        return self._programs.recall(x, level, memory, act[:, -1])


def _went_on(frames_before: Tensor, act_before: Tensor, frames: Tensor, act: Tensor) -> bool:
    """Whether contexts are those before, one step later."""
    same_sizes = frames_before.shape == frames.shape and act_before.shape == act.shape
    return (
        same_sizes and torch.equal(frames_before[:, 1:], frames[:, :-1]) and torch.equal(act_before[:, 1:], act[:, :-1])
    )
