"""A U-Net over space and time (Çiçek et al. 2016, Ho et al. 2022) as a world model: past frames are clean.

A block of frames, the past ones and the noisy next one, goes through one U-Net frame by frame; attention over time ties
them together. Each frame is told its own noise level. A frame looks at itself and at those before it, never ahead: so
what is made of the past is the same at every denoising step.

Shapes: N batch, S frames before, T frames, C channels, H x W pixels, E conditioning channels.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.blocks import ActionEmbedding, FourierFeatures, GroupNorm, conv1x1, conv3x3
from diamond_fast.networks.config import num_heads
from diamond_fast.networks.exact import at_least_float32, outside_autocast
from diamond_fast.networks.levels import first_looking, padded
from diamond_fast.networks.memory import Memory, MemoryNetwork
from diamond_fast.networks.memory_walk import MemoryBackend, Value, WalkOverFrames
from diamond_fast.networks.unet.model import UNet
from diamond_fast.networks.unet3d import walk
from diamond_fast.networks.unet3d.config import UNet3DConfig
from diamond_fast.spec import Spec

MOST_POSITIONS = 1024
"""Levels with more positions do not look back in time: keys and values of all past frames lie in memory there."""


class TimeAttention2d(nn.Module):
    """Each position of a frame looks at the same one of that frame and of those before it, with heads of 8 channels.

    Time is relative: each head adds a learned number to its scores for each distance. The output projection starts at
    zero, and so do these numbers.
    """

    def __init__(self, channels: int, context: int):
        super().__init__()
        self.num_heads = num_heads(channels)
        self.norm = GroupNorm(channels)
        self.qkv_proj = conv1x1(channels, 3 * channels)
        self.distance_emb = nn.Embedding(context + 1, self.num_heads)
        self.out_proj = conv1x1(channels, channels)
        for parameter in (self.distance_emb.weight, *self.out_proj.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, num_frames: int, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Args:
            x: [N*T,C,h,w] of T consecutive frames.
            num_frames: T.
            past: keys and values [N,S,2*C,h,w] of the frames before them, if there are any.

        Returns:
            [N*T,C,h,w], and x's own keys and values [N,T,2*C,h,w].
        """
        c = x.size(1)
        queries, own = self.qkv_proj(self.norm(x)).unflatten(0, (-1, num_frames)).split((c, 2 * c), dim=2)
        seen = own if past is None else torch.cat((past, own), dim=1)
        before = seen.size(1) - num_frames
        looks = [self._look(queries[:, t], seen[:, : before + t + 1]) for t in range(num_frames)]
        return x + self.out_proj(torch.stack(looks, dim=1).flatten(0, 1)), own

    def _look(self, query: Tensor, seen: Tensor) -> Tensor:
        """query [N,C,h,w], keys and values [N,S,2*C,h,w] up to the query's own -> [N,C,h,w].

        A position has a handful of keys: products and sums over whole maps, where matrices would be too small to pay.
        """
        q = query.unflatten(1, (self.num_heads, -1))  # [N,heads,d,h,w]
        k, v = seen.unflatten(2, (2, self.num_heads, -1)).unbind(2)  # [N,S,heads,d,h,w]
        bias = self.distance_emb.weight[: seen.size(1)].flip(0)[..., None, None]  # the last one is at no distance
        scores = (at_least_float32(q)[:, None] * k).sum(3) / math.sqrt(q.size(2)) + bias
        return (scores.softmax(dim=1).unsqueeze(3) * v).sum(1).flatten(1, 2)


