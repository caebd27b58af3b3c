"""From the network's output to the next noise level in one pass: denoise, quantise, step, scale for the next call.

    D = quantise(c_skip(sigma) * x + c_out(sigma) * F)                       edm_denoise: this alone
    d = (x - D) / sigma_hat,    x' = x + d * (next_sigma - sigma_hat)        edm_step: Euler
    d' = (x' - D') / next_sigma,    x'' = x + (d + d') / 2 * (next_sigma - sigma_hat)    edm_heun_step, from x'
    network_input[:, k:k+C] = c_in(next_sigma) * x' (or x'')                 if a buffer is given

x noisy frames and F the network's output, [N,C,H,W]; Karras et al. 2022, algorithm 2 and table 1, with every sigma in
the preconditioners replaced by sqrt(sigma^2 + sigma_offset_noise^2). Nothing here has a gradient.
"""

import torch
from torch import Tensor

from diamond_fast import frames
from diamond_fast.formulations.edm import conditioners
from diamond_fast.kernels import launch
from diamond_fast.kernels._edm import (
    as_levels,
    check_network_input,
    check_scales,
    check_sigma,
    load_sigma,
    pitched,
    preconditioners,
    quantise,
    sigma_argument,
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


@torch.no_grad()
def edm_denoise_reference(
    noisy: Tensor,
    network_output: Tensor,
    sigma: Tensor | float,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    quantised: bool = True,
) -> Tensor:
    """What ``edm_denoise`` computes, in torch, at float32 or above."""
    dtype = torch.promote_types(noisy.dtype, torch.float32)
    levels = as_levels(sigma, dtype, noisy.device)
    _, c_out, c_skip, _ = conditioners(levels, sigma_data, sigma_offset_noise)
    denoised = c_skip * noisy.to(dtype) + c_out * network_output.to(dtype)
    return (frames.quantise(denoised) if quantised else denoised).to(noisy.dtype)


@torch.no_grad()
def edm_step_reference(
    noisy: Tensor,
    network_output: Tensor,
    start: Tensor | None,
    start_slope: Tensor | None,
    network_input: Tensor | None,
    first_channel: int,
    sigma: float,
    divisor: float,
    dt: float,
    next_sigma: float,
    sigma_data: float,
    sigma_offset_noise: float,
    quantised: bool,
    with_slope: bool,
) -> tuple[Tensor, Tensor]:
    """What the steps compute, in torch, at float32 or above: the new frames, and the slope of this evaluation."""
    dtype = torch.promote_types(noisy.dtype, torch.float32)
    x = noisy.to(dtype)
    denoised = edm_denoise_reference(x, network_output, sigma, sigma_data, sigma_offset_noise, quantised)
    slope = (x - denoised) / divisor
    if start is None or start_slope is None:
        stepped = x + slope * dt
    else:
        stepped = start.to(dtype) + (start_slope.to(dtype) + slope) / 2 * dt
    if network_input is not None:
        level = torch.full((1,), next_sigma, dtype=dtype, device=x.device)
        c_in = conditioners(level, sigma_data, sigma_offset_noise).c_in
        network_input[:, first_channel : first_channel + x.size(1)] = c_in * stepped
    return stepped.to(noisy.dtype), slope.to(noisy.dtype) if with_slope else noisy.new_empty(0)


@triton.jit
def _edm_step_kernel(
    noisy, network_output, sigma, start, start_slope, denoised_out, stepped_out, slope_out, network_input,
    M, num_blocks, sigma_value, divisor, dt, next_sigma, data_squared, offset_squared,
    C: tl.constexpr, PITCH: tl.constexpr, INPUT_PITCH: tl.constexpr, QUANTISED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK of a sample's M = H*W*C elements. What is None is not read or written."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    i = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    mask = i < M
    x = tl.load(noisy + n * M + i, mask=mask, other=0.0).to(tl.float32)
    at_output = network_output + pitched(n, i, M, C, PITCH)
    output = tl.load(at_output, mask=mask, other=0.0).to(tl.float32)
    _, c_out, c_skip = preconditioners(load_sigma(sigma, n, sigma_value), data_squared, offset_squared)
    denoised = c_skip * x + c_out * output
    if QUANTISED:
        denoised = quantise(denoised)
    if denoised_out is not None:
        tl.store(denoised_out + n * M + i, denoised.to(denoised_out.dtype.element_ty), mask=mask)
    if stepped_out is not None:
        slope = tl.div_rn(x - denoised, tl.zeros_like(x) + divisor)
        if slope_out is not None:
            tl.store(slope_out + n * M + i, slope.to(slope_out.dtype.element_ty), mask=mask)
        if start is not None:
            x = tl.load(start + n * M + i, mask=mask, other=0.0).to(tl.float32)
            first = tl.load(start_slope + n * M + i, mask=mask, other=0.0).to(tl.float32)
            slope = (first + slope) / 2.0
        stepped = x + slope * dt
        tl.store(stepped_out + n * M + i, stepped.to(stepped_out.dtype.element_ty), mask=mask)
        if network_input is not None:
            c_in, _, _ = preconditioners(tl.cast(next_sigma, tl.float32), data_squared, offset_squared)
            at_input = network_input + pitched(n, i, M, C, INPUT_PITCH)
            tl.store(at_input, (c_in * stepped).to(network_input.dtype.element_ty), mask=mask)


def _launch(
    noisy: Tensor, network_output: Tensor, sigma: Tensor | None, start: Tensor | None, start_slope: Tensor | None,
    denoised: Tensor | None, stepped: Tensor | None, slope: Tensor | None,
    network_input: Tensor | None, first_channel: int, levels: tuple[float, float, float, float],
    sigma_data: float, sigma_offset_noise: float, quantised: bool,
) -> None:  # fmt: skip
    n, c, h, w = noisy.shape
    network_output, pitch = with_pitch(network_output)
    noisy = channels_last(noisy)
    start, start_slope = (None if x is None else channels_last(x) for x in (start, start_slope))
    input_pitch = c
    if network_input is not None:
        input_pitch, network_input = network_input.size(1), network_input[:, first_channel:]
    num_blocks = launch.ceil_div(c * h * w, launch.POINTWISE_BLOCK)
    _edm_step_kernel[(n * num_blocks,)](
        noisy, network_output, sigma, start, start_slope, denoised, stepped, slope, network_input,
        c * h * w, num_blocks, *levels, sigma_data**2, sigma_offset_noise**2,
        C=c, PITCH=pitch, INPUT_PITCH=input_pitch, QUANTISED=quantised,
        BLOCK=launch.POINTWISE_BLOCK, num_warps=launch.POINTWISE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip


@launch.operator("diamond_fast::edm_denoise")
def _edm_denoise(
    noisy: Tensor, network_output: Tensor, sigma: Tensor | None, sigma_value: float,
    sigma_data: float, sigma_offset_noise: float, quantised: bool,
) -> Tensor:  # fmt: skip
    denoised = empty_channels_last(noisy, noisy.size(1))
    levels = (sigma_value, 1.0, 0.0, 0.0)
    _launch(noisy, network_output, sigma, None, None, denoised, None, None, None, 0,
            levels, sigma_data, sigma_offset_noise, quantised)  # fmt: skip
    return denoised


@_edm_denoise.register_fake
def _(noisy, network_output, sigma, sigma_value, sigma_data, sigma_offset_noise, quantised):
    return empty_channels_last(noisy, noisy.size(1))


@launch.operator("diamond_fast::edm_step", mutates_args=("network_input",))
def _edm_step(
    noisy: Tensor, network_output: Tensor, start: Tensor | None, start_slope: Tensor | None,
    network_input: Tensor | None, first_channel: int, sigma: float, divisor: float, dt: float, next_sigma: float,
    sigma_data: float, sigma_offset_noise: float, quantised: bool, with_slope: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    stepped = empty_channels_last(noisy, noisy.size(1))
    slope = empty_channels_last(noisy, noisy.size(1)) if with_slope else None
    levels = (sigma, divisor, dt, next_sigma)
    _launch(noisy, network_output, None, start, start_slope, None, stepped, slope, network_input, first_channel,
            levels, sigma_data, sigma_offset_noise, quantised)  # fmt: skip
    return stepped, noisy.new_empty(0) if slope is None else slope


@_edm_step.register_fake
def _(noisy, network_output, start, start_slope, network_input, first_channel, sigma, divisor, dt, next_sigma,
      sigma_data, sigma_offset_noise, quantised, with_slope):  # fmt: skip
    stepped = empty_channels_last(noisy, noisy.size(1))
    return stepped, empty_channels_last(noisy, noisy.size(1)) if with_slope else noisy.new_empty(0)


def _check(noisy: Tensor, network_output: Tensor, sigma_data: float, sigma_offset_noise: float) -> None:
    check_tensors("noisy", noisy, noisy=noisy, network_output=network_output)
    check_images("noisy", noisy)
    check_shape("network_output", network_output, tuple(noisy.shape), "noisy's")
    check_scales(sigma_data, sigma_offset_noise)


@torch.no_grad()
def edm_denoise(
    noisy: Tensor,
    network_output: Tensor,
    sigma: Tensor | float,
    *,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    quantised: bool = True,
    impl: str = "auto",
) -> Tensor:
    """The estimate of the clean frame. No gradient.

    Args:
        noisy: [N,C,H,W] bfloat16, float16 or float32. Channels last in memory, or it is copied first.
        network_output: F's output, [N,C,H,W]; the first channels of a padded output will do.
        sigma: noise level of ``noisy`` without the offset noise: a number, or a float32 tensor [N] (or [1]).
        quantised: whether frames have 256 levels; if not, nothing is clamped or rounded.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        [N,C,H,W] of noisy's dtype.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    _check(noisy, network_output, sigma_data, sigma_offset_noise)
    levels, value = sigma_argument(sigma, "noisy", noisy)
    if use_triton(impl, noisy):
        return _edm_denoise(noisy, network_output, levels, value, sigma_data, sigma_offset_noise, quantised)
    return edm_denoise_reference(noisy, network_output, sigma, sigma_data, sigma_offset_noise, quantised)


def edm_step(
    noisy: Tensor,
    network_output: Tensor,
    sigma: float,
    next_sigma: float,
    *,
    sigma_hat: float | None = None,
    with_slope: bool = False,
    network_input: Tensor | None = None,
    first_channel: int = 0,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    quantised: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """One Euler step from the network's output at noise level ``sigma`` to ``next_sigma``. No gradient.

    Args:
        noisy, network_output, sigma_data, sigma_offset_noise, quantised, impl: as for ``edm_denoise``.
        sigma: what the network was told. sigma_hat: what the slope divides by, if noise was put back before the
            step; sigma if None.
        next_sigma: where the step leads, 0 at the last one.
        with_slope: whether the slope is wanted, for Heun's correction.
        network_input: [N,K,H,W] with channels last in memory; its C channels from ``first_channel`` on are set to the
            new frames times c_in(next_sigma), for the network's next call.

    Returns:
        the new frames, and the slope at the old ones if wanted, each [N,C,H,W] of noisy's dtype.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    sigma_hat = sigma if sigma_hat is None else sigma_hat
    check_sigma("sigma", sigma)
    check_sigma("sigma_hat", sigma_hat)
    if sigma_hat == 0:
        raise ValueError("sigma_hat: must be positive, got 0: there is no step from noise level 0")
    stepped, slope = _step(
        noisy, network_output, None, None, network_input, first_channel, sigma, sigma_hat, next_sigma - sigma_hat,
        next_sigma, sigma_data, sigma_offset_noise, quantised, with_slope, impl,
    )  # fmt: skip
    return stepped, slope if with_slope else None


def edm_heun_step(
    predicted: Tensor,
    network_output: Tensor,
    start: Tensor,
    start_slope: Tensor,
    sigma_hat: float,
    next_sigma: float,
    *,
    network_input: Tensor | None = None,
    first_channel: int = 0,
    sigma_data: float = 0.5,
    sigma_offset_noise: float = 0.3,
    quantised: bool = True,
    impl: str = "auto",
) -> Tensor:
    """Heun's correction of an Euler step: from ``start`` again, with the mean of the slopes at both ends. No gradient.

    Args:
        predicted, start_slope: what ``edm_step`` returned for ``start``.
        network_output: the network's at ``predicted`` and noise level next_sigma > 0.
        sigma_hat, next_sigma and the rest: as for ``edm_step``.

    Returns:
        the corrected frames at next_sigma [N,C,H,W].

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    check_sigma("sigma_hat", sigma_hat)
    if not next_sigma > 0:
        raise ValueError(f"next_sigma: Heun's correction needs a positive noise level, got {next_sigma}")
    check_tensors("predicted", predicted, predicted=predicted, start=start, start_slope=start_slope)
    check_shape("start", start, tuple(predicted.shape), "predicted's")
    check_shape("start_slope", start_slope, tuple(predicted.shape), "predicted's")
    return _step(
        predicted, network_output, start, start_slope, network_input, first_channel, next_sigma, next_sigma,
        next_sigma - sigma_hat, next_sigma, sigma_data, sigma_offset_noise, quantised, False, impl,
    )[0]  # fmt: skip


@torch.no_grad()
def _step(noisy, network_output, start, start_slope, network_input, first_channel, sigma, divisor, dt, next_sigma,
          sigma_data, sigma_offset_noise, quantised, with_slope, impl) -> tuple[Tensor, Tensor]:  # fmt: skip
    _check(noisy, network_output, sigma_data, sigma_offset_noise)
    check_sigma("next_sigma", next_sigma)
    if network_input is not None:
        check_network_input(noisy, network_input, first_channel)
    arguments = (noisy, network_output, start, start_slope, network_input, first_channel, float(sigma), float(divisor),
                 float(dt), float(next_sigma), float(sigma_data), float(sigma_offset_noise),
                 quantised, with_slope)  # fmt: skip
    return _edm_step(*arguments) if use_triton(impl, noisy) else edm_step_reference(*arguments)
