"""The three-Bernoulli toy of Liu et al. 2019 and Kool et al. 2020: eight joint values, one shared logit.

f(b) = sum_i (b_i - p0_i)^2 with p0 = (.6, .51, .48); every b_i is Bernoulli(sigmoid(eta)).
"""

import itertools

import torch

P0 = torch.tensor([0.6, 0.51, 0.48], dtype=torch.float64)
VALUES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
COST = (VALUES - P0).square().sum(-1)
TRUE_GRADIENT = {0.0: -0.045, -4.0: -0.00317928712}


def law(eta):
    """Return p, log p and d log p / d eta of the eight values."""
    q = torch.tensor(eta, dtype=torch.float64).sigmoid()
    ones = VALUES.sum(-1)
    log_p = ones * q.log() + (3 - ones) * (1 - q).log()
    return log_p.exp(), log_p, ones - 3 * q


def estimate(weight, baseline, index, score):
    """Return sum_s [(w f)_s - sum_s' C[s', s] (w f)_s'] score_s for values ``index`` of shape (..., k)."""
    weighted = weight * COST[index]
    if baseline is not None:
        weighted = weighted - (baseline * weighted.unsqueeze(-1)).sum(-2)
    return (weighted * score[index]).sum(-1)


def mean_and_variance(probability, value):
    """Exact mean and variance under a finite law of the estimates."""
    mean = (probability * value).sum()
    return mean, (probability * (value - mean).square()).sum()
