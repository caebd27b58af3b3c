"""A U-Net of the noisy frame alone; what it knows of the past it looks up in past frames' features (appendix M).

Shapes: N batch, T past frames, M frames to encode, C channels, H x W pixels, P positions, E conditioning channels.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.blocks import (
    ActionEmbedding,
    Downsample,
    FourierFeatures,
    GroupNorm,
    ResBlock,
    ResBlocks,
    Upsample,
    conv1x1,
    conv3x3,
)
from diamond_fast.networks.config import num_heads
from diamond_fast.networks.cross_attention import walk
from diamond_fast.networks.cross_attention.config import CrossAttentionConfig
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.networks.levels import first_looking, padded
from diamond_fast.networks.memory import FrameByFrameNetwork, Memory, heads_of, joined_frames, places
from diamond_fast.networks.memory_walk import MemoryBackend, Value, WalkOverFrames
from diamond_fast.networks.unet.model import UNet
from diamond_fast.spec import Spec

MOST_POSITIONS = 256
"""Levels with more positions do not look at the past: the cost of looking grows with the square of their number."""


class CrossAttention2d(nn.Module):
    """Positions of a feature map look at all positions of all past frames, with heads of 8 channels.

    Keys and values are tensors [N,T,heads,P,2*C/heads]. Only here, in the keys, does a frame's age count. The output
    projection starts at zero.
    """

    def __init__(self, channels: int, past_channels: int, context: int):
        super().__init__()
        self.num_heads = num_heads(channels)
        self.norm = GroupNorm(channels)
        self.norm_past = GroupNorm(past_channels)
        self.q_proj = conv1x1(channels, channels)
        self.kv_proj = nn.Linear(past_channels, 2 * channels)
        self.age_emb = nn.Embedding(context, channels)
        self.out_proj = conv1x1(channels, channels)
        for parameter in self.out_proj.parameters():
            nn.init.zeros_(parameter)

    def keys_and_values(self, past: Tensor) -> Tensor:
        """Features of past frames [M,C',h,w] -> [M,heads,P,2*C/heads]."""
        _, c, h, w = past.shape
        k, v = self.kv_proj(self.norm_past(past).flatten(2).mT + places(h, w, c, past.device)).chunk(2, dim=-1)
        return torch.cat((heads_of(k, self.num_heads), heads_of(v, self.num_heads)), dim=-1)

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """x [N,C,h,w], past [N,T,heads,P,2*C/heads] -> [N,C,h,w]."""
        _, c, h, w = x.shape
        q = self.q_proj(self.norm(x) + places(h, w, c, x.device).mT.unflatten(1, (h, w)))
        k, v = past.chunk(2, dim=-1)
        k = k + self.age_emb.weight.unflatten(1, (self.num_heads, 1, -1)).to(k.dtype)
        q = heads_of(q.flatten(2).mT.contiguous(), self.num_heads)  # of other strides torch makes all scores at once
        y = F.scaled_dot_product_attention(q, joined_frames(k), joined_frames(v))
        return x + self.out_proj(y.transpose(2, 3).reshape(x.shape))


class FrameEncoder(nn.Module):
    """A U-Net whose way up ends at the finest level that is looked at.

    Args:
        cfg: its levels.
        img_channels: of a frame.
        first: that finest level.
    """

    def __init__(self, cfg: CrossAttentionConfig, img_channels: int, first: int):
        super().__init__()
        depths, channels, cond = cfg.encoder_depths, cfg.encoder_channels, cfg.cond_channels
        self.conv_in = conv3x3(img_channels, channels[0])
        self.d_blocks = nn.ModuleList(
            ResBlocks([above] + [c] * (depth - 1), [c] * depth, cond, attn=False)
            for depth, above, c in zip(depths, (channels[0], *channels), channels, strict=False)
        )
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(c) for c in channels[:-1])])
        self.mid_block = ResBlock(channels[-1], channels[-1], cond, attn=True)
        levels = list(range(len(channels) - 2, first - 1, -1))
        self.upsamples = nn.ModuleList(Upsample(channels[i + 1]) for i in levels)
        self.u_blocks = nn.ModuleList(
            ResBlock(channels[i + 1] + channels[i], channels[i], cond, attn=False) for i in levels
        )

    def forward(self, frames: Tensor, cond: Tensor) -> list[Tensor]:
        """frames [M,C,H,W], cond [M,E] -> features of the levels that are looked at, the finest first."""
        x = self.conv_in(padded(frames, len(self.d_blocks)))
        skips = []
        for blocks, down in zip(self.d_blocks, self.downsamples, strict=True):
            x = blocks(down(x), cond)[-1]
            skips.append(x)
        features = [self.mid_block(x, cond)]
        for block, up, skip in zip(self.u_blocks, self.upsamples, skips[-2::-1], strict=False):
            features.append(block(torch.cat((up(features[-1]), skip), dim=1), cond))
        return features[::-1]


