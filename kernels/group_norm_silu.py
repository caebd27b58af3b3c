"""Group normalisation with learned weight and bias, and SiLU: ``ada_group_norm_silu`` with one gain for all samples.

    out = silu((x - mean) * rstd * weight[c] + bias[c])

Shapes, kernels and the backward pass are those of ada_group_norm_silu.py; the gradients of weight and bias are its
sums per sample, added up over the samples in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.kernels.ada_group_norm_silu import check_norm, normalise
from diamond_fast.kernels.dispatch import check_shape, check_tensors, use_triton


def group_norm_silu_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    activation: str = "silu",
    x2: Tensor | None = None,
) -> Tensor:
    """What ``group_norm_silu`` computes, in torch, at float32 or above."""
    x = x if x2 is None else torch.cat((x, x2), dim=1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    z = F.group_norm(x.to(dtype), groups, weight.to(dtype), bias.to(dtype), eps)
    return (F.silu(z) if activation == "silu" else z).to(x.dtype)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    activation: str = "silu",
    *,
    x2: Tensor | None = None,
    stats: Tensor | None = None,
    stats2: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """silu(group_norm(x) * weight + bias), differentiable once in x, x2, weight and bias.

    Args:
        weight, bias: [C].
        x, groups, eps, activation, x2, stats, stats2, impl: as for ``ada_group_norm_silu``.

    Returns:
        [N,C,H,W] of x's dtype, channels last in memory.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_norm(x, x2, groups, eps, activation, stats, stats2)
    check_tensors("x", x, weight=weight, bias=bias)
    shape = (x.size(1) + (0 if x2 is None else x2.size(1)),)
    check_shape("weight", weight, shape, "[C]")
    check_shape("bias", bias, shape, "[C]")
    if use_triton(impl, x):
        return normalise(x, weight, bias, groups, eps, activation, x2, stats, stats2)
    return group_norm_silu_reference(x, weight, bias, groups, eps, activation, x2)
