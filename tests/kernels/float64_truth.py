"""Comparing an operation, values and gradients, with its reference in float64."""

from collections.abc import Callable

import torch
from torch import Tensor

# Largest error allowed, as a share of the largest true value. A rounding of the result is half of the dtype's epsilon;
# the interpreter rounds bfloat16 towards zero, which costs a whole one. Float32 sums of a few thousand terms stay
# well below 1e-5.
TOLERANCE = {torch.float32: 4e-6, torch.float16: 1.1e-3, torch.bfloat16: 8.5e-3}


def assert_near(actual: Tensor, truth: Tensor, dtype: torch.dtype, name: str) -> None:
    assert actual.shape == truth.shape, f"{name}: shape {actual.shape}, should be {truth.shape}"
    assert actual.isfinite().all(), f"{name}: not finite"
    error = (actual.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
    assert error <= TOLERANCE[dtype], f"{name}: off by {error:.2e} of the largest value"


def assert_matches_float64(
    op: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: dict[str, Tensor], dout: Tensor
) -> None:
    """Compares op(**inputs) and its gradients for upstream gradient ``dout`` with the reference on float64 copies."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out = op(**leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), dout)

    true_leaves = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    truth = reference(**true_leaves)
    true_grads = torch.autograd.grad(truth, list(true_leaves.values()), dout.double())

    assert_near(out, truth, out.dtype, "output")
    for (name, leaf), grad, true_grad in zip(leaves.items(), grads, true_grads, strict=True):
        assert grad.dtype == leaf.dtype, f"gradient of {name}: dtype {grad.dtype}"
        assert_near(grad, true_grad, leaf.dtype, f"gradient of {name}")


def assert_rounded_from(actual: Tensor, truth: Tensor) -> None:
    """Float32 results of a few operations, within a few roundings of the float64 formula.

    Bits are not compared: libraries round the same formula differently from one instruction set to the next.
    """
    torch.testing.assert_close(actual.double(), truth, rtol=5e-7, atol=5e-7)


def assert_quantised(actual: Tensor, unquantised: Tensor) -> None:
    """Frames of 256 levels in [-1, 1], truncated; either level will do where the true value lies on the edge of two."""
    level = (actual.double() + 1) * 127.5
    assert (level - level.round()).abs().max() < 1e-4
    true_level = (unquantised.double().clamp(-1, 1) + 1) * 127.5
    assert ((true_level - 1e-4).floor() <= level.round()).all()
    assert (level.round() <= (true_level + 1e-4).floor()).all()
