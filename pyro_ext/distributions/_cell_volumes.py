r"""Does a sampler follow a density? Cells of known volume, in any number of dimensions.

Under the law with density q the mean of :math:`1[y \in A] / q(y)` is the volume of A, whatever the cell A. Cells of
ellipsoids that follow the samples have volumes in closed form, and 1 / q is bounded in them. Unlike statistics of
distances to nearest neighbours, which depend on each other, the mean has a t-test that keeps its false-alarm rate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_ext.distributions._goodness_of_fit import grouped_mean

__all__ = ["volume_ratios"]

# Shells between the ellipsoids that hold these shares of the samples. Further out 1 / q may vary too much: with shares
# up to 3/4, ten-dimensional relaxed one-hot vectors raise 20 times as many alarms as they should.
_SHARES = (0.15, 0.3, 0.45)
_PILOT = 3  # one in so many samples places the cells


def volume_ratios(y: Tensor, log_density: Tensor) -> Tensor:
    """Return means, over some groups of samples, of estimated over true volumes of cells; 1 if the density is right.

    The cells are an ellipsoid, and halves of its three shells, each cut in two along each principal axis.

    Args:
        y: samples in free coordinates, ``(n, B, D)``; entries that are the same for all ``n`` are left out.
        log_density: the log-density at the samples, ``(n, B)``.

    Returns:
        ``(groups, cells)``, float64, the cells of all B laws.

    >>> y = torch.randn(10_000, 1, 2)
    >>> ratios = volume_ratios(y, torch.distributions.Normal(0.0, 1.0).log_prob(y).sum(-1))
    >>> ratios.shape, ratios.mean().round(decimals=1)
    (torch.Size([50, 13]), tensor(1., dtype=torch.float64))
    """
    y, log_density = y.double(), log_density.double()
    varies = (y != y[:1]).any(0)
    ratios = [_ratios(y[:, b, varies[b]], log_density[:, b]) for b in range(y.shape[1]) if varies[b].any()]
    return torch.cat(ratios, -1) if ratios else y.new_ones(2, 1)


def _ratios(y: Tensor, log_density: Tensor) -> Tensor:
    num_pilots, dim = len(y) // _PILOT, y.shape[-1]
    centre = y[:num_pilots].median(0).values
    pilots = y[:num_pilots] - centre
    spread = pilots.abs().median(0).values
    values, axes = torch.linalg.eigh(pilots.clamp(-5 * spread, 5 * spread).T.cov().reshape(dim, dim))
    scale = values.clamp_min(torch.finfo(y.dtype).tiny).sqrt()

    z = (y - centre) @ axes / scale
    log_inverse = -(log_density + scale.log().sum())[num_pilots:]
    shares = torch.tensor(_SHARES, dtype=y.dtype, device=y.device)
    radii = torch.cat([shares.new_zeros(1), z[:num_pilots].norm(dim=-1).quantile(shares)])
    z = z[num_pilots:]
    shell = torch.bucketize(z.norm(dim=-1), radii[1:])
    inside = torch.nn.functional.one_hot(shell, len(shares) + 1)[:, : len(shares)]
    sides = torch.stack([z > 0, z <= 0], -1).to(y.dtype).flatten(1)  # (n, 2 D)

    log_unit_ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    log_volumes = radii.pow(dim).diff().log() + log_unit_ball
    weights = (log_inverse.unsqueeze(-1) - log_volumes).exp() * inside  # (n, shells)
    halves = 2 * weights.unsqueeze(-1) * sides.unsqueeze(-2)
    whole = (weights * (log_volumes - log_volumes.logsumexp(0)).exp()).sum(-1, keepdim=True)
    return grouped_mean(torch.cat([whole, halves.flatten(1)], -1))
