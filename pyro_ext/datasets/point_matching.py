"""Simulated matching problems: noisy observations of known points in an unknown order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pyro_ext.datasets.base import IndexedDataset, Splits
from pyro_ext.utils.checks import positive_int, positive_number

__all__ = ["PointProblems", "point_matching"]


@dataclass
class PointProblems(Splits):
    """Matching problems with the noise of their observations.

    Args:
        noise: the standard deviation of the observations around the points.
    """

    noise: float = 0.5


def point_matching(noise: float = 0.5, num_problems: int = 200, size: int = 6, seed: int = 0) -> PointProblems:
    r"""Simulate problems in which N observations are to be matched with the N points they come from.

    .. math::  c_n \sim N(0, I_2), \qquad \pi \sim \mathrm{Uniform}(S_N), \qquad y_m \sim N(c_{\pi_m}, \sigma^2 I_2).

    Each data point is a whole problem with a posterior of its own. Nothing is learnt that other problems could use, so
    that training and validation have the same problems. Only ``valid`` has the permutations, for evaluation.

    Args:
        noise: the standard deviation :math:`\sigma` of the observations around the points.
        num_problems: the number of problems.
        size: the number N of points in each problem.
        seed: the seed of points, permutations and residuals. Problems of the same seed and size differ only by the
            noise, which multiplies the same standardised residuals.

    Returns:
        ``x`` of shape ``(num_problems, 2, N, 2)``, the points and then the observations, float32; ``y`` of shape
        ``(num_problems, N)``, int64, the point that each observation comes from.

    Raises:
        ValueError: if ``noise`` is not positive and finite, or a number is not a positive integer.

    References:
        | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018),
        | section 5.1, https://arxiv.org/abs/1710.09508; the distribution of the points is not stated there

    Example:
        >>> problems = point_matching(noise=0.25, num_problems=500)
        >>> problems.valid, problems.noise
        (IndexedDataset(x (500, 2, 6, 2), labels (500, 6)), 0.25)
        >>> points, observed = problems.valid.x.unbind(1)
        >>> (observed - points.gather(1, problems.valid.y[..., None].expand_as(points))).std()
        tensor(0.2508)
    """
    positive_number("noise", noise)
    positive_int("num_problems", num_problems)
    positive_int("size", size)
    generator = torch.Generator().manual_seed(seed)
    points, residual = torch.randn(2, num_problems, size, 2, generator=generator, device="cpu")
    order = torch.rand(num_problems, size, generator=generator, dtype=torch.float64, device="cpu").argsort(-1)
    observed = points.gather(1, order.unsqueeze(-1).expand_as(points)) + noise * residual
    x = torch.stack([points, observed], 1)
    labelled = IndexedDataset(x, order)
    return PointProblems("point_matching", train=IndexedDataset(x), valid=labelled, noise=float(noise))
