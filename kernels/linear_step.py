"""From the network's output to the next, less noisy frames in one pass, for formulations whose steps are linear.

    E = (x - of_output * F) / divisor                       clamped to [-1, 1], quantised to 256 levels, or neither
    x' = of_estimate * E + of_noisy * x + noise_scale * noise
    network_input[:, k:k+C] = x'                            if a buffer is given

x noisy frames, F the network's output and noise, [N,C,H,W]. Steps of DDPM (Ho et al. 2020, algorithm 2) and Euler steps
along a velocity are such; EDM's are in ``edm_step``, whose network's input is scaled. Nothing here has a gradient.
"""

from typing import Literal

import torch
from torch import Tensor

from diamond_fast import frames
from diamond_fast.kernels import launch
from diamond_fast.kernels._edm import check_network_input, pitched, quantise, with_pitch
from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import (
    channels_last,
    check_images,
    check_shape,
    check_tensors,
    empty_channels_last,
    use_triton,
)

Rounding = Literal["none", "clamp", "quantise"]


@torch.no_grad()
def linear_step_reference(
    noisy: Tensor, network_output: Tensor, noise: Tensor | None, network_input: Tensor | None, first_channel: int,
    of_output: float, divisor: float, of_estimate: float, of_noisy: float, noise_scale: float, rounding: str,
) -> Tensor:  # fmt: skip
    """What ``linear_step`` computes, in torch, at float32 or above."""
    dtype = torch.promote_types(noisy.dtype, torch.float32)
    x = noisy.to(dtype)
    estimate = (x - of_output * network_output.to(dtype)) / divisor
    if rounding == "clamp":
        estimate = estimate.clamp(-1, 1)
    elif rounding == "quantise":
        estimate = frames.quantise(estimate)
    stepped = of_estimate * estimate + of_noisy * x
    if noise is not None:
        stepped = stepped + noise_scale * noise.to(dtype)
    if network_input is not None:
        network_input[:, first_channel : first_channel + x.size(1)] = stepped
    return stepped.to(noisy.dtype)


@triton.jit
def _linear_step_kernel(
    noisy, network_output, noise, stepped_out, network_input,
    M, num_blocks, of_output, divisor, of_estimate, of_noisy, noise_scale,
    C: tl.constexpr, PITCH: tl.constexpr, INPUT_PITCH: tl.constexpr, ROUNDING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK of a sample's M = H*W*C elements. What is None is not read or written."""
    n = (tl.program_id(0) // num_blocks).to(tl.int64)
    i = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)
    mask = i < M
    x = tl.load(noisy + n * M + i, mask=mask, other=0.0).to(tl.float32)
    at_output = network_output + pitched(n, i, M, C, PITCH)
    output = tl.load(at_output, mask=mask, other=0.0).to(tl.float32)
    estimate = tl.div_rn(x - output * of_output, tl.zeros_like(x) + divisor)
    if ROUNDING == "clamp":
        estimate = tl.where(estimate > 1.0, 1.0, tl.where(estimate < -1.0, -1.0, estimate))
    if ROUNDING == "quantise":
        estimate = quantise(estimate)
    stepped = estimate * of_estimate + x * of_noisy
    if noise is not None:
        stepped += tl.load(noise + n * M + i, mask=mask, other=0.0).to(tl.float32) * noise_scale
    tl.store(stepped_out + n * M + i, stepped.to(stepped_out.dtype.element_ty), mask=mask)
    if network_input is not None:
        at_input = network_input + pitched(n, i, M, C, INPUT_PITCH)
        tl.store(at_input, stepped.to(network_input.dtype.element_ty), mask=mask)


@launch.operator("diamond_fast::linear_step", mutates_args=("network_input",))
def _linear_step(
    noisy: Tensor, network_output: Tensor, noise: Tensor | None, network_input: Tensor | None, first_channel: int,
    of_output: float, divisor: float, of_estimate: float, of_noisy: float, noise_scale: float, rounding: str,
) -> Tensor:  # fmt: skip
    n, c, h, w = noisy.shape
    stepped = empty_channels_last(noisy, c)
    network_output, pitch = with_pitch(network_output)
    input_pitch = c
    if network_input is not None:
        input_pitch, network_input = network_input.size(1), network_input[:, first_channel:]
    num_blocks = launch.ceil_div(c * h * w, launch.POINTWISE_BLOCK)
    _linear_step_kernel[(n * num_blocks,)](
        channels_last(noisy), network_output, None if noise is None else channels_last(noise), stepped, network_input,
        c * h * w, num_blocks, of_output, divisor, of_estimate, of_noisy, noise_scale,
        C=c, PITCH=pitch, INPUT_PITCH=input_pitch, ROUNDING=rounding,
        BLOCK=launch.POINTWISE_BLOCK, num_warps=launch.POINTWISE_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return stepped


@_linear_step.register_fake
def _(noisy, network_output, noise, network_input, first_channel, of_output, divisor, of_estimate, of_noisy,
      noise_scale, rounding):  # fmt: skip
    return empty_channels_last(noisy, noisy.size(1))


@torch.no_grad()
def linear_step(
    noisy: Tensor,
    network_output: Tensor,
    *,
    of_output: float,
    divisor: float = 1.0,
    rounding: Rounding = "none",
    of_estimate: float = 1.0,
    of_noisy: float = 0.0,
    noise: Tensor | None = None,
    noise_scale: float = 0.0,
    network_input: Tensor | None = None,
    first_channel: int = 0,
    impl: str = "auto",
) -> Tensor:
    """One step from the network's output. No gradient.

    Args:
        noisy: [N,C,H,W] bfloat16, float16 or float32. Channels last in memory, or it is copied first.
        network_output: F's output, [N,C,H,W]; the first channels of a padded output will do.
        of_output, divisor, rounding: make the estimate of the clean frame.
        of_estimate, of_noisy, noise, noise_scale: make the new frames; noise is [N,C,H,W].
        network_input: [N,K,H,W] with channels last in memory; its C channels from ``first_channel`` on are set to the
            new frames, for the network's next call.
        impl: ``auto``, ``triton`` or ``torch``.

    Returns:
        the new frames [N,C,H,W] of noisy's dtype.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
    """
    given = {"noisy": noisy, "network_output": network_output} | ({} if noise is None else {"noise": noise})
    check_tensors("noisy", noisy, **given)
    check_images("noisy", noisy)
    for name, x in given.items():
        check_shape(name, x, tuple(noisy.shape), "noisy's")
    if divisor == 0:
        raise ValueError("divisor: must not be 0")
    if rounding not in ("none", "clamp", "quantise"):
        raise ValueError(f"rounding: expected none, clamp or quantise, got {rounding!r}")
    if network_input is not None:
        check_network_input(noisy, network_input, first_channel)
    arguments = (noisy, network_output, noise, network_input, first_channel, float(of_output), float(divisor),
                 float(of_estimate), float(of_noisy), float(noise_scale), rounding)  # fmt: skip
    return _linear_step(*arguments) if use_triton(impl, noisy) else linear_step_reference(*arguments)
