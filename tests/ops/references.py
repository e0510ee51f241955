"""Slow, obviously right versions of the set functions: 60-digit arithmetic and plain enumeration."""

from itertools import combinations, permutations

import mpmath
import torch

DIGITS = 60


def reference_suffix_probs(log_p, log_rest):
    """Map each bit mask A to g(A), the probability that the next draws are the rest of the set, as mpf."""
    p = [mpmath.exp(mpmath.mpf(float(x))) for x in log_p]
    r = mpmath.exp(mpmath.mpf(float(log_rest)))
    k = len(p)
    g = {(1 << k) - 1: mpmath.mpf(1)}
    for mask in range((1 << k) - 2, -1, -1):
        outside = [s for s in range(k) if not mask >> s & 1]
        total = sum((p[s] for s in outside), mpmath.mpf(0)) + r
        g[mask] = sum((p[s] * g[mask | 1 << s] for s in outside), mpmath.mpf(0)) / total
    return g


def reference_ratios(log_p, log_rest):
    """Return log p(S), log R(S, s) and log R^{D-s}(S, s') in float64, rounded from 60 digits."""
    with mpmath.workdps(DIGITS):
        g = reference_suffix_probs(log_p, log_rest)
        k = len(log_p)
        first = [float(mpmath.log(g[1 << s] / g[0])) for s in range(k)]
        second = [
            [float(mpmath.log(g[1 << s | 1 << t] / g[1 << s])) if s != t else 0.0 for t in range(k)] for s in range(k)
        ]
        value = float(mpmath.log(g[0]))
    return tuple(torch.tensor(x, dtype=torch.float64) for x in (value, first, second))


def ordered_prob(p, order):
    """The Plackett-Luce probability of drawing the categories of ``order`` one after the other."""
    result, left = 1.0, 1.0
    for category in order:
        result *= p[category] / left
        left -= p[category]
    return result


def all_sets(p, k):
    """Return every k-subset of the categories and its probability, by enumerating all orders."""
    p = [float(x) for x in p]
    sets = list(combinations(range(len(p)), k))
    probs = [sum(ordered_prob(p, order) for order in permutations(s)) for s in sets]
    return sets, torch.tensor(probs, dtype=torch.float64)


def z_scores(counts, probs, total):
    """Return how many standard errors each count is from its expectation."""
    return (counts - total * probs) / (total * probs * (1 - probs)).sqrt()
