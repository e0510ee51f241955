"""Expected counts of subsplits as a compiled kernel: one pass up, one down, and back, tree after tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.kernels import compiled, in_threads
from pyro_ext.ops.subsplits.relations import Relations

__all__ = ["count_in_rootings"]


def count_in_rootings(
    log_theta: Tensor, position: Tensor, relations: Relations, weights: Tensor, uniform: bool
) -> tuple[Tensor, Tensor]:
    """Return what :func:`.rootings.expected_counts` does, from the parts of its index; all numbers are float64.

    Args:
        log_theta: log-probabilities of the subsplits, ``(M,)``.
        position: the positions of the subsplits of T trees, ``(T, L)``.
        relations: parents and sisters of the nodes of the trees.
        weights: the weights of the trees, ``(T,)``.
        uniform: whether the root is on every edge with equal probability.
    """
    values = [
        tensor.detach().contiguous().numpy()
        for tensor in (log_theta, position, relations.parent, relations.sister, weights)
    ]
    parts: list[tuple[np.ndarray[Any, Any], float]] = []

    def part(start: int, stop: int) -> None:
        counts = np.zeros(len(values[0]))
        parts.append((counts, _count(*values, relations.num_internal, uniform, start, stop, counts)))

    in_threads(part, len(position), smallest=64)
    counts = torch.from_numpy(np.sum([counts for counts, _ in parts], axis=0))
    return counts, log_theta.new_tensor(sum(total for _, total in parts))


@compiled
def _count(
    theta: Any, position: Any, parents: Any, sisters: Any, weights: Any, inner: Any, uniform: Any, start: Any,
    stop: Any, counts: Any,
) -> Any:  # fmt: skip
    nodes, known = parents.shape[1], len(theta)
    leaves, length = nodes - inner, position.shape[1]
    root, upper, turn, split, away, beside = 0, nodes, 2 * nodes, 3 * nodes, 3 * nodes + inner, 3 * nodes + 2 * inner
    terms, grads = np.empty(length), np.empty(length)
    below, way, d_below, d_way = np.empty(inner), np.empty(inner + 1), np.empty(inner), np.empty(inner + 1)
    passed, own, d_passed, d_hanging = np.empty(nodes), np.empty(nodes), np.empty(nodes), np.empty(nodes)
    total = 0.0
    for tree in range(start, stop):
        weight = weights[tree]
        if weight == 0:
            continue
        row, parent, sister = position[tree], parents[tree], sisters[tree]
        shift, shift_of_nodes = tree * (inner + 1), tree * nodes
        for k in range(length):
            place = row[k]
            terms[k] = theta[place] if place < known else (-np.inf if place == known else 0.0)
        below[:] = 0.0
        for i in range(inner - 1, 0, -1):  # node i comes after its parent
            p = parent[leaves + i] - shift
            below[p] += terms[away + i] + below[i]
        for node in range(nodes):
            other = sister[node] - shift_of_nodes
            hanging = terms[beside + other - leaves] + below[other - leaves] if other > leaves else 0.0
            passed[node] = terms[turn + node] + hanging
        way[inner] = 0.0
        for i in range(inner):
            way[i] = passed[leaves + i] + way[parent[leaves + i] - shift]
        most = -np.inf
        for node in range(1, nodes):
            if node < leaves:
                value = passed[node] + way[parent[node] - shift]
            else:
                i = node - leaves
                value = way[i] + terms[split + i] + below[i]
            own[node] = terms[root + node] + terms[upper + node] + value
            most = max(most, own[node])
        # the probability of each rooting
        if uniform:
            mean = 0.0
            for node in range(1, nodes):
                mean += own[node]
                own[node] = weight / (nodes - 1)
            total += weight * mean / (nodes - 1)
        elif most == -np.inf:
            total += weight * most
            continue
        else:
            scale = 0.0
            for node in range(1, nodes):
                own[node] = np.exp(own[node] - most)
                scale += own[node]
            total += weight * (most + np.log(scale))
            for node in range(1, nodes):
                own[node] *= weight / scale
        # and back
        own[0] = 0.0
        grads[:] = 0.0
        d_way[:] = 0.0
        d_hanging[:] = 0.0
        for node in range(nodes):
            grads[root + node] = grads[upper + node] = own[node]
            if node < leaves:
                d_passed[node] = own[node]
                d_way[parent[node] - shift] += own[node]
            else:
                grads[split + node - leaves] = d_below[node - leaves] = own[node]
                d_passed[node] = 0.0
                d_way[node - leaves] += own[node]
        for i in range(inner - 1, -1, -1):
            d_passed[leaves + i] += d_way[i]
            d_way[parent[leaves + i] - shift] += d_way[i]
        for node in range(nodes):
            grads[turn + node] = d_passed[node]
            d_hanging[sister[node] - shift_of_nodes] += d_passed[node]
        for i in range(1, inner):
            grads[beside + i] = d_hanging[leaves + i]
            d_below[i] += d_hanging[leaves + i]
        for i in range(1, inner):
            p = parent[leaves + i] - shift
            d_below[i] += d_below[p]
            grads[away + i] = d_below[p]
        for k in range(length):
            if row[k] < known:
                counts[row[k]] += grads[k]
    return total
