"""Time of `hopper_conv` on H100 and H200: kernel, torch eager (cuDNN) and compiled, `fused_conv`, a copy of the bytes.

pytest benchmarks/test_hopper_conv.py -m gpu
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import BF16, Case, image
from kernel_timing import timing_of

from diamond_fast.kernels.bias_residual_stats import group_norm_stats
from diamond_fast.kernels.fused_conv import Norm, fused_conv
from diamond_fast.kernels.hopper_conv import hopper_conv

BLOCKS = {32: "of the reward/end model and the policy", 64: "a block's second half", 128: "on the way up: two inputs"}


def arguments(n: int, size: int, c: int, device: torch.device) -> dict[str, Any]:
    """Of a residual block's half with c input channels; its second half adds what went in."""
    out = min(c, 64)
    x, second = image(device, n, out, size, BF16), image(device, n, out, size, BF16)
    weight = image(device, out, c, 3, BF16)
    scale, shift, bias = (torch.zeros(*shape, device=device, dtype=BF16) for shape in ((n, c), (n, c), (out,)))
    stats, stats2 = group_norm_stats(x, out // 32), group_norm_stats(second, out // 32) if c > 64 else None
    added = {"x2": second} if c > 64 else {"residual": second}
    norm = Norm(scale, shift, c // 32, 1e-5, stats, stats2)
    return {"x": x, "weight": weight, "bias": bias, "norm": norm, "groups": out // 32, **added}


def case(n: int, size: int, c: int) -> Case:
    def make(device: torch.device) -> Callable[[str], object]:
        if torch.cuda.get_device_capability(device) != (9, 0):
            pytest.skip("the kernel is for H100 and H200")
        given = arguments(n, size, c, device)
        return lambda impl: fused_conv(**given) if impl == "fused_conv" else hopper_conv(**given, impl=impl)

    pixels, out = n * size**2, min(c, 64)
    bytes_moved = 2 * 3 * out * pixels  # two maps in, one out
    return Case("hopper_conv", f"{n} x {c} x {size} x {size}, {BLOCKS[c]}", make, bytes_moved, 18 * pixels * out * c)


def by_fused_conv(case: Case) -> Callable[[], object]:
    call = case.make(torch.device("cuda"))
    return lambda: call("fused_conv")


CASES = [case(n, size, c) for n in (32, 1) for size in (64, 32, 16) for c in (32, 64, 128)]
test_hopper_conv = timing_of("hopper_conv", CASES, "CUDA", fused_conv=by_fused_conv)
