"""Building blocks shared by the three networks (paper, appendix C).

Shapes: N batch, C channels, H x W pixels, E conditioning channels. Parameter names equal the published ones,
so that published checkpoints load as they are.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.config import num_groups, num_heads
from diamond_fast.spec import Action

NORM_EPS = 1e-5


class ActionEmbedding(nn.Embedding):
    """Actions as vectors: a row of the weight for a discrete one, else the product with it. [...] -> [...,E].

    Both agree on one-hot actions. An action of zeros, as padding has it, is embedded to zero by the product.
    """

    def __init__(self, action: Action, width: int):
        super().__init__(action.n, width)
        self._product = action.shape != ()

    def forward(self, act: Tensor) -> Tensor:
        return act.to(self.weight.dtype) @ self.weight if self._product else super().forward(act)


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=1)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)


class GroupNorm(nn.Module):
    """Group normalisation with learned weight and bias. [N,C,H,W] -> [N,C,H,W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups(channels), channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class AdaGroupNorm(nn.Module):
    """Group normalisation whose scale and shift are linear in the conditioning: norm(x) * (1 + scale) + shift.

    x [N,C,H,W], cond [N,E] -> [N,C,H,W].
    """

    def __init__(self, channels: int, cond_channels: int):
        super().__init__()
        self.num_groups = num_groups(channels)
        self.linear = nn.Linear(cond_channels, 2 * channels)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        scale, shift = self.linear(cond)[:, :, None, None].chunk(2, dim=1)
        return F.group_norm(x, self.num_groups, eps=NORM_EPS) * (1 + scale) + shift


class SelfAttention2d(nn.Module):
    """Multi-head self-attention over the H*W positions, with heads of 8 channels. [N,C,H,W] -> [N,C,H,W].

    The residual is taken after the normalisation, as in the published networks. The output projection starts at zero.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.num_heads = num_heads(channels)
        if channels % self.num_heads:
            raise ValueError(f"channels: attention needs a multiple of {self.num_heads} heads, got {channels} channels")
        self.norm = GroupNorm(channels)
        self.qkv_proj = conv1x1(channels, 3 * channels)
        self.out_proj = conv1x1(channels, channels)
        for parameter in self.out_proj.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = self.norm(x)
        # [N, 3C, H, W] -> q, k, v, each [N, heads, H*W, C/heads]
        q, k, v = self.qkv_proj(x).reshape(n, 3, self.num_heads, c // self.num_heads, h * w).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out_proj(y.transpose(2, 3).reshape(n, c, h, w))


class FourierFeatures(nn.Module):
    """[cos, sin](2 pi * c_noise * w) with fixed random frequencies w. c_noise [N] -> [N,E]."""

    weight: Tensor

    def __init__(self, cond_channels: int):
        super().__init__()
        if cond_channels % 2:
            raise ValueError(f"cond_channels: must be even, got {cond_channels}")
        self.register_buffer("weight", torch.randn(1, cond_channels // 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        phase = 2 * math.pi * c_noise[:, None] * self.weight  # no matrix product, which TF32 and autocast would round
        return torch.cat((phase.cos(), phase.sin()), dim=-1)


class Downsample(nn.Module):
    """Halves height and width with a 3x3 convolution of stride 2 (orthogonal initialisation)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels, stride=2)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class SmallResBlock(nn.Module):
    """Unconditioned residual block of the actor-critic: x' + conv(silu(norm(x))). [N,C,H,W] -> [N,C',H,W]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.f = nn.Sequential(GroupNorm(in_channels), nn.SiLU(), conv3x3(in_channels, out_channels))
        same = in_channels == out_channels
        self.skip_projection = nn.Identity() if same else conv1x1(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip_projection(x) + self.f(x)


class ResBlock(nn.Module):
    """Conditioned residual block, with attention behind it if asked. x [N,C,H,W], cond [N,E] -> [N,C',H,W].

    The last convolution's weight starts at zero, so that a new block passes its input on.
    """

    def __init__(self, in_channels: int, out_channels: int, cond_channels: int, attn: bool):
        super().__init__()
        same = in_channels == out_channels
        self.proj = nn.Identity() if same else conv1x1(in_channels, out_channels)
        self.norm1 = AdaGroupNorm(in_channels, cond_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.norm2 = AdaGroupNorm(out_channels, cond_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.attn = SelfAttention2d(out_channels) if attn else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        r = self.proj(x)
        x = self.conv1(F.silu(self.norm1(x, cond)))
        x = self.conv2(F.silu(self.norm2(x, cond)))
        return self.attn(x + r)


class ResBlocks(nn.Module):
    """A level's residual blocks in sequence; block i first concatenates ``skips[i]`` to its input, if given.

    Returns the outputs of all blocks; the last one is the level's output.
    """

    def __init__(self, in_channels: list[int], out_channels: list[int], cond_channels: int, attn: bool):
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResBlock(c_in, c_out, cond_channels, attn) for c_in, c_out in zip(in_channels, out_channels, strict=True)
        )

    def forward(self, x: Tensor, cond: Tensor, skips: list[Tensor] | None = None) -> list[Tensor]:
        outputs = []
        for i, block in enumerate(self.resblocks):
            x = block(x if skips is None else torch.cat((x, skips[i]), dim=1), cond)
            outputs.append(x)
        return outputs


def init_lstm(lstm: nn.LSTM | nn.LSTMCell) -> None:
    """Xavier input weights, orthogonal recurrent ones, zero biases but for 1 on the input side's forget gate."""
    for name, p in lstm.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(p)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(p)
        else:
            nn.init.zeros_(p)
            if name.startswith("bias_ih"):  # gates are stored as input, forget, cell, output
                quarter = p.numel() // 4
                nn.init.ones_(p.data[quarter : 2 * quarter])
