"""95 % intervals of a mean (Student's t)."""

import math

import numpy as np


def ci95(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95 % interval of the mean of independent values [N,...] (Student's t); nan for N = 1."""
    n = len(values)
    if n < 2:
        return np.full(values.shape[1:], math.nan)
    return t_quantile_975(n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)


def t_quantile_975(degrees_of_freedom: int) -> float:
    """The 97.5 % quantile of Student's t-distribution, to 3 decimal places.

    Tabulated up to 10 degrees of freedom; above, expanded about the normal quantile (Abramowitz and Stegun, 26.7.5).
    """
    n = degrees_of_freedom
    if n < 1:
        raise ValueError(f"degrees_of_freedom: expected at least 1, got {n}")
    table = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
    if n <= len(table):
        return table[n - 1]
    x = 1.959964
    return (
        x
        + (x**3 + x) / (4 * n)
        + (5 * x**5 + 16 * x**3 + 3 * x) / (96 * n**2)
        + (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / (384 * n**3)
    )
