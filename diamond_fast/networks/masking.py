"""Averages over the part of a batch that is not padding."""

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values where mask is True, without indexing (which would stall a GPU); 0 if nothing is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
