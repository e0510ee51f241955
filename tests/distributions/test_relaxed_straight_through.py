"""Straight-through values: exactly hard, categorically distributed, with the gradient of the relaxation."""

import pickle

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_ext.distributions import (
    GumbelRaoOneHotCategorical,
    OneHotCategoricalReinMax,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
    RelaxedTopK,
    UnorderedSet,
)
from pyro_ext.ops.relaxed import conditional_perturbed_logits, gumbel_log_softmax, relaxed_top_k

LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
HARD = {
    "straight-through": lambda t, logits: RelaxedOneHotCategoricalStraightThrough(t, logits=logits),
    "ReinMax": lambda t, logits: OneHotCategoricalReinMax(t, logits=logits),
    "ReinMax, Rao-Blackwellised": lambda t, logits: OneHotCategoricalReinMax(t, logits=logits, variant="rao"),
    "ReinMax, control variate": lambda t, logits: OneHotCategoricalReinMax(t, logits=logits, variant="cv"),
    "Gumbel-Rao": lambda t, logits: GumbelRaoOneHotCategorical(t, logits, num_inner=20),
}


@pytest.mark.parametrize("name", HARD)
def test_both_samplers_are_hard(name, dtype):
    d = HARD[name](0.3, LOGITS.to(dtype))
    for x in (d.sample((1000,)), d.rsample((1000,)), d.expand((5,)).sample((200,))):
        assert ((x == 0) | (x == 1)).all()
        assert (x.sum(-1) == 1).all()


@pytest.mark.parametrize("name", HARD)
def test_log_prob_is_the_categorical_one_and_differentiable_in_the_value(name):
    prior = HARD[name](0.3, LOGITS)
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    x = HARD[name](0.3, logits).rsample((200,))
    log_prob = prior.log_prob(x)
    torch.testing.assert_close(log_prob, dist.OneHotCategorical(logits=LOGITS).log_prob(x))
    # the gradient of the prior reaches the guide that drew the value
    assert torch.autograd.grad(log_prob.sum(), logits)[0].any()
    hard = x.detach().requires_grad_()
    torch.testing.assert_close(_grad(prior.log_prob(hard), hard), prior.logits.expand(200, 4))


def _grad(value, x):
    return torch.autograd.grad(value.sum(), x)[0]


def test_gradient_is_that_of_the_relaxed_value():
    logits = LOGITS.clone().requires_grad_()
    weight = torch.randn(4, dtype=torch.float64)
    torch.manual_seed(1)
    hard = RelaxedOneHotCategoricalStraightThrough(0.7, logits=logits).rsample((50,))
    torch.manual_seed(1)
    soft = gumbel_log_softmax(logits.log_softmax(-1), torch.tensor(0.7), (50,)).exp()
    torch.testing.assert_close(_grad(hard @ weight, logits), _grad(soft @ weight, logits))
    torch.manual_seed(1)
    odds = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x = RelaxedBernoulliStraightThrough(0.7, logits=odds).rsample((50,))
    assert set(x.tolist()) == {0.0, 1.0}
    assert float(_grad(x, odds)) > 0


@pytest.mark.parametrize("category", range(4))
def test_conditional_noise_keeps_the_argmax_and_the_distribution(category):
    """Drawing a category, then perturbed logits given it, is drawing perturbed logits: same means and variances."""
    log_p = LOGITS.log_softmax(-1)
    hard = torch.eye(4, dtype=torch.float64)[category]
    drawn = conditional_perturbed_logits(log_p, hard, 40_000)
    assert (drawn.argmax(-1) == category).all()
    free = log_p - torch.empty(400_000, 4, dtype=torch.float64).exponential_().log()
    free = free[free.argmax(-1) == category]
    for power in (1, 2):
        a, b = drawn**power, free**power
        error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        assert ((a.mean(0) - b.mean(0)) / error).abs().max() < 5  # 32 comparisons: a false alarm in 5e4


def _toy_gradients(build, replicates):
    """Gradients of E[(x - c)^2 w] at a low temperature, one row a replicate."""
    logits = torch.zeros(replicates, 4, dtype=torch.float64, requires_grad=True)
    x = build(logits).rsample()
    loss = ((x - 0.45).square() * torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)).sum()
    return _grad(loss, logits)


def test_more_inner_draws_leave_the_mean_and_lower_the_variance():
    replicates, temperature = 20_000, 0.1
    plain = _toy_gradients(lambda logits: HARD["straight-through"](temperature, logits), replicates)
    previous = plain.var(0).sum()
    for num_inner, most in ((1, 1.15), (10, 0.6), (50, 0.9)):
        rao = _toy_gradients(lambda logits, n=num_inner: GumbelRaoOneHotCategorical(temperature, logits, n), replicates)
        error = ((plain.var(0) + rao.var(0)) / replicates).sqrt()
        assert ((plain.mean(0) - rao.mean(0)) / error).abs().max() < 4.5
        assert rao.var(0).sum() < most * previous
        previous = rao.var(0).sum()


