"""Triton if it is installed. Elsewhere a stand-in that lets the modules load: their torch paths need no Triton."""

try:
    import triton
    import triton.language as tl
except ImportError:

    class _Missing:
        constexpr = None

        @staticmethod
        def jit(function):
            return function

    triton = tl = _Missing()

INSTALLED = hasattr(triton, "__version__")
# True under TRITON_INTERPRET=1, which Triton reads when it is imported: kernels then run on CPU tensors, slowly.
INTERPRETED = INSTALLED and bool(triton.knobs.runtime.interpret)

__all__ = ["INSTALLED", "INTERPRETED", "tl", "triton"]
