"""Configurations without replacement, and the mass outside them, as compiled kernels; Numba comes at the first call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.kernels import compiled, in_threads

__all__ = ["earliest_configurations", "log_mass_outside"]

_WORTH_A_THREAD = 1 << 14  # categories of configurations, which are ranked in the time that it takes to start a thread
_TINY = 1e-250  # a smaller sum of probabilities is taken in logs
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


def log_mass_outside(log_probs: Tensor, index: Tensor) -> Tensor:
    """Return the log of the mass of all configurations outside the set ``(B, k, N)``, float64 ``(B,)``."""
    batch, n, c = log_probs.shape
    table, members, result = log_probs.contiguous(), index.contiguous().numpy(), np.empty(batch)
    logs, probs = table.numpy(), table.exp().numpy()

    def part(start: int, stop: int) -> None:
        _outside(logs, probs, members, result, start, stop)

    in_threads(part, batch, smallest=1 + _WORTH_A_THREAD // (n * c * members.shape[1]))
    return torch.from_numpy(result)


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
def _outside(log_probs: Any, probs: Any, index: Any, result: Any, start: Any, stop: Any) -> None:
    """Sum the branches of the prefix tree that hold no member: see :func:`.product.product_remainder`."""
    k, num_categories = index.shape[1], log_probs.shape[2]
    group, prefix, taken = np.empty(k, np.int64), np.empty(k), np.zeros(num_categories, np.int64)
    stamp = 0
    for b in range(start, stop):
        group[:], prefix[:] = 0, 1.0  # the first member with the same prefix; its probability
        total = 0.0
        for t in range(index.shape[2]):
            for i in range(k):
                if group[i] == i:
                    stamp += 1
                    _take(index, b, t, i, group, taken, stamp)
                    mass = 0.0
                    for c in range(num_categories):
                        mass += probs[b, t, c] if taken[c] != stamp else 0.0
                    total += prefix[i] * mass
            for i in range(k):
                prefix[i] *= probs[b, t, index[b, i, t]]
            _part_ways(index, b, t, group)
        if total > _TINY:  # what underflowed is lost in rounding
            result[b] = np.log(total)
        else:
            stamp, result[b] = _outside_in_logs(log_probs, index, b, group, prefix, taken, stamp)


@compiled
def _outside_in_logs(
    log_probs: Any, index: Any, b: Any, group: Any, prefix: Any, taken: Any, stamp: Any
) -> tuple[Any, Any]:
    """Return the last stamp, and the log of a sum that is too small for a float64."""
    k, num_categories = index.shape[1], log_probs.shape[2]
    largest, total = -np.inf, 0.0
    group[:], prefix[:] = 0, 0.0
    for t in range(index.shape[2]):
        for i in range(k):
            if group[i] == i:
                stamp += 1
                _take(index, b, t, i, group, taken, stamp)
                for c in range(num_categories):
                    mass = prefix[i] + log_probs[b, t, c]
                    if taken[c] != stamp and mass > -np.inf:
                        if mass > largest:
                            total = total * np.exp(largest - mass) + 1.0
                            largest = mass
                        else:
                            total += np.exp(mass - largest)
        for i in range(k):
            prefix[i] += log_probs[b, t, index[b, i, t]]
        _part_ways(index, b, t, group)
    return stamp, largest + np.log(total) if total > 0 else -np.inf


@compiled
def _take(index: Any, b: Any, t: Any, first: Any, group: Any, taken: Any, stamp: Any) -> None:
    """Stamp the categories that the members of a group take."""
    for j in range(first, index.shape[1]):
        if group[j] == first:
            taken[index[b, j, t]] = stamp


@compiled
def _part_ways(index: Any, b: Any, t: Any, group: Any) -> None:
    """Give the members that part from the first of their group here another first one."""
    for i in range(index.shape[1] - 1, -1, -1):
        for j in range(group[i], i + 1):
            if group[j] == group[i] and index[b, j, t] == index[b, i, t]:
                group[i] = j
                break
