"""Draws without replacement from product distributions, and their most probable configurations, as compiled kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.kernels import compiled, in_threads

__all__ = ["earliest_configurations", "most_probable"]

_WORTH_A_THREAD = 1 << 14  # categories of configurations, which are ranked in the time that it takes to start a thread
_LARGE, _SCALE = 2.0**200, 2.0**-200  # where all probabilities of a beam are smaller, times are scaled down


def earliest_configurations(
    log_probs: Tensor, inverse: Tensor, category: Tensor, noise: Iterable[Tensor], k: int
) -> tuple[Tensor, Tensor]:
    r"""Return k configurations without replacement, ``(B, k, N)``, and their log-probabilities ``(B, k)``, in order.

    Instead of Gumbels with a largest one, times :math:`t = e^{-G}` with an earliest one: that of configuration x is
    exponential with rate p(x). Where the earliest child of a node of probability P comes at t, a child that would come
    :math:`d` after its sibling from the node's own coordinate comes at :math:`t + d / P`. This needs no logs. Only the
    ratios of times count, so that all are scaled down where they grow too large.

    Args:
        log_probs: log-probabilities, float64 ``(B, N, C)``.
        inverse: the inverses of the probabilities, ``(B, N, C)``, infinity for zero.
        category: the earliest categories of the first coordinate, in order, ``(B, m)``.
        noise: standard exponentials, first those of the first coordinate, ``(B, C)``, then blocks of those of the
            others for each member of the beam, ``(levels, B, k, C)``.
        k: the size of the beam.
    """
    batch, n, c = log_probs.shape
    m = category.shape[1]
    logs, inverses = log_probs.contiguous().numpy(), inverse.contiguous().numpy()
    score, times, weight = (np.zeros((batch, k)) for _ in range(3))
    parents, categories = (np.zeros((n, batch, k), np.int32) for _ in range(2))
    categories[0, :, :m] = category.numpy()
    score[:, :m] = log_probs[:, 0].gather(-1, category).numpy()
    weight[:, :m] = inverse[:, 0].gather(-1, category).numpy()
    blocks = iter(noise)
    times[:, :m] = next(blocks).gather(-1, category).numpy() * weight[:, :m]
    smallest, level = 1 + _WORTH_A_THREAD // (n * k * c), 1
    for block in blocks:
        rows = block.contiguous().numpy()

        def part(start: int, stop: int, rows: Any = rows, level: int = level, m: int = m) -> None:
            _advance(rows, logs, inverses, level, m, times, weight, score, parents, categories, start, stop)

        in_threads(part, batch, smallest=smallest)
        level += len(rows)
        for _ in range(len(rows)):
            m = min(k, m * c)
    index = np.empty((batch, m, n), np.int64)

    def trace(start: int, stop: int) -> None:
        _trace_back(parents, categories, index, start, stop)

    in_threads(trace, batch, smallest=smallest)
    return torch.from_numpy(index), torch.from_numpy(score[:, :m].copy())


def most_probable(log_probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k most probable configurations ``(B, k, N)`` of ``(B, N, C)``, and their log-probabilities, in order.

    Equal ones come in the order of their first coordinates, and so on.
    """
    batch, n, c = log_probs.shape
    size = 1
    for _ in range(n):
        size = min(k, size * c)
    table, index, score = log_probs.contiguous().numpy(), np.empty((batch, size, n), np.int64), np.empty((batch, size))

    def part(start: int, stop: int) -> None:
        _most_probable(table, index, score, start, stop)

    in_threads(part, batch, smallest=1 + _WORTH_A_THREAD // (n * c))
    return torch.from_numpy(index), torch.from_numpy(score)


@compiled
def _advance(
    noise: Any, log_probs: Any, inverses: Any, first: Any, size: Any, times: Any, weight: Any, score: Any, parents: Any,
    categories: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Extend beams of ``size`` members by one coordinate after the other, from the coordinate ``first`` on."""
    k, num_categories = times.shape[1], log_probs.shape[2]
    found, weights, scores = np.empty(k), np.empty(k), np.empty(k)
    tops, starts = np.empty(k, np.int64), np.empty(k)
    for b in range(start, stop):
        m = size
        for step in range(len(noise)):
            level = first + step
            parent, category, inverse = parents[level, b], categories[level, b], inverses[b, level]
            for i in range(m):  # the first child of a node comes when the node does
                row, top, earliest = noise[step, b, i], 0, noise[step, b, i, 0] * inverse[0]
                for c in range(1, num_categories):
                    time = row[c] * inverse[c]
                    if time < earliest:
                        top, earliest = c, time
                found[i], parent[i], category[i], tops[i], starts[i] = times[b, i], i, top, top, earliest
            number, full = m, min(k, m * num_categories)
            for i in range(m):
                node = times[b, i]
                if number == full and node >= found[full - 1]:
                    break  # no child of this node or of a later one comes early enough
                row = noise[step, b, i]
                for c in range(num_categories):
                    if c == tops[i]:
                        continue
                    time = node + (row[c] * inverse[c] - starts[i]) * weight[b, i]
                    if number < full:
                        number += 1
                    elif not time < found[full - 1]:
                        continue
                    at = number - 1
                    while at > 0 and found[at - 1] > time:
                        found[at], parent[at], category[at] = found[at - 1], parent[at - 1], category[at - 1]
                        at -= 1
                    found[at], parent[at], category[at] = time, i, c
            m, least = full, np.inf
            for j in range(m):
                weights[j] = weight[b, parent[j]] * inverse[category[j]]
                scores[j] = score[b, parent[j]] + log_probs[b, level, category[j]]
                least = min(least, weights[j])
            scale = _SCALE if least > _LARGE else 1.0
            for j in range(m):
                times[b, j], weight[b, j], score[b, j] = found[j] * scale, weights[j] * scale, scores[j]


@compiled
def _trace_back(parents: Any, categories: Any, index: Any, start: Any, stop: Any) -> None:
    num_levels = len(parents)
    for b in range(start, stop):
        for i in range(index.shape[1]):
            member = i
            for level in range(num_levels - 1, -1, -1):
                index[b, i, level] = categories[level, b, member]
                member = parents[level, b, member]


@compiled
def _most_probable(log_probs: Any, index: Any, score: Any, start: Any, stop: Any) -> None:
    n, c, k = log_probs.shape[1], log_probs.shape[2], index.shape[1]
    width = min(k, c)
    best, choice, values = np.empty(k), np.empty(width, np.int64), np.empty(width)
    parents, categories = np.empty((n, k), np.int64), np.empty((n, k), np.int64)
    found, parent, category = np.empty(k), np.empty(k, np.int64), np.empty(k, np.int64)
    for b in range(start, stop):
        m, best[0] = 1, 0.0
        for t in range(n):
            for i in range(c):  # the best categories, equal ones by number
                size = min(i + 1, width)
                value = log_probs[b, t, i]
                if i >= width and not value > values[width - 1]:
                    continue
                at = size - 1
                while at > 0 and values[at - 1] < value:
                    values[at], choice[at] = values[at - 1], choice[at - 1]
                    at -= 1
                values[at], choice[at] = value, i
            full, number = min(k, m * c), 0
            for i in range(m):
                for j in range(width):
                    value = best[i] + values[j] if t > 0 else values[j]
                    if number < full:
                        number += 1
                    elif not value > found[full - 1]:
                        break
                    at = number - 1
                    while at > 0 and found[at - 1] < value:
                        found[at], parent[at], category[at] = found[at - 1], parent[at - 1], category[at - 1]
                        at -= 1
                    found[at], parent[at], category[at] = value, i, choice[j]
            m = full
            best[:m], parents[t, :m], categories[t, :m] = found[:m], parent[:m], category[:m]
        score[b] = best[:k]
        for i in range(k):
            member = i
            for t in range(n - 1, -1, -1):
                index[b, i, t] = categories[t, member]
                member = parents[t, member]
