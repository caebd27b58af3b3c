"""The Fréchet distance of two sets of features, each taken as a normal distribution (Dowson & Landau 1982)."""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), in float64; the covariances are divided by the count.

    Args:
        a, b: features [M,D] and [N,D], with M and N above D: else a covariance has no full rank, and the distance
            says more of the counts than of what is compared.

    Raises:
        ValueError: they are not that many, or of other widths.
    """
    if a.dim() != 2 or b.dim() != 2 or a.size(1) != b.size(1):
        raise ValueError(f"features: expected [M,D] and [N,D], got {list(a.shape)} and {list(b.shape)}")
    if min(len(a), len(b)) <= a.size(1):
        raise ValueError(f"features: {a.size(1)} numbers need more samples than that, got {len(a)} and {len(b)}")
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a), _moments(b)
    # the eigenvalues of S_a S_b are those of this symmetric matrix, whose roots are real
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * shared
    return max(distance.item(), 0.0)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.double()
    return x.mean(0), torch.cov(x.T, correction=0).reshape(x.size(1), x.size(1))
