r"""Does a sampler draw from the distribution that is stated? Tests with a stated false-alarm rate.

For continuous distributions: with density q the mean of :math:`1[y \in A] / q(y)` is the volume of A, whatever the
cell A. Cells of ellipsoids that follow the samples have volumes in closed form, and 1 / q is bounded in them. Unlike
statistics of distances to nearest neighbours, which depend on each other, the mean has a t-test that keeps its
false-alarm rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions import constraints as torch_constraints

from pyro_ext.distributions import constraints

__all__ = [
    "chi_square_p_value",
    "counts_of",
    "free_coordinates",
    "grouped_mean",
    "largest_excess",
    "mean_scores",
    "two_sample_p_values",
    "volume_ratios",
]

# The chi-square approximation of a cell holds well enough from this expected count on.
_LEAST_EXPECTED = 5.0
_NUM_GROUPS = 50
# Shells between the ellipsoids that hold these shares of the samples. Further out 1 / q may vary too much: with shares
# up to 3/4, ten-dimensional relaxed one-hot vectors raise 20 times as many alarms as they should.
_SHARES = (0.15, 0.3, 0.45)
_PILOT = 3  # one in so many samples places the cells


def chi_square_p_value(counts: Tensor, probs: Tensor) -> Tensor:
    """Return the p-value of Pearson's test, ``(B,)``, for counts and probabilities ``(n, B)``.

    Cells with a small expected count are pooled; what the pool leaves open is decided against an alarm.
    """
    expected = counts.sum(0) * probs
    rare = expected < _LEAST_EXPECTED
    pool_count, pool_expected = (counts * rare).sum(0), (expected * rare).sum(0)
    terms = torch.where(rare, 0, (counts - expected).square() / expected.clamp_min(_LEAST_EXPECTED))
    pool = torch.where(
        pool_expected < _LEAST_EXPECTED, 0, (pool_count - pool_expected).square() / pool_expected.clamp_min(1)
    )
    cells = (~rare).sum(0) + rare.any(0)
    return torch.special.gammaincc((cells - 1).clamp_min(1) / 2, (terms.sum(0) + pool) / 2)


def counts_of(samples: Tensor, values: Tensor) -> Tensor:
    """Count how often each value was drawn.

    Args:
        samples: the samples, ``(m, B) + event_shape``.
        values: the distinct values, ``(n,) + event_shape``.

    Returns:
        ``(n, B)`` float64.

    Raises:
        AssertionError: if a sample is none of the values.
    """
    num_values, (num_samples, batch) = len(values), samples.shape[:2]
    rows = torch.cat([values.reshape(num_values, -1), samples.reshape(num_samples * batch, -1)])
    inverse = rows.unique(dim=0, return_inverse=True)[1]
    if int(inverse.max()) >= num_values:
        raise AssertionError("a sample is none of the values that enumerate_support lists")
    place = torch.empty_like(inverse[:num_values])
    place[inverse[:num_values]] = torch.arange(num_values, device=place.device)
    drawn = place[inverse[num_values:]].reshape(num_samples, batch)
    counts = torch.zeros(num_values, batch, dtype=torch.float64, device=samples.device)
    return counts.scatter_add_(0, drawn, torch.ones_like(drawn, dtype=torch.float64))


def mean_scores(d: Any, parameters: Sequence[Tensor], num_samples: int) -> Tensor:
    """Return the mean of the score, the gradient of ``log_prob`` at samples, over each of some groups of samples.

    Returns:
        ``(groups, total number of entries of parameters)``, float64.
    """
    size = max(1, num_samples // _NUM_GROUPS)
    groups = []
    for _ in range(_NUM_GROUPS):
        log_prob = d.log_prob(d.sample((size,)).detach()).sum() / size
        # other parts of the caller's graph, and our own next group, still need it
        grads = torch.autograd.grad(log_prob, parameters, retain_graph=True)
        groups.append(torch.cat([grad.flatten().double() for grad in grads]))
    return torch.stack(groups)


def largest_excess(means: Tensor, eps: float, false_alarm: float, scale: float = 0.0) -> float:
    """Return how far the worst entry's mean exceeds what a mean of zero allows; positive is an alarm.

    A t-test for each entry of ``means`` ``(groups, entries)``, the means of groups of samples, with the false-alarm
    rate divided by their number; rounding at relative precision ``eps``, of the largest or of ``scale``, is allowed.
    """
    from scipy.stats import t

    groups, entries = means.shape
    threshold = float(t.isf(false_alarm / (2 * entries), groups - 1))
    standard_error = means.std(0) / groups**0.5
    rounding = eps**0.5 * means.abs().max().clamp_min(scale)
    return float((means.mean(0).abs() - threshold * standard_error - rounding).max())


def grouped_mean(x: Tensor) -> Tensor:
    """Return the mean of ``(n, ...)`` over each of some groups of neighbours, ``(groups, ...)``, a remainder left out.

    >>> grouped_mean(torch.ones(1000, 2)).shape
    torch.Size([50, 2])
    """
    size = max(1, len(x) // _NUM_GROUPS)
    groups = min(len(x), _NUM_GROUPS)
    return x[: groups * size].reshape(groups, size, *x.shape[1:]).mean(1)


def two_sample_p_values(first: Tensor, second: Tensor) -> Tensor:
    """Return p-values of the Kolmogorov-Smirnov test of each column, times the number of columns, ``(B,)``.

    Args:
        first: one sample, ``(n, B)``.
        second: another sample, ``(m, B)``.

    >>> two_sample_p_values(torch.randn(1000, 2), torch.randn(1000, 2) + torch.tensor([0.0, 0.3])) < 1e-3
    tensor([False,  True])
    """
    from scipy.stats import ks_2samp

    columns = zip(first.T.cpu().numpy(), second.T.cpu().numpy(), strict=True)
    p_values = torch.tensor([float(ks_2samp(a, b, method="asymp").pvalue) for a, b in columns])
    return p_values * first.shape[1]


def volume_ratios(y: Tensor, log_density: Tensor) -> Tensor:
    """Return means, over some groups of samples, of estimated over true volumes of cells; 1 if the density is right.

    The cells are an ellipsoid, and halves of its three shells, each cut in two along each principal axis.

    Args:
        y: samples in free coordinates, ``(n, B, D)``; entries that are the same for all ``n`` are left out.
        log_density: the log-density at the samples, ``(n, B)``.

    Returns:
        ``(groups, cells)``, float64, the cells of all B distributions.

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


