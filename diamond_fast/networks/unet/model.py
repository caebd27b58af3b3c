"""The denoiser's network F: a U-Net conditioned on noise level and past actions (paper, appendix C)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.networks.backend import Backend, Value
from diamond_fast.networks.blocks import (
    ActionEmbedding,
    Downsample,
    FourierFeatures,
    GroupNorm,
    ResBlocks,
    Upsample,
    conv3x3,
)
from diamond_fast.networks.exact import outside_autocast
from diamond_fast.networks.unet import walk
from diamond_fast.networks.unet.config import InnerModelConfig
from diamond_fast.networks.unet.from_weights import read_config, read_spec
from diamond_fast.spec import Spec


class UNet(nn.Module):
    """U-Net over any height and width: the input is padded right and bottom, the output cropped.

    x [N,C0,H,W], cond [N,E] -> [N,C0,H,W].
    """

    def __init__(
        self, cond_channels: int, depths: tuple[int, ...], channels: tuple[int, ...], attn_depths: tuple[int, ...]
    ):
        super().__init__()
        if not len(depths) == len(channels) == len(attn_depths) > 0:
            raise ValueError(
                f"depths, channels, attn_depths: need one entry per level each, got {depths}, {channels}, {attn_depths}"
            )
        self.multiple = 2 ** (len(channels) - 1)  # the deepest level halves the size this often

        d_blocks, u_blocks = [], []
        for depth, c_above, c, attn in zip(depths, (channels[0], *channels), channels, attn_depths, strict=False):
            d_blocks.append(ResBlocks([c_above] + [c] * (depth - 1), [c] * depth, cond_channels, bool(attn)))
            u_in, u_out = [2 * c] * depth + [c_above + c], [c] * depth + [c_above]
            u_blocks.append(ResBlocks(u_in, u_out, cond_channels, bool(attn)))
        self.d_blocks = nn.ModuleList(d_blocks)
        self.u_blocks = nn.ModuleList(reversed(u_blocks))
        self.mid_blocks = ResBlocks([channels[-1]] * 2, [channels[-1]] * 2, cond_channels, attn=True)
        self.downsamples = nn.ModuleList([nn.Identity(), *(Downsample(c) for c in channels[:-1])])
        self.upsamples = nn.ModuleList([nn.Identity(), *(Upsample(c) for c in reversed(channels[:-1]))])

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        x = F.pad(x, (0, -w % self.multiple, 0, -h % self.multiple))

        skips = []  # per level: the downsampled input, then every block's output
        for blocks, down in zip(self.d_blocks, self.downsamples, strict=True):
            x = down(x)
            skips.append([x, *blocks(x, cond)])
            x = skips[-1][-1]

        x = self.mid_blocks(x, cond)[-1]

        for blocks, up, level_skips in zip(self.u_blocks, self.upsamples, reversed(skips), strict=True):
            x = blocks(up(x), cond, level_skips[::-1])[-1]

        return x[..., :h, :w]


class InnerModel(nn.Module):
    """F_theta(c_in x, c_noise, past frames / sigma_data, past actions) of equation 5.

    A world without actions has no embedding of them. With a memory the network is told what that says in their place:
    ``act`` is [N,spec.memory] then, of one linear map.
    """

    def __init__(self, cfg: InnerModelConfig, spec: Spec):
        super().__init__()
        self.spec = spec
        channels, context = spec.frame.channels, spec.context
        self.noise_emb = FourierFeatures(cfg.cond_channels)
        self.noise_cond_emb = FourierFeatures(cfg.cond_channels) if cfg.context_noise else None
        self.memory_emb = nn.Linear(spec.memory, cfg.cond_channels) if spec.memory else None
        self.act_emb = None
        if spec.action.n and not spec.memory:
            width = -(-cfg.cond_channels // context)
            self.act_emb = nn.Sequential(
                ActionEmbedding(spec.action, width),
                nn.Flatten(),  # the embeddings of the context's actions, concatenated
            )
            if context * width != cfg.cond_channels:  # the published layout needs a multiple
                self.act_emb.append(nn.Linear(context * width, cfg.cond_channels))
        self.cond_proj = nn.Sequential(
            nn.Linear(cfg.cond_channels, cfg.cond_channels),
            nn.SiLU(),
            nn.Linear(cfg.cond_channels, cfg.cond_channels),
        )
        self.conv_in = conv3x3((context + 1) * channels, cfg.channels[0])
        self.unet = UNet(cfg.cond_channels, cfg.depths, cfg.channels, cfg.attn_depths)
        self.norm_out = GroupNorm(cfg.channels[0])
        self.conv_out = conv3x3(cfg.channels[0], channels)
        nn.init.zeros_(self.conv_out.weight)

    @classmethod
    def like(cls, weights: Mapping[str, Tensor]) -> "InnerModel":
        """A network that such weights fit. Raises LookupError, ArithmeticError, ValueError if none does."""
        cfg = read_config(weights)
        return cls(cfg, read_spec(cfg, weights))

    @property
    def conditioning_modules(self) -> tuple[str, ...]:
        """Names of the modules behind ``conditioning``."""
        names = ("noise_emb", "noise_cond_emb", "memory_emb", "act_emb", "cond_proj")
        return tuple(name for name in names if getattr(self, name) is not None)

    def forward(
        self, noisy_next_obs: Tensor, c_noise: Tensor, obs: Tensor, act: Tensor, c_noise_cond: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            noisy_next_obs: [N,C,H,W], already scaled by c_in.
            c_noise: [N] or [1].
            obs: [N,T*C,H,W] context frames, oldest first, already divided by sigma_data.
            act: [N,T,...], the actions taken at them; or what the memory says.
            c_noise_cond: [N] or [1], what it is told of the noise in obs; None: 0, as where there is none.

        Returns:
            [N,C,H,W].
        """
        return self.body(torch.cat((obs, noisy_next_obs), dim=1), self.conditioning(c_noise, act, c_noise_cond))

    def conditioning(self, c_noise: Tensor, act: Tensor, c_noise_cond: Tensor | None = None) -> Tensor:
        """What all adaptive norms see.

        Args:
            c_noise: noise levels [N], [1], or S of either [S,N], [S,1].
            act: [N,T,...], or what the memory says.
            c_noise_cond: of the context, [N] or [1]; None: 0. The embedding of 0 is no zero: it is always added.

        Returns:
            [N,E] or [S,N,E].

        Raises:
            ValueError: the network was not made to be told of noise in the context.
        """
        if c_noise_cond is not None and self.noise_cond_emb is None:
            raise ValueError("c_noise_cond: this network knows no noise in its context (context_noise)")
        with outside_autocast(act.device):  # so that training sees what sampling computes
            cond = self.noise_emb(c_noise.flatten()).unflatten(0, c_noise.shape)
            if self.noise_cond_emb is not None:
                cond = cond + self.noise_cond_emb(c_noise.new_zeros(1) if c_noise_cond is None else c_noise_cond)
            past = self.act_emb if self.memory_emb is None else self.memory_emb
            cond = cond.expand(*c_noise.shape[:-1], len(act), -1) if past is None else cond + past(act)
            return self.cond_proj(cond)

    def body(self, x: Tensor, cond: Tensor) -> Tensor:
        """x [N,(T+1)*C,H,W] context and noisy frame, cond [N,E] -> [N,C,H,W]."""
        x = self.unet(self.conv_in(x), cond)
        return self.conv_out(F.silu(self.norm_out(x)))

    def walk(self, backend: Backend[Value], x: Value) -> Value:
        """The same as fused operations; x is the preconditioned input, concatenated."""
        return walk.inner_model(backend, self, x)
