"""A transformer over patches with adaLN-zero (Peebles & Xie 2023), over several frames.

A past frame's patches attend to each other alone, so that their keys and values hold for as long as the frame is in the
context. The noisy frame's attend to them and to those of all past frames. All frames go through the same blocks.

Shapes: N batch, T past frames, M frames to encode, P patches of a frame, D width.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.blocks import NORM_EPS, ActionEmbedding, FourierFeatures
from diamond_fast.networks.dit import walk
from diamond_fast.networks.dit.config import DiTConfig
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.networks.memory import FrameByFrameNetwork, Memory, heads_of, joined_frames, places
from diamond_fast.networks.memory_walk import MemoryBackend, Value
from diamond_fast.spec import Spec

MLP_RATIO = 4


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation of x [N,P,D] whose shift and scale [N,D] depend on the conditioning."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale[:, None]) + shift[:, None]


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer that starts at zero."""
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """x + gate * attention(norm(x)), then the same with a perceptron. Gates, scales and shifts start at zero."""

    def __init__(self, width: int, num_heads: int, context: int):
        super().__init__()
        self.num_heads = num_heads
        self.modulation = zero_linear(width, 6 * width)
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.age_emb = nn.Embedding(context, width)
        self.out_proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.GELU("tanh"), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, x: Tensor, cond: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Args:
            x: [N,P,D]. cond: [N,D], activated.
            past: keys and values [N,T,heads,P,2*D/heads] of past frames that x looks at, too.

        Returns:
            [N,P,D], and x's own keys and values [N,heads,P,2*D/heads].
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(cond).chunk(6, dim=-1)
        qkv = self.qkv_proj(modulated(x, shift, scale)).chunk(3, dim=-1)
        q, k, v = (heads_of(y, self.num_heads) for y in qkv)
        own = torch.cat((k, v), dim=-1)
        if past is not None:
            past_k, past_v = past.chunk(2, dim=-1)
            past_k = past_k + self.age_emb.weight.unflatten(1, (self.num_heads, 1, -1)).to(past_k.dtype)
            k, v = torch.cat((joined_frames(past_k), k), dim=2), torch.cat((joined_frames(past_v), v), dim=2)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + gate[:, None] * self.out_proj(y)
        return x + mlp_gate[:, None] * self.mlp(modulated(x, mlp_shift, mlp_scale)), own


class DiT(FrameByFrameNetwork):
    """F(c_in x, c_noise, past frames, past actions).

    The noisy frame is told its noise level and the last action, a past frame that it is clean and its own action.
    Frames may have any height and width: they are padded right and bottom to whole patches.
    """

    def __init__(self, cfg: DiTConfig, spec: Spec):
        super().__init__()
        if cfg.width % cfg.num_heads:
            raise ValueError(f"width: must be a multiple of num_heads ({cfg.num_heads}), got {cfg.width}")
        self.spec = spec
        self.patch_size = cfg.patch_size
        self.noise_emb = FourierFeatures(cfg.width)
        self.clean_emb = nn.Embedding(1, cfg.width)  # in the place of a noise level
        self.act_emb = ActionEmbedding(spec.action, cfg.width)
        self.cond_proj = nn.Sequential(nn.Linear(cfg.width, cfg.width), nn.SiLU(), nn.Linear(cfg.width, cfg.width))
        patch = spec.frame.channels * cfg.patch_size**2
        self.patch_in = nn.Linear(patch, cfg.width)
        self.blocks = nn.ModuleList(Block(cfg.width, cfg.num_heads, spec.context) for _ in range(cfg.depth))
        self.modulation_out = zero_linear(cfg.width, 2 * cfg.width)
        self.patch_out = zero_linear(cfg.width, patch)

    def encode(self, frames: Tensor, act: Tensor) -> Memory:
        cond = self.past_conditioning(act)
        x, memory = self._patches(frames), []
        for block in self.blocks:
            x, own = cast(Block, block)(x, cond)
            memory.append(own)
        return memory

    def recall(self, noisy_next_obs: Tensor, c_noise: Tensor, memory: Memory, act: Tensor) -> Tensor:
        cond = self.next_conditioning(c_noise, act)
        x = self._patches(noisy_next_obs)
        for block, past in zip(self.blocks, memory, strict=True):
            x, _ = cast(Block, block)(x, cond, past)
        shift, scale = self.modulation_out(cond).chunk(2, dim=-1)
        return self._frames(self.patch_out(modulated(x, shift, scale)), *noisy_next_obs.shape[-2:])

    def past_conditioning(self, act: Tensor) -> Tensor:
        with outside_autocast(act.device):
            return F.silu(self.cond_proj(self.clean_emb.weight + self.act_emb(act)))

    def next_conditioning(self, c_noise: Tensor, act: Tensor) -> Tensor:
        with outside_autocast(act.device):  # so that training sees what sampling computes
            return F.silu(self.cond_proj(self.noise_emb(c_noise) + self.act_emb(act)))

    def as_map(self, frames: Tensor) -> Tensor:
        """[N,C,H,W] -> [N,C*size*size,rows,columns]."""
        size = self.patch_size
        return F.pixel_unshuffle(F.pad(frames, (0, -frames.size(-1) % size, 0, -frames.size(-2) % size)), size)

    def as_frames(self, output: Tensor, height: int, width: int) -> Tensor:
        return F.pixel_shuffle(output, self.patch_size)[..., :height, :width]

    def walk_recall(self, backend: MemoryBackend[Value], x: Value) -> Value:
        return walk.recall(backend, self, x)

    def _patches(self, x: Tensor) -> Tensor:
        """x [M,C,H,W] -> [M,P,D], row by row."""
        size = self.patch_size
        x = F.pad(x, (0, -x.size(-1) % size, 0, -x.size(-2) % size))
        rows, columns = x.size(-2) // size, x.size(-1) // size
        x = x.unflatten(3, (columns, size)).unflatten(2, (rows, size))  # [M,C,rows,size,columns,size]
        tokens = self.patch_in(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        return tokens + places(rows, columns, tokens.size(-1), x.device)

    def _frames(self, patches: Tensor, height: int, width: int) -> Tensor:
        """The inverse: patches [N,P,C*size*size] -> [N,C,H,W]."""
        size = self.patch_size
        grid = (-(-height // size), -(-width // size))
        x = patches.unflatten(2, (-1, size, size)).unflatten(1, grid)  # [N,rows,columns,C,size,size]
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)[..., :height, :width]
