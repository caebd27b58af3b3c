"""Networks run operation by operation with fused kernels: the backend for GPUs, and for CPUs without a better one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_fast.engine.weight_copies import WeightCopies
from diamond_fast.kernels.ada_group_norm_silu import ada_group_norm_silu
from diamond_fast.kernels.bias_residual_stats import bias_residual_stats
from diamond_fast.kernels.dispatch import use_triton
from diamond_fast.kernels.group_norm_silu import group_norm_silu
from diamond_fast.networks.backend import Norm
from diamond_fast.networks.blocks import NORM_EPS, AdaGroupNorm, SelfAttention2d, num_groups


@dataclass(frozen=True)
class Techniques:
    """What makes it fast on a GPU; each can be turned off alone, and none changes more than rounding."""

    fused_norms: bool = True
    """Group norm, scale, shift and SiLU in one kernel."""
    fused_epilogues: bool = True
    """Bias, residual and the next norm's statistics in one pass behind a convolution, instead of one pass each."""
    no_concat: bool = True
    """In the U-Net's up path kernels read both inputs where they lie."""
    one_modulation: bool = True
    """Scales and shifts of all norms and noise levels from one matrix product, before the first step."""
    fused_edm: bool = True
    """Preconditioning, quantisation and sampler step in one kernel before and one behind the network."""
    fused_frames: bool = True
    """Frames from bytes to floats in one kernel."""
    fused_memory: bool = True
    """A single step of a memory's Mamba layer in two kernels between its products."""
    fused_convs: bool = False
    """Convolutions as one kernel with bias, residual and statistics, on small maps with norm and SiLU as well."""
    hopper_convs: bool = False
    """With ``fused_convs``, on H100 and H200: 3x3 convolutions in a kernel that normalises on maps of any size."""
    cuda_graphs: bool = True
    """All kernels of a call are launched as one graph."""


class Activation:
    """A value of this backend: [N,C,H,W], and its statistics for a norm with groups of as many channels as its own."""

    def __init__(self, x: Tensor, stats: Tensor | None = None):
        self._x = x
        self.stats = stats

    @property
    def x(self) -> Tensor:
        return self._x


def groups_of(norm: Norm) -> int:
    return norm.num_groups if isinstance(norm, AdaGroupNorm) else norm.norm.num_groups


def fitting_stats(value: Activation, group_channels: int) -> Tensor | None:
    """A value's statistics, which are of groups as large as its own norm would have, if those are the norm's."""
    stats = value.stats
    return stats if stats is not None and value.x.size(1) // group_channels == stats.size(1) else None


