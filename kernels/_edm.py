"""What the EDM operations share: preconditioners and quantisation, in torch and inside kernels, and flat layouts.

Kernels divide and take roots with IEEE rounding and without fused multiply-adds, so their results do not depend on the
chip. Torch's own results for the same formulas differ in the last bit from one processor to the next.
"""

import torch
from torch import Tensor

from diamond_fast.kernels._triton import tl, triton
from diamond_fast.kernels.dispatch import channels_last, check_images, check_shape, check_tensors


@triton.jit
def preconditioners(sigma, data_squared, offset_squared):
    """c_in, c_out, c_skip for one noise level, a float32 scalar."""
    total = tl.sqrt_rn(sigma * sigma + offset_squared)
    sum_of_squares = total * total + data_squared
    c_skip = tl.div_rn(tl.zeros_like(sigma) + data_squared, sum_of_squares)
    c_in = tl.div_rn(tl.zeros_like(sigma) + 1.0, tl.sqrt_rn(sum_of_squares))
    return c_in, total * tl.sqrt_rn(c_skip), c_skip


@triton.jit
def load_sigma(sigma, n, sigma_value):
    """Noise level of sample n: from a tensor [N] if there is one, else the number for all. A float32 scalar."""
    if sigma is None:
        level = tl.cast(sigma_value, tl.float32)
    else:
        level = tl.load(sigma + n)
    return level


@triton.jit
def from_level(level):
    """Grey level 0..255, as float32 -> [-1, 1]."""
    return tl.div_rn(level, tl.full(level.shape, 255.0, tl.float32)) * 2.0 - 1.0


@triton.jit
def quantise(x):
    """Clamps to [-1, 1] and rounds down to one of 256 levels. NaN stays NaN."""
    clamped = tl.where(x > 1.0, 1.0, tl.where(x < -1.0, -1.0, x))
    return from_level(tl.floor((clamped + 1.0) / 2.0 * 255.0))


@triton.jit
def pitched(n, i, M, CHANNELS: tl.constexpr, PITCH: tl.constexpr):
    """Offset of the i-th of sample n's M elements, with pixels PITCH apart instead of CHANNELS."""
    if PITCH == CHANNELS:
        at = n * M + i
    else:
        at = n * (M // CHANNELS * PITCH) + (i // CHANNELS * PITCH + i % CHANNELS)
    return at


def with_pitch(x: Tensor) -> tuple[Tensor, int]:
    """x [N,C,H,W] and the distance of its pixels: C if channels are last in memory, more in a slice of channels."""
    _, c, h, w = x.shape
    pitch = x.stride(3)
    if x.stride() == (h * w * pitch, 1, w * pitch, pitch) and pitch >= c:
        return x, pitch
    return channels_last(x), c


def as_levels(sigma: Tensor | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Noise levels [N], or a number for all as a tensor [1]: made on the device, as a graph can hold no copy to it."""
    if isinstance(sigma, Tensor):
        return sigma.to(device, dtype).reshape(-1)
    return torch.full((1,), sigma, dtype=dtype, device=device)


def check_sigma(name: str, sigma: float, minimum: float = 0.0) -> None:
    """Checks a noise level that is a number.

    Raises:
        TypeError, ValueError: it is something else, or below the minimum.
    """
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        raise TypeError(f"{name}: expected a number, got {type(sigma).__name__}")
    if not minimum <= sigma < float("inf"):
        raise ValueError(f"{name}: expected a finite number of at least {minimum}, got {sigma}")


def check_scales(sigma_data: float, sigma_offset_noise: float) -> None:
    """Checks the two scales every preconditioner depends on.

    Raises:
        TypeError, ValueError: one is not a number, negative, or sigma_data is 0.
    """
    check_sigma("sigma_data", sigma_data)
    if sigma_data == 0:
        raise ValueError("sigma_data: must be positive, got 0")
    check_sigma("sigma_offset_noise", sigma_offset_noise)


def check_network_input(noisy: Tensor, network_input: Tensor, first_channel: int) -> None:
    """Checks a buffer whose channels from ``first_channel`` on take frames like noisy [N,C,H,W].

    Raises:
        TypeError, ValueError: it has no room for them, or its channels are not last in memory.
    """
    n, c, h, w = noisy.shape
    check_tensors("noisy", noisy, network_input=network_input)
    check_images("network_input", network_input)
    channels = network_input.size(1)
    check_shape("network_input", network_input, (n, channels, h, w), "noisy's but for the channels")
    if not 0 <= first_channel <= channels - c:
        raise ValueError(f"first_channel: {c} channels must fit into {channels} from there on, got {first_channel}")
    if not network_input.is_contiguous(memory_format=torch.channels_last):
        raise ValueError("network_input: is written in place, so its channels must be last in memory")


def sigma_argument(sigma: Tensor | float, like: str, x: Tensor) -> tuple[Tensor | None, float]:
    """Noise levels as kernels take them: a float32 tensor [N], or None and a number for all.

    Raises:
        TypeError, ValueError: sigma is neither a number nor a float32 tensor [N] (or [1]) on x's device.
    """
    if not isinstance(sigma, Tensor):
        check_sigma("sigma", sigma)
        return None, float(sigma)
    check_tensors(like, x, (torch.float32,), sigma=sigma)
    if sigma.numel() != 1:
        check_shape("sigma", sigma, (x.size(0),), f"one a sample of {like}")
    return sigma.reshape(-1).expand(x.size(0)).contiguous(), 0.0
