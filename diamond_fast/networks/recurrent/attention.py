"""Attention over the last steps, with what they were asked for kept."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.recurrent.config import MemoryConfig, num_heads
from diamond_fast.networks.recurrent.layer import RecurrentLayer


class AttentionLayer(RecurrentLayer):
    """x + out(attention(x over the last K steps)), then a small network on each step alone.

    How old a step is adds a learned number to its score, one a head. Steps that are padding are not looked at. It
    remembers keys and values of the last K - 1 steps and, for each, 1 if there is one.
    """

    def __init__(self, cfg: MemoryConfig):
        super().__init__()
        self.heads, self.past = num_heads(cfg.width), cfg.window - 1
        self.width = cfg.width
        self.state_width = self.past * (2 * cfg.width + 1)
        self.norm = nn.RMSNorm(cfg.width, eps=1e-5)
        self.qkv = nn.Linear(cfg.width, 3 * cfg.width)
        self.age = nn.Parameter(torch.zeros(self.heads, cfg.window))
        self.out = nn.Linear(cfg.width, cfg.width)
        self.mlp = nn.Sequential(
            nn.RMSNorm(cfg.width, eps=1e-5),
            nn.Linear(cfg.width, 2 * cfg.width),
            nn.SiLU(),
            nn.Linear(2 * cfg.width, cfg.width),
        )

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        length = x.size(1)
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        now = torch.arange(length, device=x.device)
        age = now[:, None] - now
        # A step looks at itself even if it is padding: of nothing there is no mean.
        seen = (age >= 0) & (age <= self.past) & (real[:, None] | (age == 0))
        by_age = self.age.index_select(1, age.clamp(0, self.past).flatten()).unflatten(1, (length, length))
        scores = torch.where(seen[:, None], by_age, -torch.inf)
        y = self._attend(x, q, k, v, scores)
        kept = torch.cat((k, v, real[..., None].to(x.dtype)), dim=-1).detach() * real[..., None]
        kept = F.pad(kept, (0, 0, self.past, 0))[:, length:]
        return y, kept.flatten(1)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(self.norm(x[:, None])).chunk(3, dim=-1)
        now = torch.cat((k, v, torch.ones_like(k[..., :1])), dim=-1)
        kept = torch.cat((state.view(len(x), self.past, 2 * self.width + 1), now), dim=1)
        *pair, real = kept.split((self.width, self.width, 1), dim=-1)
        k, v = (part.contiguous() for part in pair)  # a GPU's kernels take rows that begin at multiples of 16 bytes
        scores = torch.where(real[:, None, None, :, 0] > 0, self.age.flip(1)[:, None], -torch.inf)
        return self._attend(x[:, None], q, k, v, scores)[:, 0], kept[:, 1:].flatten(1)

    def _attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> Tensor:
        """q [N,L,D], k, v [N,M,D], scores [N,heads,L,M] to add -> [N,L,D]."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=scores)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(x)
