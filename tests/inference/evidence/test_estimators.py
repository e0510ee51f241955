"""Parts of the estimators: weights, harmonic means, the bridge, nested sampling, fits at the boundary."""

import math
import warnings

import pytest
import torch

from pyro_ext.inference.evidence import EvidenceWarning, compare_evidence
from pyro_ext.inference.evidence.bridge import bridge_iteration
from pyro_ext.inference.evidence.importance import importance_estimate
from pyro_ext.inference.evidence.likelihood_means import stabilized_harmonic_mean
from pyro_ext.inference.evidence.optimize import maximize
from pyro_ext.inference.evidence.posterior import Posterior
from pyro_ext.inference.evidence.powers import PowerDraws, modified_path_sampling, path_sampling, stepping_stone
from pyro_ext.inference.evidence.prior import PriorSample
from pyro_ext.inference.evidence.problem import Densities
from pyro_ext.inference.evidence.shells import Shells, integrate_shells
from pyro_ext.inference.evidence.weights import chain_ess, pareto_k
from tests.inference.evidence.toys import gamma_exponential, two_taxa

F64 = torch.float64


def whole_prior():
    """Draws from a prior all over which the likelihood is positive."""
    one = torch.ones(1, dtype=F64)
    return PriorSample(one, one, one[None], one, 1)


def exact_draws(toy, shape, rate, size=8000):
    return {"rate": torch.distributions.Gamma(torch.tensor(shape, dtype=F64), rate).sample((size,))}


