"""Stick-breaking permutations, relaxed and exact: normalisation, frequencies, gradients, limits, refusals."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from scipy.stats import kstest
from torch.distributions import kl_divergence

from pyro_ext.distributions import RelaxedStickBreakingPermutation, StickBreakingPermutation, constraints
from pyro_ext.distributions.goodness_of_fit import chi_square_p_value, counts_of
from pyro_ext.ops.birkhoff import break_sticks

INF = math.inf


@pytest.mark.parametrize("n", range(1, 7))
def test_the_exact_law_is_normalised(n):
    d = StickBreakingPermutation(3 * torch.randn(2, n - 1, n - 1, dtype=torch.float64))
    values = d.enumerate_support()
    assert len(values) == math.factorial(n)
    total = d.log_prob(values).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [3, 5])
def test_samples_follow_the_exact_law(n, dtype):
    """A chi-square test over all permutations, false alarms 1e-6."""
    d = StickBreakingPermutation(torch.randn(n - 1, n - 1, dtype=dtype))
    values = d.enumerate_support()
    draws = d.sample((40_000,))
    counts = counts_of(draws.unsqueeze(1), values)
    probs = d.log_prob(values).double().exp().unsqueeze(-1)
    assert float(chi_square_p_value(counts, probs)) > 1e-6


def test_the_exact_law_is_the_limit_of_the_relaxed_one():
    """Frequencies of the roundings of cold samples, within 4.5 standard errors in each of 24 cells."""
    loc, scale = torch.randn(3, 3, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64) + 0.5
    relaxed = RelaxedStickBreakingPermutation(loc, scale, 1e-5)
    exact = relaxed.zero_temperature_limit()
    torch.testing.assert_close(exact.logits.sigmoid(), dist.Normal(0.0, 1.0).cdf(loc / scale))
    values = exact.enumerate_support()
    counts = counts_of(relaxed.sample((20_000,)).round().unsqueeze(1), values).squeeze(-1)
    probs = exact.log_prob(values).exp()
    assert ((counts / 20_000 - probs) / (probs * (1 - probs) / 20_000).sqrt()).abs().max() < 4.5


def test_moments_entropy_and_divergence_of_the_exact_law():
    p = StickBreakingPermutation(torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True))
    q = StickBreakingPermutation(torch.randn(4, 3, 3, dtype=torch.float64))
    values = p.enumerate_support(expand=False)
    log_p, log_q = p.log_prob(values), q.log_prob(values)
    torch.testing.assert_close(p.entropy(), -(log_p.exp() * log_p).sum(0))
    torch.testing.assert_close(kl_divergence(p, q), (log_p.exp() * (log_p - log_q)).sum(0))
    assert kl_divergence(p, q).requires_grad
    torch.testing.assert_close(p.mean.sum(-1), torch.ones(2, 1, 4, dtype=torch.float64))
    torch.testing.assert_close(p.variance, p.mean * (1 - p.mean))


def test_gradient_of_the_exact_law():
    logits = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    value = StickBreakingPermutation(logits).sample((3,))
    assert torch.autograd.gradcheck(lambda x: StickBreakingPermutation(x).log_prob(value), (logits,))


def test_extreme_logits_are_finite(dtype):
    logits = torch.full((3, 3), 200.0, dtype=dtype, requires_grad=True)
    d = StickBreakingPermutation(logits)
    assert torch.equal(d.sample((100,)), torch.eye(4, dtype=dtype).expand(100, 4, 4))
    log_prob = d.log_prob(torch.eye(4, dtype=dtype).flip(0))
    assert log_prob == -1200  # six free cells, all down
    assert torch.autograd.grad(log_prob, logits)[0].isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.2])
def test_the_relaxed_density_integrates_to_one_for_two(temperature):
    d = RelaxedStickBreakingPermutation(torch.tensor([[0.3]], dtype=torch.float64), 0.8, temperature)
    z = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    x = d.transforms[0](z[:, None, None])
    x = x[(x[:, 0, 0] > 0) & (x[:, 0, 0] < 1)]
    total = torch.trapezoid(d.log_prob(x).exp(), x[:, 0, 0])
    assert abs(float(total) - 1) < 1e-4


@pytest.mark.parametrize(("n", "volume"), [(3, 3 / math.factorial(4)), (4, 352 / math.factorial(9))])
def test_the_relaxed_density_integrates_to_one(n, volume):
    """Importance sampling from uniform fractions, whose density is known; within 4 standard errors."""
    d = RelaxedStickBreakingPermutation(torch.zeros(n - 1, n - 1, dtype=torch.float64), 1.2, 1.0)
    beta = torch.rand(200_000, n - 1, n - 1, dtype=torch.float64)
    x, width = break_sticks(beta, 1 - beta)
    weight = (d.log_prob(x) + width.log().sum((-2, -1))).exp()
    error = float(weight.std()) / math.sqrt(len(weight))
    assert error < 0.05
    assert abs(float(weight.mean()) - 1) < 4 * error


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1])
def test_samples_in_unconstrained_coordinates_are_gaussian(temperature):
    """A Kolmogorov-Smirnov test for each coordinate of the inverted samples, false alarms 1e-6 in all."""
    loc, scale = torch.randn(3, 3, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64) + 0.3
    d = RelaxedStickBreakingPermutation(loc, scale, temperature)
    x = d.sample((4000,))
    psi = temperature * d.transforms[0].inv(x.clone())
    standardised = ((psi - loc) / scale).flatten(1)
    p_values = [kstest(column, "norm").pvalue for column in standardised.t().numpy()]
    assert min(p_values) > 1e-6 / 9


def test_densities_of_own_and_copied_samples_agree():
    d = RelaxedStickBreakingPermutation(torch.randn(5, 5, dtype=torch.float64), 1.0, 0.5)
    x = d.rsample((100,))
    torch.testing.assert_close(d.log_prob(x), d.log_prob(x.clone()), rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.1, 0.05, 0.01, 1e-3])
def test_float32_gradients_of_cold_laws_are_bounded(temperature, dtype):
    loc = torch.randn(64, 9, 9, dtype=dtype, requires_grad=True)
    d = RelaxedStickBreakingPermutation(loc, 1.0, temperature)
    x = d.rsample()
    assert constraints.doubly_stochastic.check(x).all()
    (grad,) = torch.autograd.grad(d.log_prob(x).sum(), loc)
    assert grad.isfinite().all()
    assert grad.abs().max() < 1e4 / temperature  # the chain rule through psi / temperature
    assert d.log_prob(x.clone()).isfinite().all()


def test_own_samples_at_low_temperature_are_accepted():
    d = RelaxedStickBreakingPermutation(torch.zeros(9, 9), 1.0, 1e-3, validate_args=True)
    assert d.support.check(d.sample((10_000,))).all()


def test_pathwise_gradient_is_unbiased():
    """Against central differences with common noise, whose error is of second order in the step."""
    loc = torch.randn(3, 3, dtype=torch.float64)
    weight = torch.randn(4, 4, dtype=torch.float64)

    def mean(loc):
        torch.manual_seed(0)
        x = RelaxedStickBreakingPermutation(loc, 1.0, 0.3).rsample((20_000,))
        return (weight * x.square()).sum((-2, -1)).mean()

    leaf = loc.clone().requires_grad_()
    (grad,) = torch.autograd.grad(mean(leaf), leaf)
    for cell in ((0, 0), (1, 2), (2, 1)):
        step = torch.zeros_like(loc)
        step[cell] = 1e-3
        assert float((mean(loc + step) - mean(loc - step)) / 2e-3) == pytest.approx(float(grad[cell]), abs=1e-3)


def test_divergence_is_that_of_the_gaussians():
    p = RelaxedStickBreakingPermutation(torch.full((2, 2), 1.0), 1.0, 0.5)
    q = RelaxedStickBreakingPermutation(torch.zeros(2, 2), 1.0, 0.5)
    assert float(kl_divergence(p, q)) == pytest.approx(2.0)


def test_batched_temperature():
    loc = torch.randn(2, 2, dtype=torch.float64)
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64)
    d = RelaxedStickBreakingPermutation(loc, 1.0, temperature)
    assert d.batch_shape == (2,)
    x = d.sample()
    for i, tau in enumerate(temperature):
        single = RelaxedStickBreakingPermutation(loc, 1.0, tau)
        torch.testing.assert_close(d.log_prob(x)[i], single.log_prob(x[i].clone()))


def test_a_single_element():
    relaxed = RelaxedStickBreakingPermutation(torch.zeros(0, 0), 1.0, 0.5)
    exact = relaxed.zero_temperature_limit()
    for d in (relaxed, exact):
        assert torch.equal(d.sample((3,)), torch.ones(3, 1, 1))
        assert d.log_prob(torch.ones(1, 1)) == 0
        assert d.permutation_size == 1


def test_fits_by_an_autoguide_and_in_vectorised_particles():
    target = torch.eye(4)[[2, 0, 3, 1]]

    def model():
        x = pyro.sample("x", RelaxedStickBreakingPermutation(torch.zeros(3, 3), 1.0, 1.0))
        pyro.sample("y", dist.Normal(x, 0.1).to_event(2), obs=target)

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=0))
    losses = [svi.step() for _ in range(80)]
    assert sum(losses[-10:]) / 10 < 0.5 * losses[0]
    assert torch.equal(guide.median()["x"].argmax(-1), target.argmax(-1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StickBreakingPermutation(torch.zeros(2, 3)), r"logits must have shape batch_shape \+ \(N, N\)"),
        (lambda: StickBreakingPermutation([[0.0]]), "logits must be a floating point tensor"),
        (lambda: StickBreakingPermutation(torch.zeros(2, 2).long()), "logits must be a floating point tensor"),
        (lambda: StickBreakingPermutation(torch.full((2, 2), math.nan)), "logits must be finite, got nan"),
        (lambda: StickBreakingPermutation(torch.full((2, 2), INF)), "logits must be finite, got inf"),
        (lambda: StickBreakingPermutation(torch.zeros(2, 2)).log_prob(torch.ones(3, 3) / 3), "within the support"),
        (lambda: RelaxedStickBreakingPermutation(torch.zeros(2), 1.0, 1.0), "loc must have shape"),
        (
            lambda: RelaxedStickBreakingPermutation(torch.zeros(2, 2), 1.0, 0.0),
            "temperature must be positive and finite, got 0",
        ),
        (lambda: RelaxedStickBreakingPermutation(torch.zeros(2, 2), -1.0, 1.0), "scale must be positive and finite"),
        (lambda: RelaxedStickBreakingPermutation(torch.zeros(2, 2), 1.0, math.nan), "temperature must be positive"),
        (
            lambda: RelaxedStickBreakingPermutation(torch.zeros(3, 2, 2), 1.0, torch.ones(4)),
            r"loc \(3, 2, 2\), scale \(\) and temperature \(4,\) do not fit",
        ),
        (lambda: RelaxedStickBreakingPermutation(torch.zeros(1, 1), torch.ones(3, 3), 1.0), "do not fit"),
        (
            lambda: kl_divergence(
                StickBreakingPermutation(torch.zeros(1, 1)), StickBreakingPermutation(torch.zeros(2, 2))
            ),
            r"q has event shape \(2, 2\) but p \(3, 3\)",
        ),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_support_too_large_to_list():
    d = StickBreakingPermutation(torch.zeros(11, 11))
    assert not d.has_enumerate_support
    with pytest.raises(NotImplementedError, match="479001600 values, too many to list"):
        d.enumerate_support()
    assert math.isfinite(d.log_prob(d.sample()))
