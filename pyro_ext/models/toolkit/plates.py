"""The plate of the data points, scaled from a batch to all of them."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

__all__ = ["data_plate"]


def data_plate(size: int, x: Tensor, index: Tensor | None, name: str = "data") -> pyro.plate:
    """Return the rightmost plate, of ``size`` data points of which a batch is at hand.

    Indices are always handed over: left to itself a plate would permute all of ``size`` at each call.

    Args:
        size: the number N of data points; log-probabilities of a batch of B are scaled by N / B.
        x: the batch, shape ``(B, ...)``.
        index: the places of the batch in the data set, shape ``(B,)``; the first ones if None.
        name: what the plate is called.

    Example:
        >>> with data_plate(100, torch.zeros(4, 2), None) as index:
        ...     index
        tensor([0, 1, 2, 3])
    """
    subsample = torch.arange(len(x), device=x.device) if index is None else index
    return pyro.plate(name, size, subsample=subsample, dim=-1)
