"""Unbiasedness and variance of the sample-set estimators, by enumerating everything they may draw.

The toy of Liu et al. 2019 and Kool et al. 2020 has three Bernoulli variables, eight joint values and one shared logit:
f(b) = sum_i (b_i - p0_i)^2 with p0 = (.6, .51, .48), and every b_i is Bernoulli(sigmoid(eta)).
"""

import itertools
import math

import pytest
import torch

from pyro_ext.inference.sample_sets.weights import leave_one_out_weights, sum_and_sample_weights, unordered_set_weights
from pyro_ext.ops.sets import set_log_prob, topk_remainder

P0 = torch.tensor([0.6, 0.51, 0.48], dtype=torch.float64)
VALUES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
COST = (VALUES - P0).square().sum(-1)
TRUE_GRADIENT = {0.0: -0.045, -4.0: -0.00317928712}
ETAS = [0.0, -4.0]

# eta, k -> exact variance with and without the baseline, to the digits the closed forms are known to
UNORDERED = {
    (0.0, 2): (6.1125e-3, 0.18789),
    (0.0, 3): (2.2625e-3, 0.10439),
    (0.0, 4): (1.13083e-3, 6.263e-2),
    (0.0, 5): (6.105e-4, 3.758e-2),
    (0.0, 6): (3.165e-4, 2.088e-2),
    (0.0, 7): (1.29167e-4, 8.947e-3),
    (-4.0, 2): (2.97824e-5, 1.2096e-3),
    (-4.0, 3): (8.07115e-6, 4.0436e-5),
    (-4.0, 4): (1.05549e-6, 5.1059e-6),
    (-4.0, 5): (7.9696e-8, 4.158e-7),
    (-4.0, 6): (1.0248e-8, 2.012e-8),
    (-4.0, 7): (2.855e-10, 5.249e-10),
}
LEAVE_ONE_OUT = {
    (0.0, 2): 7.275e-3,
    (0.0, 3): 3.200e-3,
    (0.0, 4): 1.9875e-3,
    (0.0, 5): 1.425e-3,
    (-4.0, 2): 3.8102e-4,
    (-4.0, 3): 2.4578e-4,
    (-4.0, 4): 1.8228e-4,
    (-4.0, 5): 1.4500e-4,
}
# num_summed = k - 1, without and with the free baseline; ties decide the missing entries at eta = -4
SUM_AND_SAMPLE = {
    (0.0, 2): (0.19427, 9.131e-3),
    (0.0, 3): (0.13022, 9.463e-3),
    (0.0, 4): (6.987e-2, 6.408e-3),
    (0.0, 5): (5.540e-2, 4.788e-3),
    (0.0, 6): (1.428e-2, 6.60e-4),
    (0.0, 7): (7.450e-3, 1.778e-4),
    (-4.0, 2): (5.0625e-5, 2.9274e-5),
    (-4.0, 5): (3.77e-8, 3.65e-8),
    (-4.0, 6): (3.15e-9, 1.48e-9),
    (-4.0, 7): (1.04e-9, 1.8e-11),
}


def probabilities(eta):
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
    """Return the exact mean and variance of estimates that take finitely many values."""
    mean = (probability * value).sum()
    return mean, (probability * (value - mean).square()).sum()


def same_to_three_digits(value, published):
    return value == pytest.approx(published, rel=5e-3)


def all_sets(k):
    return torch.tensor(list(itertools.combinations(range(8), k)))


def log_rest(log_p, index):
    outside = torch.ones(*index.shape[:-1], 8, dtype=torch.bool).scatter(-1, index, False)
    return log_p.expand_as(outside).masked_fill(~outside, -math.inf).logsumexp(-1)


def unordered(eta, k, baseline):
    """Return the probability of every set of size k and its gradient estimate."""
    _, log_p, score = probabilities(eta)
    index = all_sets(k)
    rest = log_rest(log_p, index)
    weights = unordered_set_weights(log_p[index], rest)
    matrix = weights.baseline if baseline else None
    return set_log_prob(log_p[index], rest).exp(), estimate(weights.log_weight.exp(), matrix, index, score)


def true_gradient(eta):
    p, _, score = probabilities(eta)
    exact = (p * COST * score).sum()
    assert exact.item() == pytest.approx(TRUE_GRADIENT[eta], rel=1e-8)
    return exact


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize("baseline", [True, False])
def test_unordered_set_over_all_sets(eta, k, baseline):
    probability, gradient = unordered(eta, k, baseline)
    mean, variance = mean_and_variance(probability, gradient)
    assert abs(probability.sum() - 1) <= 1e-12
    assert abs(mean - true_gradient(eta)) <= 1e-12
    if k == 8:
        assert variance <= 1e-30
    elif k > 1:
        assert same_to_three_digits(variance.item(), UNORDERED[eta, k][0 if baseline else 1])


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("baseline", [True, False])
def test_leave_one_out_over_all_tuples(eta, k, baseline):
    p, _, score = probabilities(eta)
    index = torch.cartesian_prod(*[torch.arange(8)] * k).reshape(-1, k)
    weights = leave_one_out_weights(k, p)
    gradient = estimate(weights.log_weight.exp(), weights.baseline if baseline else None, index, score)
    mean, variance = mean_and_variance(p[index].prod(-1), gradient)
    assert abs(mean - true_gradient(eta)) <= 1e-12
    if baseline and k > 1:
        assert same_to_three_digits(variance.item(), LEAVE_ONE_OUT[eta, k])


