"""The calls of the kernels that DIAMOND makes, at its shapes, with the memory they move and the arithmetic they do.

Bytes count every element each kernel of the call loads or stores once; parameters and partial sums are left out, being
thousands of times smaller. Floating-point operations are those of the formulas, an exponential or a division as one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diamond_fast.kernels.ada_group_norm_silu import ada_group_norm_silu, whole_groups_fit
from diamond_fast.kernels.bias_residual_stats import bias_residual_stats, group_norm_stats
from diamond_fast.kernels.edm_loss import edm_loss
from diamond_fast.kernels.edm_precondition_input import edm_precondition_input
from diamond_fast.kernels.edm_step import edm_step
from diamond_fast.kernels.frames_to_float import frames_to_float
from diamond_fast.kernels.fused_conv import Norm, Projection, fused_conv
from diamond_fast.kernels.group_norm_silu import group_norm_silu
from diamond_fast.kernels.linear_step import linear_step
from diamond_fast.kernels.lstm_unroll import lstm_unroll
from diamond_fast.kernels.mamba_step import mamba_step

NORM_FORWARD_FLOPS = 12  # 4 for the statistics, 3 to normalise, 5 for SiLU
NORM_BACKWARD_FLOPS = 21  # 13 for x_hat, z and dz, 3 for the sums, 5 for dx
BATCHES = (32, 256)
BF16, FP32 = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Case:
    """A call at one shape. ``make(device)`` allocates its inputs and returns the call, a function of ``impl``."""

    op: str  # the stem of the kernel's file
    shape: str
    make: Callable[[torch.device], Callable[[str], object]]
    bytes_moved: int
    flops: int


def image(device: torch.device, n: int, c: int, size: int, dtype: torch.dtype) -> Tensor:
    """[N,C,size,size], channels last: random on a GPU, untouched memory elsewhere, where nothing is computed."""
    x = torch.empty(n, size, size, c, device=device, dtype=dtype).permute(0, 3, 1, 2)
    return x.normal_() if device.type == "cuda" else x


def norm_case(
    op: str, n: int, c1: int, c2: int, size: int, dtype: torch.dtype, what: str, group: int = 32, gain=None
) -> Case:
    """A norm's pass: what = forward, forward with statistics handed in, or forward and backward together."""
    c, groups = c1 + c2, (c1 + c2) // group
    function = ada_group_norm_silu if op == "ada_group_norm_silu" else group_norm_silu
    whole = whole_groups_fit(torch.empty(n, c1, size, size, dtype=dtype, device="meta"), None, c1 // group)

    def make(device):
        leaves = [
            image(device, n, c1, size, dtype),
            *(torch.ones(2, *((n,) if gain is None else ()), c, device=device)),
        ]
        x2 = image(device, n, c2, size, dtype) if c2 else None
        stats = {}
        if what == "given statistics":
            for name, x in (("stats", leaves[0]), ("stats2", x2)):
                if x is not None:
                    stats[name] = group_norm_stats(x, x.size(1) // group, impl="auto" if x.is_cuda else "triton")
        backward = what == "forward + backward"
        if backward:
            inputs = [x.requires_grad_() for x in (*leaves, x2) if x is not None]
            dout = image(device, n, c, size, dtype)

        def call(impl):
            out = function(*leaves, groups, x2=x2, **stats, impl=impl)
            return torch.autograd.grad(out, inputs, dout) if backward else out

        return call

    passes = 2 if whole or what == "given statistics" else 3
    flops = NORM_FORWARD_FLOPS
    if what == "forward + backward":
        passes += 3 if whole else 5
        flops += NORM_BACKWARD_FLOPS + (0 if whole else 13)
    elements = n * c * size**2
    name = f"{n} x {c1}{f'+{c2}' if c2 else ''} x {size} x {size} {str(dtype)[6:]}, {what}"
    if group != 32:
        name += f", groups of {group}"
    return Case(op, name, make, passes * elements * dtype.itemsize, flops * elements)


def stats_case(n: int, c: int, size: int, dtype: torch.dtype, group: int = 32, residual: bool = True) -> Case:
    def make(device):
        x, r = (image(device, n, c, size, dtype) for _ in range(2))
        bias = torch.zeros(c, device=device)
        return lambda impl: bias_residual_stats(x, bias, r if residual else None, c // group, impl=impl)

    elements = n * c * size**2
    name = f"{n} x {c} x {size} x {size} {str(dtype)[6:]}{'' if residual else ', bias alone'}"
    if group != 32:
        name += f", groups of {group}"
    passes = 3 if residual else 2
    return Case("bias_residual_stats", name, make, passes * elements * dtype.itemsize, (3 + passes) * elements)


def conv_case(
    n: int, c1: int, c2: int, out: int, size: int, dtype: torch.dtype, what: str, kernel: int = 3, group: int = 32
) -> Case:
    """what: norm, norm + residual, norm + projection (of the same inputs), plain, stride 2, upsample."""
    c, stride, upsample = c1 + c2, 2 if what == "stride 2" else 1, what == "upsample"
    out_size = size * (2 if upsample else 1) // stride

    def make(device):
        x, x2 = (image(device, n, k, size, dtype) if k else None for k in (c1, c2))
        weight = torch.zeros(out, kernel, kernel, c, dtype=dtype, device=device).permute(0, 3, 1, 2)
        bias, norm, residual = torch.zeros(out, device=device), None, None
        if what.startswith("norm"):
            stats = [
                None if v is None else group_norm_stats(v, v.size(1) // group, impl="auto" if v.is_cuda else "triton")
                for v in (x, x2)
            ]
            norm = Norm(*torch.ones(2, n, c, device=device), c // group, 1e-5, *stats)
        if what.endswith("residual"):
            residual = image(device, n, out, out_size, dtype)
        if what.endswith("projection"):
            residual = Projection(torch.zeros(out, c, 1, 1, dtype=dtype, device=device), bias, x, x2)
        groups = max(1, out // group)
        return lambda impl: fused_conv(x, weight, bias, norm, residual, x2, stride, upsample, groups, impl=impl)

    pixels, inputs = n * out_size**2, n * size**2 * c
    further = {"residual": pixels * out, "projection": inputs}.get(what.split(" + ")[-1], 0)
    products = pixels * out * c * (kernel**2 + what.endswith("projection"))
    name = f"{n} x {c1}{f'+{c2}' if c2 else ''} to {out} x {size} x {size} {str(dtype)[6:]}, {kernel}x{kernel}, {what}"
    flops = 2 * products + (NORM_FORWARD_FLOPS * inputs if what.startswith("norm") else 0)
    return Case("fused_conv", name, make, (inputs + further + pixels * out) * dtype.itemsize, flops)


def input_case(n: int, size: int) -> Case:
    def make(device):
        noisy = image(device, n, 3, size, FP32)
        obs = torch.zeros(n, 4, 3, size, size, device=device)
        return lambda impl: edm_precondition_input(noisy, obs, 0.5, impl=impl)

    pixels = n * size**2
    bytes_moved = pixels * (3 * 4 + 12 * 4 + 16 * 2)
    return Case(
        "edm_precondition_input", f"{n} x (4+1) x 3 x {size} x {size}", make, bytes_moved, pixels * (12 * 4 + 3)
    )


def step_case(n: int, size: int) -> Case:
    def make(device):
        x, output = image(device, n, 3, size, FP32), image(device, n, 3, size, BF16)
        buffer = image(device, n, 16, size, BF16)
        return lambda impl: edm_step(x, output, 0.5, 0.1, network_input=buffer, first_channel=12, impl=impl)

    elements = 3 * n * size**2
    return Case("edm_step", f"{n} x 3 x {size} x {size}", make, elements * (4 + 2 + 4 + 2), elements * 16)


def linear_step_case(n: int, size: int) -> Case:
    """As DDPM takes it."""

    def make(device):
        (x, noise), output = (image(device, n, 3, size, FP32) for _ in range(2)), image(device, n, 3, size, BF16)
        factors = {"of_output": 0.6, "divisor": 0.8, "of_estimate": 0.3, "of_noisy": 0.7, "noise_scale": 0.2}
        following = {"network_input": image(device, n, 16, size, BF16), "first_channel": 12}
        return lambda impl: linear_step(x, output, noise=noise, rounding="clamp", **factors, **following, impl=impl)

    elements = 3 * n * size**2
    return Case("linear_step", f"{n} x 3 x {size} x {size}", make, elements * (4 + 2 + 4 + 4 + 2), elements * 10)


def loss_case(n: int, size: int) -> Case:
    def make(device):
        noisy, clean = (image(device, n, 3, size, FP32) for _ in range(2))
        output = image(device, n, 3, size, BF16).requires_grad_()
        sigma, mask = torch.ones(n, device=device), torch.ones(n, dtype=torch.bool, device=device)
        return lambda impl: torch.autograd.grad(edm_loss(output, noisy, clean, sigma, mask, impl=impl).loss, output)

    elements = 3 * n * size**2
    name = f"{n} x 3 x {size} x {size}, forward + backward"
    return Case("edm_loss", name, make, elements * (2 + 4 + 4 + 4 + 2 + 4 + 4 + 2), elements * 21)


def frames_case(n: int, length: int, size: int) -> Case:
    def make(device):
        frames = torch.zeros(n, length, size, size, 3, dtype=torch.uint8, device=device)
        mask = torch.ones(n, length, dtype=torch.bool, device=device)
        return lambda impl: frames_to_float(frames, mask, impl=impl)

    elements = 3 * n * length * size**2
    return Case("frames_to_float", f"{n} x {length} x {size} x {size} x 3", make, elements * (1 + 4), elements * 4)


def lstm_case(n: int, length: int, width: int) -> Case:
    """As the policy's memory is computed anew: with resets."""

    def make(device):
        sizes = {"weight_hh": (4 * width, width), "gates": (n, length, 4 * width), "hx": (n, width), "cx": (n, width)}
        sizes |= {"fresh_hx": (n, length, width), "fresh_cx": (n, length, width)}
        leaves = {name: torch.zeros(*size, device=device).requires_grad_() for name, size in sizes.items()}
        dead = torch.zeros(n, length, dtype=torch.bool, device=device)
        dout = torch.ones(n, length, width, device=device)

        def call(impl):
            _, _, hidden = lstm_unroll(**leaves, dead=dead, impl=impl)
            return torch.autograd.grad(hidden, list(leaves.values()), dout)

        return call

    rows = n * length * width
    elements = rows * (30 + 28) + 2 * length * 4 * width**2  # the weights are read at every step, there and back
    flops = 3 * 2 * 4 * rows * width + 45 * rows
    return Case("lstm_unroll", f"{n} x {length} x {width}, forward + backward", make, elements * 4, flops)


def mamba_case(n: int, width: int) -> Case:
    """A layer of EDELINE's memory, its state a part of a longer row."""
    channels, size, taps, rank = 2 * width, 16, 4, width // 16
    state = channels * (taps - 1 + size)

    def make(device):
        u, z = torch.zeros(n, 2 * channels, device=device).chunk(2, dim=1)
        memory = torch.zeros(n, 3 * state, device=device)[:, :state]
        sizes = [(taps, channels), (channels,), (rank + 2 * size, channels), (channels, rank), (channels,)]
        weights = [torch.zeros(*s, device=device) for s in (*sizes, (channels, size), (channels,))]
        return lambda impl: mamba_step(u, z, memory, *weights, impl=impl)

    # u, z and gated; v, written once and read twice; the memory, read and written; a sample's steering is left out
    elements = n * (6 * channels + 2 * state)
    products = n * channels * (2 * rank + 2 * size)
    flops = 2 * products + n * channels * (6 * size + 2 * taps + 40)
    return Case("mamba_step", f"{n} x {channels} x {size}", make, elements * 4, flops)


def paper_cases() -> list[Case]:
    """The calls of the paper's networks: 64 channels at 64, 32, 16 and 8 pixels a side, concatenated on the way up."""
    cases = []
    for n in BATCHES:
        for size in (64, 32, 16, 8):
            for c2 in (0, 64):
                for what in ("forward", "given statistics", "forward + backward"):
                    cases.append(norm_case("ada_group_norm_silu", n, 64, c2, size, BF16, what))
        cases.append(norm_case("group_norm_silu", n, 64, 0, 64, BF16, "forward + backward", gain="affine"))
        cases.append(norm_case("group_norm_silu", n, 32, 0, 64, BF16, "forward + backward", gain="affine"))
        for size in (64, 32, 16, 8):
            cases.append(stats_case(n, 64, size, BF16))
        cases.append(stats_case(n, 64, 64, BF16, residual=False))
        for size in (64, 32, 16, 8):
            cases += [conv_case(n, 64, 0, 64, size, BF16, what) for what in ("norm", "norm + residual")]
            cases += [conv_case(n, 64, 64, 64, size, BF16, what) for what in ("norm", "norm + projection")]
        cases += [conv_case(n, 64, 0, 64, 64, BF16, "stride 2"), conv_case(n, 64, 0, 64, 32, BF16, "upsample")]
        cases += [conv_case(n, 16, 0, 64, 64, BF16, "plain"), conv_case(n, 64, 0, 8, 64, BF16, "norm")]
        cases.append(conv_case(n, 64, 0, 64, 8, BF16, "residual", kernel=1))
        cases += [input_case(n, 64), step_case(n, 64), linear_step_case(n, 64), loss_case(n, 64)]
        cases += [frames_case(n, length, 64) for length in (19, 6)]
        cases += [lstm_case(n, 15, 512), mamba_case(n, 512)]
    return cases


def few_cases() -> list[Case]:
    """One call of each kind."""
    return [
        norm_case("ada_group_norm_silu", 32, 64, 64, 64, BF16, "forward + backward"),
        norm_case("ada_group_norm_silu", 32, 64, 0, 16, BF16, "forward + backward"),
        stats_case(32, 64, 64, BF16),
        conv_case(32, 64, 64, 64, 64, BF16, "norm + projection"),
        input_case(32, 64),
        step_case(32, 64),
        linear_step_case(32, 64),
        loss_case(32, 64),
        frames_case(32, 6, 64),
        lstm_case(32, 2, 512),
        mamba_case(32, 512),
    ]


def sweep_cases() -> list[Case]:
    """Other groups, dtypes, sizes and batches: what else the launch parameters can become."""
    cases = []
    for dtype in (FP32, torch.float16):
        for c, group in ((64, 32), (16, 16), (64, 8), (120, 20), (128, 64), (512, 256), (1024, 1024)):
            for n, size in ((1, 64), (64, 64), (2, 8), (1, 200)):
                if dtype == torch.float16 and (c, n) not in ((16, 2), (1024, 64), (64, 64)):
                    continue
                cases.append(norm_case("ada_group_norm_silu", n, c, c, size, dtype, "forward + backward", group))
                cases.append(stats_case(n, c, size, dtype, group))
    for dtype in (BF16, torch.float16, FP32):
        for n, c, out, size, group in (
            (1, 64, 64, 64, 32),
            (64, 32, 64, 40, 32),
            (2, 40, 24, 9, 40),
            (1, 128, 96, 5, 32),
        ):
            for what in ("norm", "norm + residual", "norm + projection", "plain", "stride 2", "upsample"):
                cases.append(conv_case(n, c, 0, out, size, dtype, what, group=min(group, out)))
        cases.append(conv_case(4, 64, 64, 64, 30, dtype, "norm + projection"))
        cases.append(conv_case(4, 15, 0, 64, 30, dtype, "plain"))
        cases.append(conv_case(2, 63, 0, 63, 16, dtype, "residual", kernel=1, group=63))
    cases.append(norm_case("group_norm_silu", 4, 64, 0, 40, FP32, "forward + backward", gain="affine"))
    return cases
