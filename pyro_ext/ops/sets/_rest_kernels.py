"""The mass outside a set of configurations of a product distribution, and draws from it, as compiled kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.kernels import compiled, in_threads

__all__ = ["draw_outside", "log_mass_outside"]

_WORTH_A_THREAD = 1 << 14  # categories of members, which are looked at in the time that it takes to start a thread
_TINY = 1e-250  # a smaller sum of probabilities is taken in logs


def log_mass_outside(log_probs: Tensor, index: Tensor) -> Tensor:
    """Return the log of the mass of all configurations outside the set ``(B, k, N)``, float64 ``(B,)``."""
    batch, n, c = log_probs.shape
    table, members, result = log_probs.contiguous(), index.contiguous().numpy(), np.empty(batch)
    logs, probs = table.numpy(), table.exp().numpy()

    def part(start: int, stop: int) -> None:
        _outside(logs, probs, members, result, start, stop)

    in_threads(part, batch, smallest=1 + _WORTH_A_THREAD // (n * c * members.shape[1]))
    return torch.from_numpy(result)


def draw_outside(
    log_probs: Tensor, index: Tensor, num_excluded: Tensor, to_leaf: Tensor, to_free: Tensor
) -> Tensor | None:
    """Return draws ``(B, m, N)`` from what the first members of a set leave; None if that is too little for float64.

    Args:
        log_probs: log-probabilities, float64 ``(B, N, C)``.
        index: the set, ``(B, k, N)``.
        num_excluded: how many members cannot be drawn, ``(B,)``.
        to_leaf: uniform numbers that choose a member, or the branch and the category where a draw leaves all members,
            ``(B, m)``.
        to_free: uniform numbers that choose the categories after that, ``(B, N, m)``.
    """
    batch, n, c = log_probs.shape
    result = np.empty((batch, to_leaf.shape[1], n), np.int64)
    tensors = (log_probs.exp(), index, num_excluded, to_leaf, to_free)
    arrays = [x.contiguous().numpy() for x in tensors]
    enough: list[bool] = []

    def part(start: int, stop: int) -> None:
        enough.append(_draw_outside(*arrays, result, start, stop))

    in_threads(part, batch, smallest=1 + _WORTH_A_THREAD // (n * c * index.shape[1]))
    return torch.from_numpy(result) if all(enough) else None


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


@compiled
def _draw_outside(
    probs: Any, index: Any, excluded: Any, to_leaf: Any, to_free: Any, result: Any, start: Any, stop: Any
) -> Any:
    k, n, num_categories = index.shape[1], index.shape[2], probs.shape[2]
    group, prefix, taken = np.empty((n + 1, k), np.int64), np.empty((n + 1, k)), np.zeros(num_categories, np.int64)
    branch, stamp = np.empty((k, n)), 0
    for b in range(start, stop):
        group[0], prefix[0] = 0, 1.0
        total = 0.0
        for t in range(n):
            for i in range(k):
                mass = 0.0
                if group[t, i] == i:
                    stamp += 1
                    _take(index, b, t, i, group[t], taken, stamp)
                    for c in range(num_categories):
                        mass += probs[b, t, c] if taken[c] != stamp else 0.0
                branch[i, t] = prefix[t, i] * mass
                total += branch[i, t]
                prefix[t + 1, i] = prefix[t, i] * probs[b, t, index[b, i, t]]
            group[t + 1] = group[t]
            _part_ways(index, b, t, group[t + 1])
        for i in range(excluded[b], k):
            total += prefix[n, i]
        if not total > _TINY:
            return False
        for draw in range(to_leaf.shape[1]):
            aim, passed, before, member, level, category = to_leaf[b, draw] * total, 0.0, 0.0, -1, n, -1
            for i in range(excluded[b], k):
                passed += prefix[n, i]
                if prefix[n, i] > 0.0:
                    member = i
                    if passed > aim:
                        break
            chosen = passed > aim
            for i in range(k):
                for t in range(n):
                    if not chosen and branch[i, t] > 0.0:
                        member, level, before = i, t, passed
                        passed += branch[i, t]
                        chosen = passed > aim
            if level < n:
                stamp += 1
                _take(index, b, level, member, group[level], taken, stamp)
                for c in range(num_categories):
                    if taken[c] != stamp and probs[b, level, c] > 0.0:
                        category = c
                        before += prefix[level, member] * probs[b, level, c]
                        if before > aim:
                            break
            for t in range(n):
                if t < level:
                    result[b, draw, t] = index[b, member, t]
                elif t == level:
                    result[b, draw, t] = category
                else:
                    sum_of_all, last = 0.0, 0
                    for c in range(num_categories):
                        sum_of_all += probs[b, t, c]
                    aim_here, reached = to_free[b, t, draw] * sum_of_all, 0.0
                    for c in range(num_categories):
                        reached += probs[b, t, c]
                        if probs[b, t, c] > 0.0:
                            last = c
                            if reached > aim_here:
                                break
                    result[b, draw, t] = last
    return True
