"""Which implementation runs, and the checks every operation makes before a kernel is launched."""

import torch
from torch import Tensor

from diamond_fast.kernels._triton import INSTALLED, INTERPRETED

FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_SAMPLE_ELEMENTS = 2**31 - 1  # offsets within a sample are 32 bits wide in the kernels


def use_triton(impl: str, tensor: Tensor) -> bool:
    """Whether ``impl`` means the Triton kernels for this tensor: ``auto`` takes them on CUDA, torch elsewhere.

    Raises:
        ValueError: ``impl`` is not one of auto, triton, torch; or Triton cannot run on the tensor's device.
    """
    if impl not in ("auto", "triton", "torch"):
        raise ValueError(f"impl: expected 'auto', 'triton' or 'torch', got {impl!r}")
    if impl == "auto":
        return INSTALLED and tensor.is_cuda
    if impl == "triton" and not (INSTALLED and (tensor.is_cuda or INTERPRETED)):
        raise ValueError(
            f"impl: 'triton' needs Triton and CUDA tensors (or TRITON_INTERPRET=1), got {tensor.device.type} tensors"
        )
    return impl == "triton"


def check_tensors(
    like: str, like_tensor: Tensor, dtypes: tuple[torch.dtype, ...] = FLOAT_DTYPES, **tensors: Tensor | None
) -> None:
    """Checks that the tensors given are dense, of one of the dtypes, and on the device of ``like_tensor``.

    Raises:
        TypeError, ValueError: one of them is not; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in dtypes:
            expected = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
            raise TypeError(f"{name}: expected dtype {expected}, got {str(tensor.dtype).removeprefix('torch.')}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name}: expected a dense (strided) tensor, got layout {tensor.layout}")
        if tensor.device != like_tensor.device:
            raise ValueError(
                f"{name}: is on {tensor.device}, but {like} is on {like_tensor.device}; put both on one device"
            )


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...], meaning: str) -> None:
    """Checks a tensor's shape, if there is a tensor.

    Raises:
        ValueError: it is another; the message says what the shape means.
    """
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape} = {meaning}, got {tuple(tensor.shape)}")


def check_images(name: str, x: Tensor) -> None:
    """Checks that x is [N,C,H,W], not empty, and small enough for 32-bit offsets within a sample.

    Raises:
        ValueError: it is not.
    """
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"{name}: expected shape [N,C,H,W] with no size of 0, got {tuple(x.shape)}")
    if x[0].numel() > MAX_SAMPLE_ELEMENTS:
        raise ValueError(f"{name}: at most {MAX_SAMPLE_ELEMENTS} elements a sample, got {x[0].numel()}")


def channels_last(x: Tensor) -> Tensor:
    """x [N,C,H,W] with memory in the order N,H,W,C: x itself if it lies so already, else a copy."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def empty_channels_last(x: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    """A new tensor [N,channels,H,W], channels last in memory, with x's N, H, W, device and (by default) dtype."""
    n, _, h, w = x.shape
    return x.new_empty((n, h, w, channels), dtype=dtype or x.dtype).permute(0, 3, 1, 2)