class CrossAttentionNetwork(WalkOverFrames, FrameByFrameNetwork):
    """F(c_in x, c_noise, past frames, past actions) of the noisy frame's U-Net and the past frames' encoder.

    The U-Net is told the last action, the encoder that of its frame. Levels look at the past behind their blocks, on
    the way down and on the way up.
    """

    def __init__(self, cfg: CrossAttentionConfig, spec: Spec):
        super().__init__()
        self.spec = spec
        self.first = first_looking(spec.frame, len(cfg.channels), MOST_POSITIONS)
        self.noise_emb = FourierFeatures(cfg.cond_channels)
        self.act_emb = ActionEmbedding(spec.action, cfg.cond_channels)
        self.cond_proj = nn.Sequential(
            nn.Linear(cfg.cond_channels, cfg.cond_channels),
            nn.SiLU(),
            nn.Linear(cfg.cond_channels, cfg.cond_channels),
        )
        self.encoder = FrameEncoder(cfg, spec.frame.channels, self.first)
        self.encoder_act_emb = ActionEmbedding(spec.action, cfg.cond_channels)
        self.conv_in = conv3x3(spec.frame.channels, cfg.channels[0])
        self.unet = UNet(cfg.cond_channels, cfg.depths, cfg.channels, cfg.attn_depths)
        levels = range(self.first, len(cfg.channels))
        above = (cfg.channels[0], *cfg.channels)
        self.d_looks, self.u_looks = (
            nn.ModuleList(CrossAttention2d(widths[i], cfg.encoder_channels[i], spec.context) for i in levels)
            for widths in (cfg.channels, above)
        )
        self.norm_out = GroupNorm(cfg.channels[0])
        self.conv_out = conv3x3(cfg.channels[0], spec.frame.channels)
        nn.init.zeros_(self.conv_out.weight)

    def encode(self, frames: Tensor, act: Tensor) -> Memory:
        features = self.encoder(frames, self.past_conditioning(act))
        return [
            cast(CrossAttention2d, look).keys_and_values(level)
            for looks in (self.d_looks, self.u_looks)
            for look, level in zip(looks, features, strict=True)
        ]

    def recall(self, noisy_next_obs: Tensor, c_noise: Tensor, memory: Memory, act: Tensor) -> Tensor:
        cond = self.next_conditioning(c_noise, act)
        unet, (h, w) = self.unet, noisy_next_obs.shape[-2:]
        x = self.conv_in(padded(noisy_next_obs, len(unet.d_blocks)))
        below = len(unet.d_blocks) - self.first  # levels that look
        down_memory, up_memory = iter(memory[:below]), iter(memory[: below - 1 : -1])

        skips = []  # per level, as in UNet, but for the last block's output, which has looked at the past
        for level, (blocks, down) in enumerate(zip(unet.d_blocks, unet.downsamples, strict=True)):
            x = down(x)
            skips.append([x, *blocks(x, cond)])
            if level >= self.first:
                skips[-1][-1] = self.d_looks[level - self.first](skips[-1][-1], next(down_memory))
            x = skips[-1][-1]

        x = unet.mid_blocks(x, cond)[-1]

        for i, (blocks, up) in enumerate(zip(unet.u_blocks, unet.upsamples, strict=True)):
            x = blocks(up(x), cond, skips.pop()[::-1])[-1]
            if i < below:
                x = self.u_looks[below - 1 - i](x, next(up_memory))

        return self.conv_out(F.silu(self.norm_out(x[..., :h, :w])))

    def past_conditioning(self, act: Tensor) -> Tensor:
        with outside_autocast(act.device):
            return self.encoder_act_emb(act)

    def walk_encoder(self, backend: MemoryBackend[Value], x: Value) -> list[Value]:
        """What is remembered of a frame, for each look in the order of ``walk_recall``."""
        return walk.encoder(backend, self, x)

    def walk_recall(self, backend: MemoryBackend[Value], x: Value) -> Value:
        return walk.recall(backend, self, x)
