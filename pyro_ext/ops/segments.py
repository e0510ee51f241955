"""Sums, maxima and softmax over the segments of a flat vector: rows of different lengths without padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["segment_log_softmax", "segment_logsumexp", "segment_max", "segment_sum"]


def segment_sum(x: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Sum the entries of each segment.

    Args:
        x: the entries of all segments, ``batch_shape + (M,)``.
        segment: which segment each entry belongs to, int64 ``(M,)``.
        num_segments: the number S of segments.

    Returns:
        ``batch_shape + (S,)``; 0 for an empty segment.

    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 3)
    tensor([1., 0., 6.])
    """
    return x.new_zeros(*x.shape[:-1], num_segments).index_add(-1, segment, x)


def segment_max(x: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Return the largest entry of each segment, ``batch_shape + (S,)``; -inf for an empty one.

    Args:
        x: the entries of all segments, ``batch_shape + (M,)``.
        segment: which segment each entry belongs to, int64 ``(M,)``.
        num_segments: the number S of segments.

    >>> segment_max(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 3)
    tensor([1., -inf, 4.])
    """
    lowest = x.new_full((*x.shape[:-1], num_segments), -math.inf)
    return lowest.scatter_reduce(-1, segment.expand(x.shape), x, "amax")


def segment_logsumexp(x: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Return the log of the sum of the exponentials of each segment.

    Args:
        x: the entries of all segments, ``batch_shape + (M,)``; -inf is allowed, and has gradient zero.
        segment: which segment each entry belongs to, int64 ``(M,)``.
        num_segments: the number S of segments.

    Returns:
        ``batch_shape + (S,)``; -inf where a segment is empty or holds -inf only.

    >>> segment_logsumexp(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 0, 2]), 3)
    tensor([0.6931, -inf, 1.0000])
    """
    with torch.no_grad():
        largest = segment_max(x, segment, num_segments)
        offset = largest.masked_fill(largest == -math.inf, 0)
    # beside a maximum of -inf every exponential is 0, and so is the gradient
    total = segment_sum((x - offset.index_select(-1, segment)).exp(), segment, num_segments)
    empty = total == 0
    return (total.masked_fill(empty, 1).log() + offset).masked_fill(empty, -math.inf)


def segment_log_softmax(x: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    r"""Normalise each segment: :math:`x_i - \log \sum_{j \sim i} e^{x_j}`.

    Args:
        x: the entries of all segments, ``batch_shape + (M,)``; -inf is allowed.
        segment: which segment each entry belongs to, int64 ``(M,)``.
        num_segments: the number S of segments.

    Returns:
        ``batch_shape + (M,)``; a segment that holds -inf only stays so.

    >>> segment_log_softmax(torch.tensor([3.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), 2)
    tensor([-0.6931, -0.6931,  0.0000])
    """
    total = segment_logsumexp(x, segment, num_segments)
    return x - total.masked_fill(total == -math.inf, 0).index_select(-1, segment)
