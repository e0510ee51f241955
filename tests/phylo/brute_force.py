"""Subsplits of trees by walking over them, one rooting at a time: slow, and independent of the package."""

from __future__ import annotations

from functools import cache

import numpy as np


def neighbours(parent):
    """The adjacent nodes of each node of an unrooted tree."""
    adjacent = [set() for _ in parent]
    for node, above in enumerate(parent):
        if above >= 0:
            adjacent[node].add(above)
            adjacent[above].add(node)
    return adjacent


def rootings(parent):
    """For the edge above each node but 0: the subsplits (sister, clade, children) of the tree rooted there."""
    n = len(parent) // 2 + 1
    adjacent = neighbours(parent)

    @cache
    def clade(node, before):
        if node < n:
            return frozenset([node])
        return frozenset().union(*(clade(v, node) for v in adjacent[node] if v != before))

    def walk(node, before, sister):
        if node < n:
            return []
        a, b = (v for v in adjacent[node] if v != before)
        x, y = clade(a, node), clade(b, node)
        return [(sister, x | y, frozenset([x, y])), *walk(a, node, y), *walk(b, node, x)]

    every = []
    for node in range(1, len(parent)):
        x, y = clade(node, parent[node]), clade(parent[node], node)
        root = (frozenset(), x | y, frozenset([x, y]))
        every.append([root, *walk(node, parent[node], y), *walk(parent[node], node, x)])
    return every


def rooted_subsplits(parent):
    """The subsplits of a rooted tree."""
    n = (len(parent) + 1) // 2
    children = [[v for v, above in enumerate(parent) if above == node] for node in range(len(parent))]

    def clade(node):
        return frozenset([node]) if node < n else frozenset().union(*map(clade, children[node]))

    def walk(node, sister):
        if node < n:
            return []
        a, b = children[node]
        x, y = clade(a), clade(b)
        return [(sister, x | y, frozenset([x, y])), *walk(a, y), *walk(b, x)]

    return walk(n, frozenset())


class BruteForceNetwork:
    """An unrooted subsplit network fitted by gathering the terms of every rooting of every tree."""

    def __init__(self, trees, weights):
        weights = np.asarray(weights, dtype=float)
        self.weights = weights / weights.sum()
        self.number = {}
        listed = [[[self._number(s) for s in rooting] for rooting in rootings(tree)] for tree in trees]
        self.ids = np.array(listed)  # (T, 2n - 3, n - 1)
        contexts = {}
        self.context = np.array([contexts.setdefault(key[:2], len(contexts)) for key in self.number])
        self.simple_counts = self._counts(np.full(self.ids.shape[:2], 1 / self.ids.shape[1]))
        self.theta = self._normalised(self.simple_counts)

    def _number(self, subsplit):
        return self.number.setdefault(subsplit, len(self.number))

    def _counts(self, q):
        counts = np.zeros(len(self.number))
        np.add.at(counts, self.ids, (self.weights[:, None] * q)[..., None])
        return counts

    def _normalised(self, counts):
        return counts / np.bincount(self.context, counts)[self.context]

    def rooting_probs(self):
        return self.theta[self.ids].prod(-1)

    def probs(self):
        return self.rooting_probs().sum(-1)

    def em(self, iterations, alpha=0.0):
        """Iterate from the simple average, with pseudo-counts proportional to its counts."""
        for _ in range(iterations):
            p = self.rooting_probs()
            counts = self._counts(p / p.sum(-1, keepdims=True))
            self.theta = self._normalised(counts + alpha * self.simple_counts)
        return self.probs()
