"""Time of `hopper_conv` at the paper's shapes: kernel, torch eager (cuDNN) and compiled, `fused_conv`, a copy of the bytes.

pytest benchmarks/test_hopper_conv.py -m gpu
"""

from functools import partial
from typing import Any

import pytest
import torch
from kernel_cases import BF16, Case, image
from kernel_timing import compare

from diamond_fast.kernels.bias_residual_stats import group_norm_stats
from diamond_fast.kernels.fused_conv import Norm, fused_conv
from diamond_fast.kernels.hopper_conv import hopper_conv

CASES = [(n, size, c) for n in (32, 1) for size in (64, 32, 16) for c in (64, 128)]
BLOCKS = {64: "a block's second half", 128: "on the way up: two inputs"}


def arguments(n: int, size: int, c: int, device: torch.device) -> dict[str, Any]:
    """Of a residual block's half with c input channels; its second half adds what went in."""
    x, second = image(device, n, 64, size, BF16), image(device, n, 64, size, BF16)
    weight = image(device, 64, c, 3, BF16)
    scale, shift, bias = (torch.zeros(*shape, device=device, dtype=BF16) for shape in ((n, c), (n, c), (64,)))
    stats, stats2 = group_norm_stats(x, 2), group_norm_stats(second, 2) if c > 64 else None
    added = {"x2": second} if c > 64 else {"residual": second}
    norm = Norm(scale, shift, c // 32, 1e-5, stats, stats2)
    return {"x": x, "weight": weight, "bias": bias, "norm": norm, "groups": 2, **added}


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="the kernel is for Hopper GPUs",
)
@pytest.mark.parametrize(("n", "size", "c"), CASES)
def test_hopper_conv(measure, machine, n, size, c):
    def make(device: torch.device):
        given = arguments(n, size, c, device)
        return lambda impl: hopper_conv(**given, impl=impl)

    pixels = n * size**2
    elements = pixels * (64 + 64 + 64)  # two maps in, one out
    case = Case("hopper_conv", f"{n} x {c} x {size} x {size}, {BLOCKS[c]}", make, 2 * elements, 18 * pixels * 64 * c)
    fused = partial(fused_conv, **arguments(n, size, c, torch.device("cuda")))
    compare(measure, machine, case, ours="CUDA", fused_conv=fused)
