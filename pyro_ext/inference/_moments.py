"""Mean and variance of vectors that come one by one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Moments"]


class Moments:
    """Running mean and variance of vectors, in double precision where the device has it; no vector is kept.

    Args:
        size: the length P of the vectors.
        device: where they lie.

    References:
        | Note on a method for calculating corrected sums of squares and products (Welford, 1962)
        | Algorithms for computing the sample variance (Chan, Golub and LeVeque, 1983), for :meth:`merge`
    """

    def __init__(self, size: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.count = 0
        self.mean = torch.zeros(size, dtype=dtype, device=device)
        self.squares = torch.zeros_like(self.mean)

    def add(self, vector: Tensor) -> None:
        """Take up one vector, shape ``(P,)``."""
        self.count += 1
        change = vector.to(self.mean.dtype) - self.mean
        self.mean += change / self.count
        self.squares.addcmul_(change, vector - self.mean)

    def merge(self, other: Moments) -> None:
        """Take up all vectors that ``other`` has taken up."""
        if other.count == 0:
            return
        count = self.count + other.count
        change = other.mean - self.mean
        self.squares += other.squares + change.square() * (self.count * other.count / count)
        self.mean += change * (other.count / count)
        self.count = count

    @property
    def variance(self) -> Tensor:
        """The unbiased variance of every component, shape ``(P,)``; at least two vectors are needed."""
        return self.squares / (self.count - 1)