def test_harmonic_mean_where_its_variance_is_finite():
    # 1/L has a variance under the posterior iff prior shape > n and prior rate > sum(x).
    x = torch.tensor([0.3, 0.8, 0.4], dtype=F64)
    toy = gamma_exponential(x, shape=12.0, rate=9.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison = compare_evidence(
            toy, methods=["harmonic_mean", "stabilized_harmonic_mean"], posterior=exact_draws(toy, 15.0, 10.5)
        )
    estimate, stabilised = comparison["harmonic_mean"], comparison["stabilized_harmonic_mean"]
    assert abs(estimate.log_evidence - toy.exact) < 3 * estimate.std_error  # a false alarm in 370 reseedings
    assert estimate.std_error < 0.02
    assert estimate.diagnostics["finite_variance"]
    assert abs(stabilised.log_evidence - toy.exact) < 0.05
    assert stabilised.log_evidence > estimate.log_evidence


def test_harmonic_mean_warns_where_its_variance_is_infinite():
    x = torch.linspace(0.1, 3.0, 40, dtype=F64)
    toy = gamma_exponential(x, shape=1.0, rate=0.1)
    draws = exact_draws(toy, 41.0, 0.1 + x.sum())
    for method in ("harmonic_mean", "stabilized_harmonic_mean"):
        with pytest.warns(EvidenceWarning, match="seems to be infinite"):
            estimate = compare_evidence(toy, methods=[method], posterior=draws)[method]
        assert not estimate.diagnostics["finite_variance"]
        assert estimate.log_evidence > toy.exact + 0.3  # it is usually too high


def test_stabilised_fixed_point():
    # The fixed point, in the form in which it was published, iterated from the harmonic mean.
    likelihood = torch.tensor([1.0, 2.0, 5.0, 9.0], dtype=F64)
    delta, p = 0.01, 4 / (1 / likelihood).sum()
    for _ in range(2000):
        weight = delta + (1 - delta) * likelihood / p
        imagined = len(likelihood) * delta / (1 - delta)
        p = (imagined * p + (likelihood / weight).sum()) / (imagined + (1 / weight).sum())
    logs = likelihood.log()[:, None]
    posterior = Posterior(logs[..., None], Densities(logs, logs, logs), {})
    with pytest.warns(EvidenceWarning):
        estimate = stabilized_harmonic_mean(posterior, whole_prior(), delta)
    assert estimate.log_evidence == pytest.approx(float(p.log()), abs=1e-9)


def test_importance_estimate_and_its_error():
    # Weights exp(s e - s^2 / 2) have mean 1 and variance exp(s^2) - 1.
    noise = torch.randn(400, 2000, dtype=F64)
    estimates = [importance_estimate(0.8 * row - 0.32) for row in noise]
    values, errors = torch.tensor([e.log_evidence for e in estimates]), torch.tensor([e.std_error for e in estimates])
    assert abs(values.mean()) < 4 * values.std() / 20 + 0.001  # minus half the variance of the mean
    assert errors.mean() == pytest.approx(math.sqrt((math.exp(0.64) - 1) / 2000), rel=0.05)
    assert errors.mean() == pytest.approx(float(values.std()), rel=0.15)
    assert estimates[0].diagnostics["ess"] == pytest.approx(2000 / math.exp(0.64), rel=0.2)


@pytest.mark.parametrize("k", [0.25, 0.5, 1.0])
def test_pareto_k(k):
    uniform = torch.rand(20_000, dtype=F64)
    assert pareto_k(-k * uniform.log()) == pytest.approx(k, abs=0.15)
    assert pareto_k(torch.zeros(100)) == -math.inf


def test_tail_index_of_weights_that_differ_beyond_floating_point():
    noise = torch.randn(40, 100, dtype=F64)
    tail_indices = [pareto_k(spread * row) for spread in (100.0, 300.0, 500.0, 1e5) for row in noise]
    assert min(tail_indices) > 5


def test_chain_ess_of_an_autoregression():
    # The autocorrelation time of an AR(1) chain is (1 + r) / (1 - r).
    for r in (0.0, 0.6, -0.4):
        x = torch.zeros(2000, 8, dtype=F64)
        for i in range(1, 2000):
            x[i] = r * x[i - 1] + torch.randn(8, dtype=F64)
        expected = min(16_000 * (1 - r) / (1 + r), 16_000)
        assert chain_ess(x).item() == pytest.approx(expected, rel=0.15)
    assert chain_ess(torch.ones(50, 4)).item() == 200


def test_bridge_between_normal_distributions():
    # Unnormalised N(0, 1) times e^2 against N(0.5, 1.5^2): log r = 2.
    target = lambda z: 2 + torch.distributions.Normal(0.0, 1.0).log_prob(z)  # noqa: E731
    q = torch.distributions.Normal(torch.tensor(0.5, dtype=F64), 1.5)
    own, other = torch.randn(20_000, dtype=F64), q.sample((20_000,))
    value, iterations = bridge_iteration(target(own) - q.log_prob(own), target(other) - q.log_prob(other), 0.5)
    assert value.item() == pytest.approx(2.0, abs=0.02)
    assert iterations < 30


def power_draws():
    """Independent draws of log L from the power posteriors of L = exp(-2 x^2), x ~ N(0, 1)."""
    powers = torch.linspace(0, 1, 8, dtype=F64).square()
    x = torch.randn(2000, 8, 4, dtype=F64) / (1 + 4 * powers[:, None]).sqrt()
    return PowerDraws(powers, -2 * x.square(), {})


def test_power_estimators_on_independent_draws():
    exact = -0.5 * math.log(5.0)
    draws = power_draws()
    stone, path, modified = stepping_stone(draws), path_sampling(draws), modified_path_sampling(draws)
    assert abs(stone.log_evidence - exact) < 3 * stone.std_error < 0.05
    assert path.diagnostics["lower"] < exact < path.diagnostics["upper"]
    powers = draws.powers
    rule = torch.trapezoid(-2 / (1 + 4 * powers), powers).item()  # E[log L] = -2 Var(x)
    assert abs(path.log_evidence - rule) < 3 * path.std_error < 0.05
    assert abs(rule - exact) > 0.005
    assert abs(modified.log_evidence - exact) < abs(rule - exact) / 3 + 3 * modified.std_error
    variance = torch.stack([column.flatten().var() for column in draws.log_ratio.unbind(1)])
    correction = (powers.diff().square() * variance.diff()).sum().item() / 12
    assert modified.log_evidence == pytest.approx(path.log_evidence - correction, abs=1e-9)
    assert abs(correction) > 0.005


def test_power_errors_match_the_spread():
    estimates = [stepping_stone(power_draws()) for _ in range(40)]
    values = torch.tensor([e.log_evidence for e in estimates])
    assert values.std().item() == pytest.approx(estimates[0].std_error, rel=0.45)  # 4 standard errors of a deviation


def test_nested_shells():
    # With L = exp(-X / s) the evidence is s (1 - exp(-1 / s)); the shares X follow from uniform draws.
    scale, live, rounds = 0.01, 50, 16
    counts = torch.arange(50, 25, -1).repeat(rounds)
    ones = torch.ones_like(counts)
    log_steps = torch.rand(300, len(counts), dtype=F64).log() / counts  # Beta(n, 1)
    shares = log_steps.cumsum(-1).exp()
    left = shares[:, -1:] * torch.rand(300, live, dtype=F64)
    results = [
        integrate_shells(Shells(-row / scale, counts, ones), -rest / scale)
        for row, rest in zip(shares, left, strict=True)
    ]
    values = torch.tensor([f[0] for f in results])
    errors = torch.tensor([f[1] for f in results])
    exact = math.log(scale * -math.expm1(-1 / scale))
    assert abs(values.mean() - exact) < 4 * values.std() / 300**0.5 + values.var() / 2
    assert errors.mean() == pytest.approx(float(values.std()), rel=0.2)
    assert results[0][2]["information"] == pytest.approx(-math.log(scale) - 1, abs=0.5)


def test_nested_shells_and_live_points_have_the_whole_prior_mass():
    counts = torch.arange(8, 4, -1).repeat(2)
    shells = Shells(torch.zeros(8), counts, torch.ones_like(counts))
    value, error, figures = integrate_shells(shells, torch.zeros(8))
    assert (value, error) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert figures["information"] == pytest.approx(0.0, abs=1e-12)


def test_maximize_keeps_to_bounds():
    lower = torch.tensor([-1.0, 0.5], dtype=F64)
    maximum = maximize(lambda x: (-x.square().sum(), -2 * x), torch.ones(2, dtype=F64), lower)
    torch.testing.assert_close(maximum.point, torch.tensor([0.0, 0.5], dtype=F64), atol=1e-6, rtol=0)
    assert maximum.converged
    assert maximum.gradient_norm < 1e-5
    with pytest.raises(ValueError, match="is nan where the search starts"):
        maximize(lambda x: (x.sum() * torch.nan, x), torch.ones(2))


@pytest.mark.parametrize("different", [0, 1, 3])
def test_laplus_at_and_near_the_boundary(different):
    toy = two_taxa(same=200, different=different)
    comparison = compare_evidence(toy, methods=["gamma_laplus", "gamma_laplus_is"], seed=2)
    assert comparison["gamma_laplus"].diagnostics["num_at_boundary"] == (different == 0)
    assert comparison["gamma_laplus"].log_evidence == pytest.approx(toy.exact, abs=0.05)
    assert (
        abs(comparison["gamma_laplus_is"].log_evidence - toy.exact) < 3 * comparison["gamma_laplus_is"].std_error < 0.03
    )
