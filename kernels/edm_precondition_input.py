"""The network's input in one pass: scaling, concatenation, channel padding and cast.

    out[n, k, p] = obs[n, k, p] / sigma_data                 for the K = T*C channels of the context
    out[n, K+c, p] = c_in(sigma[n]) * noisy[n, c, p]         for the C channels of the noisy frame
    out[n, k, p] = 0                                         for the padding behind them

N samples, T context frames, C channels, P = H*W pixels. c_in = 1 / sqrt(sigma^2 + sigma_offset_noise^2 + sigma_data^2)
(Karras et al. 2022, table 1). out is [N,K',H,W], channels last in memory, K' a multiple of 16 for the tensor cores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_fast.formulations.edm import conditioners
from diamond_fast.kernels import launch
from diamond_fast.kernels._edm import (
    as_levels,
    check_scales,
    load_sigma,
    preconditioners,
    sigma_argument,
)
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import (
    FLOAT_DTYPES,
    check_images,
    check_shape,
    check_tensors,
    empty_channels_last,
    use_triton,
)

MAX_CHANNELS = 1024


def edm_precondition_input_reference(
    noisy: Tensor,
    obs: Tensor,
    sigma: Tensor | float,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    pad_to: int = 16,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """What ``edm_precondition_input`` computes, in torch, at float32 or above before the cast."""
    high = torch.promote_types(noisy.dtype, torch.float32)
    levels = as_levels(sigma, high, noisy.device)
    c_in = conditioners(levels, sigma_data, sigma_offset_noise).c_in
    obs = obs.to(high) if obs.dim() == 4 else obs.to(high).flatten(1, 2)
    x = torch.cat((obs / sigma_data, c_in * noisy.to(high)), dim=1)
    x = F.pad(x, (0, 0, 0, 0, 0, -x.size(1) % pad_to))
    return x.to(dtype, memory_format=torch.channels_last)


@triton.jit
def _edm_precondition_input_kernel(
    noisy, obs, sigma, out, P, num_blocks, noisy_n, noisy_c, noisy_p, obs_n, obs_t, obs_c, obs_p,
    sigma_value, sigma_data, data_squared, offset_squared,
    C: tl.constexpr, T: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_P pixels of a sample, all channels. Strides of noisy and obs are arguments: any will do."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    p = tl.program_id(0) % num_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    k = tl.arange(0, BLOCK_C)
    inside = (p < P)[:, None]
    of_obs = k < T * C
    of_noisy = (k >= T * C) & (k < T * C + C)

    at_obs = p[:, None] * obs_p + (k // C * obs_t + k % C * obs_c)[None, :]
    context = tl.load(obs + n * obs_n + at_obs, mask=inside & of_obs[None, :], other=0.0).to(tl.float32)
    context = tl.div_rn(context, tl.zeros_like(context) + sigma_data)

    at_noisy = p[:, None] * noisy_p + ((k - T * C) * noisy_c)[None, :]
    x = tl.load(noisy + n * noisy_n + at_noisy, mask=inside & of_noisy[None, :], other=0.0).to(tl.float32)
    c_in, _, _ = preconditioners(load_sigma(sigma, n, sigma_value), data_squared, offset_squared)
    value = tl.where(of_obs[None, :], context, tl.where(of_noisy[None, :], c_in * x, 0.0))
    at = p[:, None] * CHANNELS + k[None, :]
    stored = inside if BLOCK_C == CHANNELS else inside & (k < CHANNELS)[None, :]
    tl.store(out + n * P * CHANNELS + at, value.to(out.dtype.element_ty), mask=stored)


def _flat_pixels(x: Tensor) -> Tensor:
    """x [...,H,W], with a single stride over its pixels."""
    h, w = x.shape[-2:]
    return x if h == 1 or w == 1 or x.stride(-2) == w * x.stride(-1) else x.contiguous()


def _pixel_stride(x: Tensor) -> int:
    return x.stride(-1) if x.size(-1) > 1 else x.stride(-2)


def _padded_channels(noisy: Tensor, frames: int, pad_to: int) -> int:
    return launch.ceil_div((frames + 1) * noisy.size(1), pad_to) * pad_to


@launch.operator("diamond_fast::edm_precondition_input")
def _edm_precondition_input(
    noisy: Tensor, obs: Tensor, sigma: Tensor | None, sigma_value: float,
    sigma_data: float, sigma_offset_noise: float, pad_to: int, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """obs: [N,T,C,H,W]."""
    n, c, h, w = noisy.shape
    frames = obs.size(1)
    channels = _padded_channels(noisy, frames, pad_to)
    out = empty_channels_last(noisy, channels, dtype)
    noisy, obs = _flat_pixels(noisy), _flat_pixels(obs)
    block_c = launch.next_power_of_2(channels)
    block_p = max(1, launch.INPUT_TILE_ELEMENTS // block_c)
    num_blocks = launch.ceil_div(h * w, block_p)
    _edm_precondition_input_kernel[(n * num_blocks,)](
        noisy, obs, sigma, out, h * w, num_blocks,
        noisy.stride(0), noisy.stride(1), _pixel_stride(noisy), *obs.stride()[:3], _pixel_stride(obs),
        sigma_value, sigma_data, sigma_data**2, sigma_offset_noise**2,
        C=c, T=frames, CHANNELS=channels, BLOCK_C=block_c, BLOCK_P=block_p,
        num_warps=launch.POINTWISE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return out


@_edm_precondition_input.register_fake
def _(noisy, obs, sigma, sigma_value, sigma_data, sigma_offset_noise, pad_to, dtype):
    return empty_channels_last(noisy, _padded_channels(noisy, obs.size(1), pad_to), dtype)


def _setup_context(ctx, inputs, output):
    noisy, obs, sigma, ctx.sigma_value, ctx.sigma_data, ctx.sigma_offset_noise, _, _ = inputs
    ctx.save_for_backward(sigma)
    ctx.noisy_dtype, ctx.obs_dtype, ctx.obs_shape = noisy.dtype, obs.dtype, obs.shape


def _backward(ctx, dout):
    (sigma,) = ctx.saved_tensors
    t, c = ctx.obs_shape[1:3]
    dnoisy = dobs = None
    if ctx.needs_input_grad[0]:
        if sigma is None:
            sigma = torch.full((1,), ctx.sigma_value, device=dout.device)
        c_in = conditioners(sigma, ctx.sigma_data, ctx.sigma_offset_noise).c_in
        dnoisy = (dout[:, t * c : (t + 1) * c].float() * c_in).to(ctx.noisy_dtype)
    if ctx.needs_input_grad[1]:
        dobs = (dout[:, : t * c].float().unflatten(1, (t, c)) / ctx.sigma_data).to(ctx.obs_dtype)
    return dnoisy, dobs, None, None, None, None, None, None


_edm_precondition_input.register_autograd(_backward, setup_context=_setup_context)


def _check_obs(noisy: Tensor, obs: Tensor) -> None:
    n, c, h, w = noisy.shape
    if obs.dim() == 5:
        check_shape("obs", obs, (n, obs.size(1), c, h, w), "[N,T,C,H,W] like noisy")
    elif obs.dim() != 4 or obs.size(1) % c:
        raise ValueError(f"obs: expected [N,T,C,H,W] or [N,T*C,H,W] with C={c} like noisy, got {tuple(obs.shape)}")
    else:
        check_shape("obs", obs, (n, obs.size(1), h, w), "[N,T*C,H,W] like noisy")
    if obs.numel() == 0:
        raise ValueError(f"obs: at least one context frame is needed, got shape {tuple(obs.shape)}")


def edm_precondition_input(
    noisy: Tensor,
    obs: Tensor,
    sigma: Tensor | float,
    *,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    pad_to: int = 16,
    dtype: torch.dtype = torch.bfloat16,
    impl: str = "auto",
) -> Tensor:
    """The denoiser network's input: context / sigma_data, then c_in * noisy, then zeros. Differentiable in both.

    Args:
        noisy: [N,C,H,W] bfloat16, float16 or float32.
        obs: the context in [-1, 1], oldest frame first: [N,T,C,H,W] or [N,T*C,H,W]. Neither input needs a particular
            memory format.
        sigma: noise level of ``noisy`` without the offset noise: a number, or a float32 tensor [N] (or [1]).
        pad_to: channels of the result are a multiple of this.
        dtype: of the result: bfloat16, float16 or float32.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        [N,K,H,W], channels last in memory.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_tensors("noisy", noisy, noisy=noisy)
    check_tensors("noisy", noisy, obs=obs)
    check_images("noisy", noisy)
    _check_obs(noisy, obs)
    check_scales(sigma_data, sigma_offset_noise)
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"dtype: expected bfloat16, float16 or float32, got {dtype}")
    if pad_to < 1 or obs[0].numel() // noisy[0, 0].numel() + noisy.size(1) + pad_to > MAX_CHANNELS:
        raise ValueError(f"pad_to: must be at least 1 and leave at most {MAX_CHANNELS} channels, got {pad_to}")
    levels, value = sigma_argument(sigma, "noisy", noisy)
    if not use_triton(impl, noisy):
        return edm_precondition_input_reference(noisy, obs, sigma, sigma_data, sigma_offset_noise, pad_to, dtype)
    if obs.dim() == 4:
        obs = obs.unflatten(1, (-1, noisy.size(1)))
    return _edm_precondition_input(
        noisy, obs, levels, value, float(sigma_data), float(sigma_offset_noise), pad_to, dtype
    )