def test_moments_and_divergences():
    q, p = (GumbelRaoOneHotCategorical(0.5, torch.randn(3, 4, dtype=torch.float64)) for _ in range(2))
    one_hot = [dist.OneHotCategorical(logits=d.logits) for d in (q, p)]
    torch.testing.assert_close(q.mean, one_hot[0].mean)
    torch.testing.assert_close(q.variance, one_hot[0].variance)
    torch.testing.assert_close(q.entropy(), one_hot[0].entropy())
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(*one_hot))
    torch.testing.assert_close(kl_divergence(q, one_hot[1]), kl_divergence(*one_hot))
    a, b = (RelaxedBernoulliStraightThrough(0.5, logits=torch.randn(3, dtype=torch.float64)) for _ in range(2))
    binary = [dist.Bernoulli(logits=d.logits) for d in (a, b)]
    torch.testing.assert_close(a.entropy(), binary[0].entropy())
    torch.testing.assert_close(a.variance, binary[0].variance)
    torch.testing.assert_close(kl_divergence(a, b), kl_divergence(*binary))


@pytest.mark.parametrize("temperature", [2.0, 0.5, 0.01])
@pytest.mark.parametrize("hard", [False, True])
def test_subsets(temperature, hard, dtype):
    logits = (8 * torch.randn(200, 6, dtype=dtype)).requires_grad_()
    t = torch.tensor(temperature, dtype=dtype, requires_grad=True)
    d = RelaxedTopK(3, t, logits, straight_through=hard)
    x = d.rsample((20,))
    assert d.support.check(x).all()
    for grad in torch.autograd.grad((x * torch.randn_like(x)).sum(), [logits, t]):
        assert torch.isfinite(grad).all()
    assert torch.isfinite(x).all()
    wide = pickle.loads(pickle.dumps(RelaxedTopK(3, 0.5, logits.detach(), straight_through=hard))).expand((20, 200))
    assert (wide.k, wide.straight_through, wide.sample().shape) == (3, hard, (20, 200, 6))


def test_cold_subsets_are_the_largest_keys():
    keys = torch.randn(100, 8, dtype=torch.float64)
    members = relaxed_top_k(keys, 3, torch.tensor(1e-3)).topk(3).indices.sort(-1).values
    assert torch.equal(members, keys.topk(3).indices.sort(-1).values)


def test_subsets_have_the_distribution_of_draws_without_replacement():
    d = RelaxedTopK(2, 0.3, LOGITS, straight_through=True)
    sets = UnorderedSet(2, LOGITS)
    members = sets.enumerate_support()
    k_hot = torch.zeros(len(members), 4, dtype=torch.float64).scatter(-1, members, 1)
    torch.testing.assert_close(d.log_prob(k_hot), sets.log_prob(members))
    total = 50_000
    x = d.sample((total,))
    counts = (x.unsqueeze(1) == k_hot).all(-1).sum(0)
    probs = d.log_prob(k_hot).exp()
    assert ((counts - total * probs) / (total * probs * (1 - probs)).sqrt()).abs().max() < 5
    torch.testing.assert_close(d.entropy(), sets.entropy())
    other = RelaxedTopK(2, 0.3, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(d, other), kl_divergence(sets, UnorderedSet(2, torch.zeros(4).double())))


def test_subsets_with_impossible_categories(dtype):
    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0], dtype=dtype, requires_grad=True)
    for k in (2, 3):
        x = RelaxedTopK(k, 0.1, logits).rsample((100,))
        assert (x[:, 1] == 0).all()
        assert torch.isfinite(_grad(x[:, 0], logits)).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RelaxedTopK(5, 0.5, torch.zeros(4)), ValueError, "k=5 exceeds the 4 categories"),
        (lambda: RelaxedTopK(0, 0.5, torch.zeros(4)), ValueError, "k must be an integer of at least 1, got 0"),
        (
            lambda: RelaxedTopK(2, 0.5, torch.tensor([0.0, -torch.inf, -torch.inf])),
            ValueError,
            "k=2 exceeds the 1 categories of positive probability",
        ),
        (lambda: RelaxedTopK(2, -0.5, torch.zeros(4)), ValueError, "temperature must be positive"),
        (
            lambda: RelaxedTopK(1, 0.5, torch.zeros(2)).log_prob(torch.tensor([0.5, 0.5])),
            NotImplementedError,
            "no density of relaxed values; use straight_through=True",
        ),
        (
            lambda: RelaxedTopK(1, 0.5, torch.zeros(2)).entropy(),
            NotImplementedError,
            "RelaxedTopK has an entropy only with straight_through=True",
        ),
        (
            lambda: RelaxedTopK(1, 0.5, torch.zeros(2)).enumerate_support(),
            NotImplementedError,
            "RelaxedTopK has a list of values only with straight_through=True",
        ),
        (
            lambda: RelaxedTopK(1, 0.5, torch.zeros(2), straight_through=True).log_prob(torch.tensor([0.5, 0.5])),
            ValueError,
            "within the support",
        ),
    ],
)
def test_wrong_subsets_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
