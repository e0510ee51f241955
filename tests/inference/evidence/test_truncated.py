"""Likelihoods that are zero on a part of the prior, or jump: each method is right, or says why it gives no estimate."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ext.inference.evidence import (
    EVIDENCE_METHODS,
    EvidenceSettings,
    EvidenceWarning,
    compare_evidence,
    estimate_evidence,
)

F64 = torch.float64
Y = torch.tensor([1.2, 0.4, 2.7, 1.9], dtype=F64)
ONE = torch.ones((), dtype=F64)
SMALL = EvidenceSettings(num_importance=4000, num_posterior=480, num_power=96, num_powers=8, num_warmup=50)
LAPLUS = ("gamma_laplus", "lognormal_laplus", "beta_prime_laplus", "gamma_laplus_is")
SCORES = {"ml", "map", "cpo", "ppd"}
pytestmark = pytest.mark.filterwarnings("ignore::pyro_ext.inference.evidence.EvidenceWarning")


def uniform_scale():
    """The half-line above the largest of the data."""
    top = pyro.sample("top", dist.Gamma(2 * ONE, 0.5 * ONE))
    with pyro.plate("data", 4):
        pyro.sample("y", dist.Uniform(0 * ONE, top, validate_args=False), obs=Y)


def half_line():
    a = pyro.sample("a", dist.Normal(0 * ONE, ONE))
    pyro.factor("positive", torch.where(a > 0, 0.0, -math.inf))
    pyro.sample("y", dist.Normal(a, ONE), obs=ONE)


def disc():
    x = pyro.sample("x", dist.Uniform(-3 * ONE, 3 * ONE).expand([2]).to_event(1))
    pyro.factor("D", torch.where(x.square().sum(-1) < 1, x.sum(-1), -math.inf))


def jump():
    r = pyro.sample("r", dist.Gamma(3 * ONE, 2 * ONE))
    pyro.factor("jump", torch.where(r > 2.5, 3.0, 0.0))
    pyro.sample("y", dist.Exponential(r), obs=0.8 * ONE)


def beyond_reach():
    a = pyro.sample("a", dist.Normal(0 * ONE, ONE))
    pyro.factor("D", torch.where(a > 6, 0.0, -math.inf))


def integral(log_density, low, high):
    x = torch.linspace(low, high, 1_000_001, dtype=F64)
    return float(torch.trapezoid(log_density(x).exp(), x).log())


def disc_integral():
    # The integral of exp(x + y) over the unit disc, by shells of the radius: 2 pi r I_0(sqrt(2) r).
    return integral(lambda r: (2 * math.pi * r / 36).log() + torch.special.i0(2**0.5 * r).log(), 1e-9, 1.0)


NORMAL = torch.distributions.Normal(0 * ONE, ONE)
EXACT = {
    uniform_scale: integral(lambda t: torch.distributions.Gamma(2 * ONE, 0.5 * ONE).log_prob(t) - 4 * t.log(), 2.7, 99),
    half_line: integral(lambda a: NORMAL.log_prob(a) + NORMAL.log_prob(a - 1), 0.0, 12.0),
    disc: disc_integral(),
}


@pytest.fixture(scope="module")
def comparisons():
    return {model: compare_evidence(model, seed=1, settings=SMALL) for model in EXACT}


def test_the_exact_value_of_a_truncated_model():
    assert EXACT[uniform_scale] == pytest.approx(-6.048, abs=2e-3)


@pytest.mark.parametrize("model", EXACT)
def test_each_method_is_right_or_refuses(comparisons, model):
    comparison, exact = comparisons[model], EXACT[model]
    assert set(comparison) | set(comparison.refused) == set(EVIDENCE_METHODS)
    assert set(comparison.refused) == {"elbo", "path_sampling", "modified_path_sampling", *LAPLUS}
    for name in set(comparison) - SCORES:
        # 24 comparisons at 3 standard errors: some false alarm in 6 % of reseedings; the seed is fixed.
        assert abs(comparison[name].log_evidence - exact) < 3 * comparison[name].std_error, name
        assert comparison[name].std_error < 0.6, name


@pytest.mark.parametrize("model", EXACT)
def test_each_remedy_works(comparisons, model):
    comparison = comparisons[model]
    for name, reason in comparison.refused.items():
        remedies = [
            method for method in EVIDENCE_METHODS if method in reason.split(": ", 1)[1].replace(",", " ").split()
        ]
        assert remedies, name
        assert not set(remedies) & set(comparison.refused), name


def test_a_guide_that_draws_where_the_likelihood_is_positive():
    def guide():
        base = dist.Exponential(0.6 * ONE)
        pyro.sample("top", dist.TransformedDistribution(base, [dist.transforms.AffineTransform(2.7, 1.0)]))

    bound = estimate_evidence(uniform_scale, method="elbo", guide=guide, seed=0)
    assert EXACT[uniform_scale] - 1 < bound.log_evidence < EXACT[uniform_scale] + 3 * bound.std_error


def test_scores_at_an_edge():
    with pytest.warns(EvidenceWarning, match="jumps, bends or vanishes at the highest point found"):
        score = estimate_evidence(uniform_scale, method="ml", seed=0)
    assert score.log_evidence == pytest.approx(-4 * math.log(2.7), abs=1e-6)
    assert score.diagnostics["at_edge"]
    score = estimate_evidence(uniform_scale, method="map", seed=0)
    prior = torch.distributions.Gamma(2 * ONE, 0.5 * ONE).log_prob(2.7 * ONE)
    assert score.log_evidence == pytest.approx(-4 * math.log(2.7) + float(prior), abs=1e-6)
    score = estimate_evidence(disc, method="ml", seed=0)
    assert 2**0.5 - 0.1 < score.log_evidence <= 2**0.5


def test_posterior_draws_where_no_draw_from_the_prior_reaches():
    for method in ("vbis", "bridge", "harmonic_mean", "ml"):
        with pytest.raises(ValueError, match=r"zero at all of 20000 draws.*bridge or generalized_stepping_stone"):
            estimate_evidence(beyond_reach, method=method, seed=0)
    tail = torch.special.ndtr(-6 * ONE)
    draws = -torch.special.ndtri(tail * torch.rand(4, 300, dtype=F64))
    for method in ("bridge", "generalized_stepping_stone"):
        estimate = estimate_evidence(beyond_reach, method=method, posterior={"a": draws}, seed=0, settings=SMALL)
        assert abs(estimate.log_evidence - float(tail.log())) < 3 * estimate.std_error < 0.6


@pytest.mark.parametrize("method", LAPLUS)
def test_laplus_refuses_a_mode_at_a_jump(method):
    with pytest.raises(ValueError, match=r"highest point at an edge.*site 'r'.*use vbis, bridge"):
        estimate_evidence(jump, method=method, seed=0)


@pytest.mark.parametrize("method", ["vbis", "naive_monte_carlo", "nested_sampling"])
def test_a_likelihood_that_jumps(method):
    gamma = torch.distributions.Gamma(3 * ONE, 2 * ONE)
    exact = integral(lambda r: gamma.log_prob(r) + r.log() - 0.8 * r + torch.where(r > 2.5, 3.0, 0.0), 1e-9, 30.0)
    estimate = estimate_evidence(jump, method=method, seed=0)
    assert abs(estimate.log_evidence - exact) < 3 * estimate.std_error < 0.6


def nearly_exponential():
    """A Gamma posterior with its mode close to zero: its curvature there makes a lognormal far too wide."""
    x = pyro.sample("x", dist.Gamma(1.1 * ONE, 2 * ONE))
    pyro.factor("D", -x)


def correlated():
    x = pyro.sample("x", dist.Gamma(50 * ONE, 50 * ONE).expand([2]).to_event(1))
    pyro.factor("D", -0.5 * ((x[..., 0] - x[..., 1]) / 0.01).square())


def test_laplus_warns_of_fits_that_are_not_plausible():
    exact = 1.1 * math.log(2 / 3)
    with pytest.warns(
        EvidenceWarning, match=r"lognormal distributions do not fit.*too high by .* from site 'x'.*use vbis"
    ):
        estimate = estimate_evidence(nearly_exponential, method="lognormal_laplus", seed=0)
    error = estimate.log_evidence - exact
    assert error > 1
    assert estimate.diagnostics["profile_error"] == pytest.approx(error, abs=0.05)
    exact_fit = estimate_evidence(nearly_exponential, method="gamma_laplus", seed=0)
    assert exact_fit.log_evidence == pytest.approx(exact, abs=1e-4)
    assert exact_fit.diagnostics["profile_error"] == pytest.approx(0.0, abs=0.02)


def test_laplus_warns_of_correlations():
    right = estimate_evidence(correlated, method="bridge", seed=0, settings=SMALL)
    with pytest.warns(EvidenceWarning, match=r"too low by .* from correlations"):
        estimate = estimate_evidence(correlated, method="gamma_laplus", seed=0)
    error = estimate.log_evidence - right.log_evidence
    assert estimate.diagnostics["correlation_error"] == pytest.approx(error, abs=0.2)
