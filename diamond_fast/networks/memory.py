"""Networks that make something of the past frames once, and remember it for all denoising steps of the next one.

What is remembered depends on past frames and on the actions taken at them alone, not on the noisy frame.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

Memory = list[Tensor]
"""Keys and values [N,T,...] of contexts, or [M,...] of M frames: one tensor for each attention that reads them."""


class MemoryNetwork(nn.Module, ABC):
    """A denoiser's network in two halves: ``remember`` what was, ``recall`` it for the next frame."""

    @abstractmethod
    def remember(self, frames: Tensor, act: Tensor) -> Memory:
        """Past frames [N,T,C,H,W] in the scale of a context, actions taken at them [N,T,...] -> tensors [N,T,...]."""

    @abstractmethod
    def recall(self, noisy_next_obs: Tensor, c_noise: Tensor, memory: Memory, act: Tensor) -> Tensor:
        """
        Args:
            noisy_next_obs: [N,C,H,W], already scaled by c_in.
            c_noise: [N] or [1].
            memory: of the T past frames, oldest first: tensors [N,T,...].
            act: [N,...] the action that leads to the next frame.

        Returns:
            [N,C,H,W].
        """

    def forward(self, noisy_next_obs: Tensor, c_noise: Tensor, obs: Tensor, act: Tensor) -> Tensor:
        """noisy_next_obs [N,C,H,W], c_noise [N] or [1], obs [N,T*C,H,W], act [N,T,...] -> [N,C,H,W]."""
        memory = self.remember(obs.unflatten(1, (act.size(1), -1)), act)
        return self.recall(noisy_next_obs, c_noise, memory, act[:, -1])


class FrameByFrameNetwork(MemoryNetwork):
    """What is remembered of a frame depends on that frame and on the action taken at it alone, not on its age.

    So it holds for as long as the frame is in the context: each has to be encoded once only.
    """

    @abstractmethod
    def encode(self, frames: Tensor, act: Tensor) -> Memory:
        """Past frames [M,C,H,W] in the scale of a context, actions taken at them [M,...] -> tensors [M,...]."""

    def remember(self, frames: Tensor, act: Tensor) -> Memory:
        return [x.unflatten(0, act.shape[:2]) for x in self.encode(frames.flatten(0, 1), act.flatten(0, 1))]


def heads_of(x: Tensor, num_heads: int) -> Tensor:
    """[...,P,C] -> [...,heads,P,C/heads]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-2, -3)


def joined_frames(past: Tensor) -> Tensor:
    """Keys or values [N,T,heads,P,D] of T frames -> [N,heads,T*P,D]."""
    return past.transpose(1, 2).flatten(2, 3)


def places(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Fixed sines and cosines that tell positions apart (Vaswani et al. 2017, in two dimensions): [H*W,C] float32.

    The first half of the channels tells the row, the second the column.
    """
    quarter = -(-channels // 4)
    frequencies = 10_000 ** -(torch.arange(quarter, device=device) / quarter)

    def waves(length: int) -> Tensor:
        phase = torch.arange(length, device=device)[:, None] * frequencies
        return torch.cat((phase.sin(), phase.cos()), dim=1)

    rows, columns = waves(height)[:, None], waves(width)[None]
    both = torch.cat((rows.expand(height, width, -1), columns.expand(height, width, -1)), dim=-1)
    return both.flatten(0, 1)[:, :channels]