class UNet3D(WalkOverFrames, MemoryNetwork):
    """F(c_in x, c_noise, past frames, past actions): the noisy frame's output of a U-Net over all frames.

    The noisy frame is told its noise level and the last action, a past frame that it is clean and its own action.
    Levels look back in time behind their blocks, on the way down, in the middle and on the way up.
    """

    def __init__(self, cfg: UNet3DConfig, spec: Spec):
        super().__init__()
        self.spec = spec
        self.first = first_looking(spec.frame, len(cfg.channels), MOST_POSITIONS)
        self.noise_emb = FourierFeatures(cfg.cond_channels)
        self.clean_emb = nn.Embedding(1, cfg.cond_channels)  # in the place of a noise level
        self.act_emb = ActionEmbedding(spec.action, cfg.cond_channels)
        self.cond_proj = nn.Sequential(
            nn.Linear(cfg.cond_channels, cfg.cond_channels),
            nn.SiLU(),
            nn.Linear(cfg.cond_channels, cfg.cond_channels),
        )
        self.conv_in = conv3x3(spec.frame.channels, cfg.channels[0])
        self.unet = UNet(cfg.cond_channels, cfg.depths, cfg.channels, cfg.attn_depths)
        levels = range(self.first, len(cfg.channels))
        above = (cfg.channels[0], *cfg.channels)
        self.d_looks = nn.ModuleList(TimeAttention2d(cfg.channels[i], spec.context) for i in levels)
        self.mid_look = TimeAttention2d(cfg.channels[-1], spec.context)
        self.u_looks = nn.ModuleList(TimeAttention2d(above[i], spec.context) for i in reversed(levels))
        self.norm_out = GroupNorm(cfg.channels[0])
        self.conv_out = conv3x3(cfg.channels[0], spec.frame.channels)
        nn.init.zeros_(self.conv_out.weight)

    def remember(self, frames: Tensor, act: Tensor) -> Memory:
        cond = self.past_conditioning(act.flatten(0, 1))
        memory: Memory = []
        self._through(frames.flatten(0, 1), cond, frames.size(1), memory)
        return memory

    def recall(self, noisy_next_obs: Tensor, c_noise: Tensor, memory: Memory, act: Tensor) -> Tensor:
        cond = self.next_conditioning(c_noise, act)
        h, w = noisy_next_obs.shape[-2:]
        x = self._through(noisy_next_obs, cond, 1, [], memory)
        return self.conv_out(F.silu(self.norm_out(x[..., :h, :w])))

    def _through(
        self, frames: Tensor, cond: Tensor, num_frames: int, memory: Memory, past: Memory | None = None
    ) -> Tensor:
        """T consecutive frames through the U-Net.

        Args:
            frames: [N*T,C,H,W]. cond: [N*T,E].
            num_frames: T.
            memory: filled with the keys and values of each attention over time, in the order in which they are asked.
            past: those of the frames before. None: these are the past, and end with the last that the future looks at.

        Returns:
            features [N*T,C',H,W], of padded size.
        """
        unet, before = self.unet, iter(past or ())

        def look(attention: nn.Module, x: Tensor) -> Tensor:
            x, own = cast(TimeAttention2d, attention)(x, num_frames, next(before, None))
            memory.append(own)
            return x

        x, skips = self.conv_in(padded(frames, len(unet.d_blocks))), []
        for level, (blocks, down) in enumerate(zip(unet.d_blocks, unet.downsamples, strict=True)):
            x = down(x)
            skips.append([x, *blocks(x, cond)])
            if level >= self.first:
                skips[-1][-1] = look(self.d_looks[level - self.first], skips[-1][-1])
            x = skips[-1][-1]

        x = look(self.mid_look, unet.mid_blocks(x, cond)[-1])

        for i, (blocks, up) in enumerate(zip(unet.u_blocks, unet.upsamples, strict=True)):
            if i == len(self.u_looks) and past is None:
                break
            x = blocks(up(x), cond, skips.pop()[::-1])[-1]
            if i < len(self.u_looks):
                x = look(self.u_looks[i], x)
        return x

    def past_conditioning(self, act: Tensor) -> Tensor:
        with outside_autocast(act.device):
            return self.cond_proj(self.clean_emb.weight + self.act_emb(act))

    def walk_recall(self, backend: MemoryBackend[Value], x: Value) -> Value:
        return walk.recall(backend, self, x)
