"""What the machine can do at best, so that times can be given as a share of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["copy_rate", "gemm_rate"]


def gemm_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """Return the operations of a product of two square matrices, in thousand millions a second."""
    x = torch.rand(size, size, dtype=dtype)
    return 2e-9 * size**3 / _least(lambda: x @ x)


def copy_rate(megabytes: int = 256) -> float:
    """Return how many gigabytes a second a copy within memory reads and writes."""
    source = torch.ones(megabytes << 17, dtype=torch.float64)
    target = torch.empty_like(source)
    return 2 * source.nbytes * 1e-9 / _least(lambda: target.copy_(source))


def _least(function: Callable[[], object], turns: int = 12) -> float:
    taken = []
    for _ in range(turns):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)