def free_coordinates(support: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return unconstrained coordinates of values and the log-volume that maps their density.

    Log-ratios of weights on the simplex; elsewhere what :func:`torch.distributions.biject_to` returns. The volume of
    doubly stochastic matrices is found by automatic differentiation: the transform's own, part of their densities,
    would cancel from whatever is tested.

    Args:
        support: a constraint of dimension ``event_dim``.
        value: values within it, ``(n,) + batch_shape + event_shape``.

    Returns:
        ``(n,) + batch_shape + (D,)``, in which entries that are the same for all ``n`` play no part, and
        ``(n,) + batch_shape``, to be added to the log-density of the values.

    Raises:
        AssertionError: if no coordinates are known for the support.

    >>> y, log_volume = free_coordinates(dist.constraints.simplex, torch.tensor([[0.5, 0.25, 0.25]]))
    >>> y, log_volume.exp()
    (tensor([[0.6931, 0.0000, 0.0000]]), tensor([0.0312]))
    """
    if support is torch_constraints.simplex:
        log_weights = value.log()
        return _log_ratios(log_weights), log_weights.masked_fill(value == 0, 0).sum(-1)
    if support is constraints.log_simplex:  # its density is one of log-ratios
        return _log_ratios(value), value.new_zeros(value.shape[:-1])
    try:
        to_support = biject_to(support)
    except NotImplementedError:
        raise AssertionError(
            f"no coordinates are known for the support {support}: give coordinates, or skip goodness_of_fit"
        ) from None
    y = to_support.inv(value)
    if support is constraints.doubly_stochastic:
        return y.flatten(-2), _log_volume_of_blocks(to_support, y)
    log_volume = to_support.log_abs_det_jacobian(y, value)
    event_dim = to_support.domain.event_dim
    return (y.flatten(y.dim() - event_dim) if event_dim else y.unsqueeze(-1)), log_volume


def _log_volume_of_blocks(to_support: Any, y: Tensor) -> Tensor:
    """Return the log-determinant of the map from ``(..., M, M)`` to the upper-left block of matrices."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        block = to_support(y)[..., :-1, :-1].flatten(-2)
        # each matrix depends on its own coordinates only, so one backward pass gives a row of all Jacobians
        rows = [torch.autograd.grad(cell.sum(), y, retain_graph=True)[0].flatten(-2) for cell in block.unbind(-1)]
    if not rows:
        return y.new_zeros(y.shape[:-2])
    return torch.linalg.slogdet(torch.stack(rows, -2))[1]


def _log_ratios(log_weights: Tensor) -> Tensor:
    """Return log-weights less the last one that is not zero, so that this one becomes constant."""
    possible = log_weights.isfinite()
    last = possible.flip(-1).to(log_weights.dtype).argmax(-1, keepdim=True)
    ratios = log_weights - log_weights.gather(-1, possible.shape[-1] - 1 - last)
    return ratios.masked_fill(~possible, 0)
