"""How long torch's idle threads hold their cores. Imports no torch, which reads this when it is imported."""

import os

SPIN = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
"""A fraction of a millisecond (GNU's OpenMP, a count of pauses) and one millisecond (LLVM's and Intel's); by themselves
they wait for 10 and 200. Torch's own operations follow each other sooner than that, so they lose nothing."""


def share_cores() -> None:
    """Have torch's idle threads sleep soon, for they spin on cores that the compiled engine's threads are to use.

    Call it before torch is imported. What the environment says about waiting stays as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in SPIN.items():
            os.environ.setdefault(name, value)
