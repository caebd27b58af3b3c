"""The denoiser's loss and its gradient, and the quantised frame the next autoregressive step sees, without indexing.

    target = (clean - c_skip(sigma) * noisy) / c_out(sigma)
    loss = sum_n mask[n] * mean_{c,p} (F - target)^2 / max(1, sum_n mask[n])
    dF = dloss * mask[n] / max(1, sum mask) * 2 / (C*P) * (F - target)
    denoised = quantise(c_skip * noisy + c_out * F)

F the network's output, clean and noisy frames [N,C,H,W], P = H*W pixels, sigma and mask [N] (EDM preconditioning:
Karras et al. 2022, table 1). A masked sum needs no boolean indexing, which would make the host wait for the device.
Partial sums have one writer each and are added in a fixed order: the same bits on every run.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diamond_fast import frames
from diamond_fast.formulations.edm import conditioners
from diamond_fast.kernels import launch
from diamond_fast.kernels._edm import (
    check_scales,
    pitched,
    preconditioners,
    quantise,
    with_pitch,
)
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import (
    channels_last,
    check_images,
    check_shape,
    check_tensors,
    empty_channels_last,
    use_triton,
)


class EDMLoss(NamedTuple):
    """A differentiable loss, and the frames it was reached with."""

    loss: Tensor  # scalar float32
    denoised: Tensor  # [N,C,H,W] of noisy's dtype, no gradient


def edm_loss_reference(
    network_output: Tensor,
    noisy: Tensor,
    clean: Tensor,
    sigma: Tensor,
    mask: Tensor,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    quantised: bool = True,
) -> EDMLoss:
    """What ``edm_loss`` computes, in torch, at float32 or above."""
    dtype = torch.promote_types(noisy.dtype, torch.float32)
    output, x = network_output.to(dtype), noisy.detach().to(dtype)
    _, c_out, c_skip, _ = conditioners(sigma.to(dtype), sigma_data, sigma_offset_noise)
    target = (clean.detach().to(dtype) - c_skip * x) / c_out
    errors = (output - target).square().mean(dim=(1, 2, 3))
    denoised = c_skip * x + c_out * output.detach()
    denoised = frames.quantise(denoised) if quantised else denoised
    return EDMLoss((errors * mask).sum() / mask.sum().clamp(min=1), denoised.to(noisy.dtype))


@triton.jit
def _target(noisy, clean, at, mask, c_out, c_skip):
    """x and (clean - c_skip * x) / c_out at some of a sample's elements."""
    x = tl.load(noisy + at, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(clean + at, mask=mask, other=0.0).to(tl.float32)
    return x, tl.div_rn(y - c_skip * x, tl.zeros_like(x) + c_out)


@triton.jit
def _edm_loss_kernel(
    network_output, noisy, clean, sigma, sums, denoised, M, num_blocks, data_squared, offset_squared,
    C: tl.constexpr, PITCH: tl.constexpr, QUANTISED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: squared errors of BLOCK of a sample's M elements -> sums [N, num_blocks], and denoised."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    block = tl.program_id(0) % num_blocks
    i = block * BLOCK + tl.arange(0, BLOCK)
    mask = i < M
    _, c_out, c_skip = preconditioners(tl.load(sigma + n), data_squared, offset_squared)
    x, target = _target(noisy, clean, n * M + i, mask, c_out, c_skip)
    at_output = network_output + pitched(n, i, M, C, PITCH)
    output = tl.load(at_output, mask=mask, other=0.0).to(tl.float32)
    error = tl.where(mask, output - target, 0.0)
    tl.store(sums + n * num_blocks + block, tl.sum(error * error, axis=0))
    frame = c_skip * x + c_out * output
    if QUANTISED:
        frame = quantise(frame)
    tl.store(denoised + n * M + i, frame.to(denoised.dtype.element_ty), mask=mask)


@triton.jit
def _masked_mean_kernel(sums, valid, loss, weight, N, M, num_blocks, BLOCK_N: tl.constexpr, BLOCK_SUMS: tl.constexpr):
    """One program: the samples' sums [N, num_blocks] -> loss, and what each squared error weighs in it."""
    total = 0.0
    count = 0.0
    for first in range(0, N, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        v = tl.load(valid + n, mask=n < N, other=0).to(tl.float32)
        errors = tl.zeros([BLOCK_N], tl.float32)
        for first_block in range(0, num_blocks, BLOCK_SUMS):
            b = first_block + tl.arange(0, BLOCK_SUMS)
            inside = (n < N)[:, None] & (b < num_blocks)[None, :]
            at = sums + n[:, None].to(tl.int64) * num_blocks + b[None, :]
            errors += tl.sum(tl.load(at, mask=inside, other=0.0), axis=1)
        total += tl.sum(errors * v, axis=0)
        count += tl.sum(v, axis=0)
    share = 1.0 / (tl.maximum(count, 1.0) * M)
    tl.store(loss, total * share)
    tl.store(weight, share)


@triton.jit
def _edm_loss_backward_kernel(
    dloss, network_output, noisy, clean, sigma, valid, weight, dout, M, num_blocks, data_squared, offset_squared,
    C: tl.constexpr, PITCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of BLOCK of a sample's M elements."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    i = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    mask = i < M
    _, c_out, c_skip = preconditioners(tl.load(sigma + n), data_squared, offset_squared)
    _, target = _target(noisy, clean, n * M + i, mask, c_out, c_skip)
    at_output = network_output + pitched(n, i, M, C, PITCH)
    output = tl.load(at_output, mask=mask, other=0.0).to(tl.float32)
    factor = tl.load(dloss) * tl.load(valid + n).to(tl.float32) * tl.load(weight) * 2.0
    tl.store(dout + n * M + i, (factor * (output - target)).to(dout.dtype.element_ty), mask=mask)


def _flat(network_output: Tensor, noisy: Tensor, clean: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], dict, int, int]:
    """The tensors as the kernels want them, their constants, a sample's elements, and how many programs share them."""
    c, h, w = noisy.shape[1:]
    network_output, pitch = with_pitch(network_output)
    constants = {"C": c, "PITCH": pitch, "BLOCK": launch.POINTWISE_BLOCK}
    tensors = (network_output, channels_last(noisy), channels_last(clean))
    return tensors, constants, c * h * w, launch.ceil_div(c * h * w, launch.POINTWISE_BLOCK)


@launch.operator("diamond_fast::edm_loss")
def _edm_loss(
    network_output: Tensor, noisy: Tensor, clean: Tensor, sigma: Tensor, mask: Tensor,
    sigma_data: float, sigma_offset_noise: float, quantised: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns the loss, the denoised frames, and what each squared error weighs in the loss."""
    n = noisy.size(0)
    tensors, constants, m, num_blocks = _flat(network_output, noisy, clean)
    denoised = empty_channels_last(noisy, noisy.size(1))
    sums = noisy.new_empty((n, num_blocks), dtype=torch.float32)
    loss, weight = (noisy.new_empty((), dtype=torch.float32) for _ in range(2))
    _edm_loss_kernel[(n * num_blocks,)](
        *tensors, sigma.contiguous(), sums, denoised, m, num_blocks, sigma_data**2, sigma_offset_noise**2,
        C=constants["C"], PITCH=constants["PITCH"], QUANTISED=quantised, BLOCK=constants["BLOCK"],
        num_warps=launch.POINTWISE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    _masked_mean_kernel[(1,)](
        sums, mask.contiguous().view(torch.uint8), loss, weight, n, m, num_blocks,
        BLOCK_N=64, BLOCK_SUMS=16, num_warps=launch.POINTWISE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return loss, denoised, weight


@_edm_loss.register_fake
def _(network_output, noisy, clean, sigma, mask, sigma_data, sigma_offset_noise, quantised):
    loss, weight = (noisy.new_empty((), dtype=torch.float32) for _ in range(2))
    return loss, empty_channels_last(noisy, noisy.size(1)), weight


@launch.operator("diamond_fast::edm_loss_backward")
def _edm_loss_backward(
    dloss: Tensor, network_output: Tensor, noisy: Tensor, clean: Tensor, sigma: Tensor, mask: Tensor, weight: Tensor,
    sigma_data: float, sigma_offset_noise: float,
) -> Tensor:  # fmt: skip
    tensors, constants, m, num_blocks = _flat(network_output, noisy, clean)
    dout = empty_channels_last(network_output, noisy.size(1))
    _edm_loss_backward_kernel[(noisy.size(0) * num_blocks,)](
        dloss, *tensors, sigma.contiguous(), mask.contiguous().view(torch.uint8), weight, dout, m, num_blocks,
        sigma_data**2, sigma_offset_noise**2, **constants, num_warps=launch.POINTWISE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return dout


@_edm_loss_backward.register_fake
def _(dloss, network_output, noisy, clean, sigma, mask, weight, sigma_data, sigma_offset_noise):
    return empty_channels_last(network_output, noisy.size(1))


def _setup_context(ctx, inputs, output):
    network_output, noisy, clean, sigma, mask, ctx.sigma_data, ctx.sigma_offset_noise, _ = inputs
    ctx.set_materialize_grads(False)  # the frames and the weight have no gradient: no zeros for them
    ctx.save_for_backward(network_output, noisy, clean, sigma, mask, output[2])


def _backward(ctx, dloss, _ddenoised, _dweight):
    if dloss is None:
        return (None,) * 8
    doutput = _edm_loss_backward(dloss, *ctx.saved_tensors, ctx.sigma_data, ctx.sigma_offset_noise)
    return doutput, None, None, None, None, None, None, None


_edm_loss.register_autograd(_backward, setup_context=_setup_context)


def edm_loss(
    network_output: Tensor,
    noisy: Tensor,
    clean: Tensor,
    sigma: Tensor,
    mask: Tensor,
    *,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    quantised: bool = True,
    impl: str = "auto",
) -> EDMLoss:
    """The denoiser's loss on one frame a sample, differentiable once in the network's output and in nothing else.

    Args:
        network_output: F [N,C,H,W] bfloat16, float16 or float32; the first channels of a padded output will do.
        noisy, clean: [N,C,H,W], the frame with and without noise.
        sigma: [N] float32, noise levels without the offset noise.
        mask: [N] bool, False for samples that do not count. The loss is 0 if none does.
        quantised: whether frames have 256 levels; if not, ``denoised`` is neither clamped nor rounded.
        impl: ``auto``, ``triton`` or ``torch``.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_tensors("noisy", noisy, network_output=network_output, noisy=noisy, clean=clean)
    check_tensors("noisy", noisy, (torch.float32,), sigma=sigma)
    check_tensors("noisy", noisy, (torch.bool,), mask=mask)
    check_images("noisy", noisy)
    for name, x in (("network_output", network_output), ("clean", clean)):
        check_shape(name, x, tuple(noisy.shape), "noisy's")
    for name, x in (("sigma", sigma), ("mask", mask)):
        check_shape(name, x, (noisy.size(0),), "[N]")
    check_scales(sigma_data, sigma_offset_noise)
    if not use_triton(impl, noisy):
        return edm_loss_reference(network_output, noisy, clean, sigma, mask, sigma_data, sigma_offset_noise, quantised)
    loss, denoised, _ = _edm_loss(
        network_output, noisy.detach(), clean.detach(), sigma.detach(), mask,
        float(sigma_data), float(sigma_offset_noise), quantised,
    )  # fmt: skip
    return EDMLoss(loss, denoised.detach())