class FusedTorch:
    """Runs a network's operations as they come, on copies of its weights.

    Args:
        copies: the network that is walked must be ``copies.network``. None if ``modulation`` is.
        modulation: [N,M] rows from ``copies.modulation_weight``; None if the norms are to compute their own from
            ``cond``.
        cond: [N,E] conditioning.
    """

    def __init__(
        self,
        copies: WeightCopies | None,
        techniques: Techniques,
        modulation: Tensor | None = None,
        cond: Tensor | None = None,
    ):
        self.copies = copies
        self.techniques = techniques
        self.modulation = modulation
        self.cond = cond

    def conv(
        self,
        layer: nn.Conv2d,
        inputs: Sequence[Activation],
        norm: Norm | None = None,
        residual: Activation | None = None,
        upsample: bool = False,
    ) -> Activation:
        if norm is None and layer.kernel_size == (1, 1):
            return self._projection(layer, inputs, residual)
        if norm is not None:
            x = self._normalise(norm, inputs, "silu")
        else:
            x = torch.cat([i.x for i in inputs], dim=1) if len(inputs) > 1 else inputs[0].x
        if upsample:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self._convolve(layer, x, residual)

    def _convolve(self, layer: nn.Conv2d, x: Tensor, residual: Activation | None) -> Activation:
        if self.techniques.fused_epilogues and use_triton("auto", x):
            y = F.conv2d(x, layer.weight, None, layer.stride, layer.padding)
            added = None if residual is None else residual.x
            return Activation(*bias_residual_stats(y, layer.bias, added, num_groups(layer.out_channels)))
        y = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
        return Activation(y if residual is None else y + residual.x)

    def _projection(self, layer: nn.Conv2d, inputs: Sequence[Activation], residual: Activation | None) -> Activation:
        """A 1x1 convolution as matrix products, one for each input, which add up without a concatenation."""
        if not (self.techniques.no_concat and len(inputs) > 1):
            x = torch.cat([i.x for i in inputs], dim=1) if len(inputs) > 1 else inputs[0].x
            return self._convolve(layer, x, residual)
        rows = [i.x.permute(0, 2, 3, 1).flatten(0, 2) for i in inputs]  # [N*H*W, C] of channels-last memory
        weights = layer.weight.flatten(1).split([r.size(1) for r in rows], dim=1)
        assert layer.bias is not None
        y = torch.addmm(layer.bias, rows[0], weights[0].t())
        y = torch.addmm(y, rows[1], weights[1].t())
        n, _, h, w = inputs[0].x.shape
        y = y.view(n, h, w, -1).permute(0, 3, 1, 2)
        return Activation(y if residual is None else y + residual.x)

    def _normalise(self, norm: Norm, inputs: Sequence[Activation], activation: str) -> Tensor:
        groups = groups_of(norm)
        size = sum(i.x.size(1) for i in inputs) // groups
        straddles = any(i.x.size(1) % size for i in inputs)
        if len(inputs) > 1 and (straddles or not self.techniques.no_concat):
            inputs = [Activation(torch.cat([i.x for i in inputs], dim=1))]
        stats = [fitting_stats(i, size) for i in inputs]
        arguments = {"impl": "auto" if self.techniques.fused_norms else "torch", "stats": stats[0]}
        if len(inputs) > 1:
            arguments |= {"x2": inputs[1].x, "stats2": stats[1]}
        if isinstance(norm, AdaGroupNorm):
            scale, shift = self._modulation(norm)
            return ada_group_norm_silu(inputs[0].x, scale, shift, groups, NORM_EPS, activation, **arguments)
        weight, bias, eps = norm.norm.weight, norm.norm.bias, norm.norm.eps
        return group_norm_silu(inputs[0].x, weight, bias, groups, eps, activation, **arguments)

    def _modulation(self, norm: AdaGroupNorm) -> tuple[Tensor, Tensor]:
        """Scale and shift, each [N,C]."""
        if self.modulation is None:
            rows = norm.linear(self.cond)
        else:
            assert self.copies is not None
            start = self.copies.offsets[norm]
            rows = self.modulation[:, start : start + norm.linear.out_features]
        scale, shift = rows.chunk(2, dim=1)
        return scale, shift

    def attention(self, layer: SelfAttention2d, x: Activation) -> Activation:
        x = Activation(self._normalise(layer.norm, [x], "identity"))
        n, c, h, w = x.x.shape
        rows = x.x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        qkv = F.linear(rows, layer.qkv_proj.weight.flatten(1), layer.qkv_proj.bias)
        # [N, H*W, 3C] -> q, k, v, each [N, heads, H*W, C/heads]
        q, k, v = qkv.view(n, h * w, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h, w, c).permute(0, 3, 1, 2)
        return self.conv(layer.out_proj, [Activation(y)], residual=x)

    def max_pool(self, x: Activation) -> Activation:
        return Activation(F.max_pool2d(x.x, 2))

    def resize(self, x: Activation, height: int, width: int) -> Activation:
        h, w = self.size(x)
        y = F.pad(x.x, (0, width - w, 0, height - h))  # negative: cuts off
        return Activation(y.contiguous(memory_format=torch.channels_last))

    def size(self, x: Activation) -> tuple[int, int]:
        h, w = x.x.shape[-2:]
        return h, w
