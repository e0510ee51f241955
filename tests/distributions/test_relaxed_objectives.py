"""The three divergences, by name."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_ext.distributions import (
    ExpRelaxedOneHotCategorical,
    GumbelRaoOneHotCategorical,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
    UnorderedSet,
    kl_divergence,
)

ONE_HOT = [RelaxedOneHotCategorical, ExpRelaxedOneHotCategorical, RelaxedOneHotCategoricalStraightThrough]
BINARY = [RelaxedBernoulli, LogitRelaxedBernoulli, RelaxedBernoulliStraightThrough]
Q, P = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("family", [*ONE_HOT, *BINARY])
def test_categorical_is_exact(family):
    discrete = dist.Bernoulli if family in BINARY else dist.OneHotCategorical
    expected = torch.distributions.kl_divergence(discrete(Q), discrete(P))
    for p in (family(2.0, P), discrete(P)):
        torch.testing.assert_close(kl_divergence(family(0.5, Q), p, "categorical"), expected)


@pytest.mark.parametrize("family", ONE_HOT)
def test_relaxed_density_against_direct_monte_carlo(family):
    q, p = RelaxedOneHotCategorical(0.7, Q), RelaxedOneHotCategorical(1.3, P)
    x = q.sample((200_000,))
    ratio = q.log_prob(x) - p.log_prob(x)
    divergence = kl_divergence(family(0.7, Q), family(1.3, P), "relaxed_density", num_samples=200_000)
    assert abs(divergence - ratio.mean()) < 4.5 * ratio.std() * (2 / 200_000) ** 0.5
    assert divergence > 0


def test_relaxed_density_of_binary_laws_against_quadrature():
    q, p = (
        RelaxedBernoulli(0.7, logits=torch.tensor(0.8).double()),
        RelaxedBernoulli(1.0, logits=torch.zeros(()).double()),
    )
    y = torch.linspace(-60, 60, 120_001, dtype=torch.float64)
    inner_q, inner_p = LogitRelaxedBernoulli(0.7, logits=q.logits), LogitRelaxedBernoulli(1.0, logits=p.logits)
    log_q = inner_q.log_prob(y)
    expected = float(torch.trapezoid(log_q.exp() * (log_q - inner_p.log_prob(y)), y))
    divergence = kl_divergence(q, p, num_samples=200_000)
    assert float(divergence) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("family", [ONE_HOT[0], BINARY[0]])
def test_relaxed_categorical_weighs_log_ratios(family):
    q, p = family(0.7, Q), family(1.3, P)
    divergence = kl_divergence(q, p, "relaxed_categorical", num_samples=200_000)
    x = q.sample((200_000,))
    if family in BINARY:
        terms = x * (Q / P).log() + (1 - x) * ((1 - Q) / (1 - P)).log()
    else:
        terms = (x * (Q / P).log()).sum(-1)
    assert ((divergence - terms.mean(0)).abs() < 4.5 * terms.std(0) * (2 / 200_000) ** 0.5).all()


@pytest.mark.parametrize("objective", ["relaxed_density", "relaxed_categorical", "categorical"])
def test_equal_laws_are_at_distance_zero_and_gradients_flow(objective):
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    q = RelaxedOneHotCategorical(0.01, logits=logits)
    assert kl_divergence(q, q, objective).abs().max() < 1e-9
    p = RelaxedOneHotCategorical(0.05, logits=torch.zeros(3, dtype=torch.float64))
    divergence = kl_divergence(q, p, objective, num_samples=7)
    assert divergence.shape == (5,)
    grad = torch.autograd.grad(divergence.sum(), logits)[0]
    assert torch.isfinite(grad).all()
    assert grad.any()
    joint = kl_divergence(q.to_event(1), p.expand((5,)).to_event(1), objective)
    assert joint.shape == ()


def test_impossible_categories():
    some = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    q, p = RelaxedOneHotCategorical(0.5, some), RelaxedOneHotCategorical(0.5, P)
    assert float(kl_divergence(q, p, "categorical")) == pytest.approx(0.5 * math.log(0.5 / 0.2))
    assert kl_divergence(p, q, "categorical") == math.inf


def test_other_laws_are_left_to_torch():
    a, b = UnorderedSet(2, Q.log()), UnorderedSet(2, P.log())
    torch.testing.assert_close(kl_divergence(a, b), torch.distributions.kl_divergence(a, b))


def test_rao_blackwellised_laws():
    divergence = kl_divergence(
        GumbelRaoOneHotCategorical(0.5, Q.log()), GumbelRaoOneHotCategorical(0.5, P.log()), "categorical"
    )
    torch.testing.assert_close(divergence, (Q * (Q / P).log()).sum())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda q, b: kl_divergence(q, q, "density"),
            ValueError,
            "objective must be one of relaxed_density, relaxed_categorical, categorical; got 'density'",
        ),
        (lambda q, b: kl_divergence(q, q, num_samples=0), ValueError, "num_samples must be .* at least 1, got 0"),
        (lambda q, b: kl_divergence(q, b), ValueError, "compares two relaxed distributions of one kind"),
        (lambda q, b: kl_divergence(q, dist.OneHotCategorical(Q)), ValueError, "choose another objective"),
        (
            lambda q, b: kl_divergence(q, b, "categorical"),
            ValueError,
            "p must be a one-hot categorical distribution",
        ),
        (
            lambda q, b: kl_divergence(q.expand((2,)).to_event(1), q.expand((2, 2)).to_event(2)),
            ValueError,
            "event dims",
        ),
        (lambda q, b: torch.distributions.kl_divergence(q, q), NotImplementedError, "has no closed form"),
    ],
)
def test_wrong_calls_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(RelaxedOneHotCategorical(0.5, Q), RelaxedBernoulli(0.5, Q))