def sum_and_sample(eta, k, num_summed, baseline):
    """Return the probability of every tuple of remainder draws and its gradient estimate."""
    p, log_p, score = probabilities(eta)
    top = topk_remainder(log_p, k)
    summed = top.index[:num_summed]
    outside = torch.tensor([i for i in range(8) if i not in summed.tolist()])
    draws = torch.cartesian_prod(*[outside] * (k - num_summed)).reshape(-1, k - num_summed)
    index = torch.cat([summed.expand(len(draws), num_summed), draws], -1)
    weights = sum_and_sample_weights(top.log_p, top.log_tail, torch.tensor(num_summed))
    gradient = estimate(weights.log_weight.exp(), weights.baseline if baseline else None, index, score)
    return (p[draws] / p[outside].sum()).prod(-1), gradient


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("k", "num_summed"), [(k, j) for k in range(1, 8) for j in range(k) if k - j <= 5])
@pytest.mark.parametrize("baseline", [True, False])
def test_sum_and_sample_over_all_remainder_draws(eta, k, num_summed, baseline):
    probability, gradient = sum_and_sample(eta, k, num_summed, baseline)
    mean, variance = mean_and_variance(probability, gradient)
    assert abs(probability.sum() - 1) <= 1e-12
    assert abs(mean - true_gradient(eta)) <= 1e-12
    if num_summed == k - 1 and (eta, k) in SUM_AND_SAMPLE:
        assert same_to_three_digits(variance.item(), SUM_AND_SAMPLE[eta, k][1 if baseline else 0])


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("k", range(1, 8))
def test_sum_and_sample_variance_is_bounded(eta, k):
    """Without a baseline and with one draw, the variance is at most Var(g) times the mass outside the summed values."""
    p, log_p, score = probabilities(eta)
    plain = COST * score
    _, variance = mean_and_variance(*sum_and_sample(eta, k, k - 1, baseline=False))
    total = (p * plain.square()).sum() - (p * plain).sum().square()
    assert variance <= total * topk_remainder(log_p, k).log_tail[k - 1].exp() * (1 + 1e-12)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("k", [2, 3, 4])
def test_averaging_ordered_draws_gives_the_unordered_set(eta, k):
    """Sum the first k - 1 of an ordered draw, weigh the last by what is left, and average over the orders."""
    p, _, score = probabilities(eta)
    plain = COST * score
    _, unordered_gradient = unordered(eta, k, baseline=False)
    for members, expected in zip(all_sets(k).tolist(), unordered_gradient, strict=True):
        probability, gradient = [], []
        for order in itertools.permutations(members):
            left = 1 - torch.cat([p.new_zeros(1), p[list(order)].cumsum(0)[:-1]])
            probability.append((p[list(order)] / left).prod())
            gradient.append((p * plain)[list(order[:-1])].sum() + left[-1] * plain[order[-1]])
        probability = torch.stack(probability)
        average = (probability * torch.stack(gradient)).sum() / probability.sum()
        assert abs(average - expected) <= 1e-12


def importance_weighted_variance(eta, k):
    """Mass, mean and variance of sum_S p_s f(s) grad log p(s) / P(G_s > kappa), kappa the (k + 1)-th Gumbel."""
    p, _, score = probabilities(eta)
    plain = p * COST * score
    grid = torch.linspace(-40.0, math.log(60.0), 20_001, dtype=torch.float64)
    step = grid[1] - grid[0]
    first = second = mass = 0.0
    for members in all_sets(k).tolist():
        others = [i for i in range(8) if i not in members]
        rate = p[others].sum()
        t = grid.exp() / rate  # arrival time of the (k + 1)-th
        inside = -torch.expm1(-p[members].unsqueeze(-1) * t)  # P(arrived before t)
        weight = inside.prod(0) * (-rate * t).exp() * rate * t * step
        x = (plain[members].unsqueeze(-1) / inside).sum(0)
        mass = mass + weight.sum()
        first = first + (weight * x).sum()
        second = second + (weight * x.square()).sum()
    return mass, first, second - first.square()


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("k", range(1, 8))
def test_unordered_set_is_never_above_the_importance_weighted_estimator(eta, k):
    mass, mean, reference = importance_weighted_variance(eta, k)
    assert mass.item() == pytest.approx(1, abs=1e-6)
    assert mean.item() == pytest.approx(TRUE_GRADIENT[eta], rel=1e-4)
    _, variance = mean_and_variance(*unordered(eta, k, baseline=False))
    assert variance <= reference * (1 + 1e-6)
