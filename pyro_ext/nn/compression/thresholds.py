"""Where to cut scores: at a gap between them, or where the error begins to rise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.utils.checks import nonnegative_number, positive_int

__all__ = ["ThresholdPoint", "choose_threshold", "widest_gap"]


class ThresholdPoint(NamedTuple):
    """What a threshold does.

    Args:
        threshold: scores of at least this are removed.
        removed: the fraction that is removed.
        error: the error that is left with.
    """

    threshold: float
    removed: float
    error: float


def widest_gap(scores: Tensor, fewest: int = 1) -> float:
    """Return the middle of the widest gap between neighbours among sorted scores.

    Trained groups fall into those that are used and those that are noise, whose scores lie apart.

    Args:
        scores: the scores of a layer's groups, any shape.
        fewest: how many scores there have to be on either side of the gap.

    Returns:
        The threshold; infinite where there are not enough finite scores, so that all are kept.

    Raises:
        ValueError: if ``fewest`` is not a positive integer.

    Example:
        >>> widest_gap(torch.tensor([-6.0, -5.0, 2.0, 2.5]))
        -1.5
    """
    positive_int("fewest", fewest)
    ordered = scores.detach().flatten()[scores.detach().flatten().isfinite()].double().sort().values
    if len(ordered) < 2 * fewest:
        return math.inf
    inner = ordered[fewest - 1 : len(ordered) - fewest + 1]
    at = int(inner.diff().argmax())
    return float((inner[at] + inner[at + 1]) / 2)


def choose_threshold(
    scores: Tensor, error: Callable[[float], float], tolerance: float = 0.5, number: int = 16
) -> tuple[float, list[ThresholdPoint]]:
    """Return the threshold that removes most while the error stays near that of the whole network.

    Args:
        scores: the scores of the groups, any shape.
        error: the error with a threshold, such as the per cent of images that are classified wrongly after
            :func:`prune`; measured on data that the final figure is not measured on.
        tolerance: how far the error may rise above that without pruning.
        number: how many thresholds to try, spread evenly over the ranks of the scores.

    Returns:
        The threshold, infinite if no removal is allowed, and all thresholds tried, from the largest to the smallest.

    Raises:
        ValueError: if ``tolerance`` or ``number`` is out of range.

    Example:
        >>> scores = torch.arange(8.0)
        >>> threshold, tried = choose_threshold(scores, lambda t: 2.0 if t > 2 else 50.0, number=8)
        >>> threshold, len(tried)
        (2.5, 9)
    """
    nonnegative_number("tolerance", tolerance)
    positive_int("number", number)
    ordered = scores.detach().flatten().double().sort().values
    size = len(ordered)
    ranks = sorted({round(size * at / number) for at in range(number)}, reverse=True)  # how many are kept
    middles = [math.inf if at == size else float(_between(ordered, at)) for at in [size, *ranks] if at <= size]
    tried = [
        ThresholdPoint(threshold, float((ordered >= threshold).double().mean()) if size else 0.0, error(threshold))
        for threshold in dict.fromkeys(middles)
    ]
    allowed = [point for point in tried if point.error <= tried[0].error + tolerance]
    return max(allowed, key=lambda point: point.removed).threshold, tried


def _between(ordered: Tensor, at: int) -> Tensor:
    """Return a number between a score and the one before it, or below all."""
    return ordered[0] - 1 if at == 0 else torch.lerp(ordered[at - 1], ordered[at], 0.5)
