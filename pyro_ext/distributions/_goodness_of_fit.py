"""Does a sampler draw from the law that is stated? Tests with a stated false-alarm rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# The chi-square law of a cell holds well enough from this expected count on.
_LEAST_EXPECTED = 5.0
_NUM_GROUPS = 50


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
        samples: ``(m, B) + event_shape``.
        values: distinct, ``(n,) + event_shape``.

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
        second: another, ``(m, B)``.

    >>> two_sample_p_values(torch.randn(1000, 2), torch.randn(1000, 2) + torch.tensor([0.0, 0.3])) < 1e-3
    tensor([False,  True])
    """
    from scipy.stats import ks_2samp

    columns = zip(first.T.cpu().numpy(), second.T.cpu().numpy(), strict=True)
    p_values = torch.tensor([float(ks_2samp(a, b, method="asymp").pvalue) for a, b in columns])
    return p_values * first.shape[1]
