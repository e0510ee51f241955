"""GumbelSinkhorn and GumbelMatching: distributions, limits, use in a model, gradients, divergence, refusals."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from scipy.signal import fftconvolve
from torch.distributions import kl_divergence

from pyro_ext.distributions import GumbelMatching, GumbelSinkhorn, constraints
from pyro_ext.ops.assignment import best_permutation

INF = math.inf


def test_samples_lie_in_the_support(dtype):
    potentials = torch.randn(3, 6, 6, dtype=dtype)
    potentials[:, 0, 1] = -INF
    for temperature in (1.0, 0.1, 0.01):
        d = GumbelSinkhorn(potentials, temperature)
        x = d.sample((20,))
        assert d.support.check(x).all()
        assert (x[..., 0, 1] == 0).all()
    d = GumbelSinkhorn(potentials, 0.5, num_iterations=10)
    assert d.support.check(d.sample((20,))).all()


def test_the_two_by_two_laws_in_closed_form():
    """The difference of two pairs of Gumbels: numeric integral against frequencies, within 4.5 standard errors."""
    potentials = torch.tensor([[0.5, 0.0], [0.2, 0.3]], dtype=torch.float64)
    u = torch.linspace(-40, 60, 20_001, dtype=torch.float64)
    gumbel = torch.distributions.Gumbel(torch.tensor(0.0, dtype=torch.float64), 1.0)
    density = gumbel.log_prob(u).exp()
    step = float(u[1] - u[0])
    total = torch.from_numpy(fftconvolve(density, density)) * step  # of a sum of two, from -80 in the same steps
    above = torch.cumsum(total, 0) * step
    grid = -80 + step * torch.arange(len(total), dtype=torch.float64)
    gap = float(potentials.diagonal().sum() - potentials.flip(0).diagonal().sum())
    shifted = torch.searchsorted(grid, grid + gap).clamp_max(len(grid) - 1)
    expected = float((total * above[shifted]).sum() * step)
    frequency = float(GumbelMatching(potentials).sample((20_000,))[:, 0, 0].mean())
    assert abs(frequency - expected) < 4.5 * math.sqrt(expected * (1 - expected) / 20_000)


def test_cold_samples_are_matchings():
    potentials = torch.randn(4, 4, dtype=torch.float64)
    relaxed = GumbelSinkhorn(potentials, 1e-3)
    exact = relaxed.zero_temperature_limit()
    noise = relaxed.noise().sample((200,))
    x = relaxed.from_noise(noise)
    # two matchings whose scores differ by less than some temperatures are both seen
    assert ((x - best_permutation(noise)).abs().amax((-2, -1)) < 0.01).double().mean() > 0.95
    assert exact.support.check(exact.sample((200,))).all()
    assert torch.equal(exact.mode, best_permutation(potentials))


def test_rsample_is_from_noise_of_the_noise_law():
    """Means of both ways to draw agree within 5 standard errors in every cell."""
    d = GumbelSinkhorn(torch.randn(3, 3, dtype=torch.float64), 0.5)
    one, other = d.sample((4000,)), d.from_noise(d.noise().sample((4000,)))
    error = (one.var(0) / 4000 + other.var(0) / 4000).sqrt()
    assert ((one.mean(0) - other.mean(0)) / error).abs().max() < 5


def test_pathwise_gradient():
    noise = GumbelSinkhorn(torch.zeros(4, 4, dtype=torch.float64), 1.0).noise().sample()
    potentials = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)

    def push(potentials, temperature):
        d = GumbelSinkhorn(potentials, temperature, tolerance=1e-13)
        return d.from_noise(potentials + noise)

    assert torch.autograd.gradcheck(push, (potentials, temperature))
    x = GumbelSinkhorn(potentials, temperature).rsample((3,))
    assert all(grad.any() for grad in torch.autograd.grad(x.square().sum(), (potentials, temperature)))


def test_divergence():
    """Closed form against Monte Carlo in the space of the scores, within 4.5 standard errors."""
    p = GumbelSinkhorn(torch.randn(3, 3, dtype=torch.float64), 0.7)
    q = GumbelSinkhorn(torch.zeros(3, 3, dtype=torch.float64), 1.0)
    scores = p.noise().sample((20_000,)) / 0.7
    log_p = torch.distributions.Gumbel(p.log_potentials / 0.7, 1 / 0.7).log_prob(scores).sum((-2, -1))
    terms = log_p - q.noise().log_prob(scores)
    assert abs(float(terms.mean() - kl_divergence(p, q))) < 4.5 * float(terms.std()) / math.sqrt(20_000)
    masked = torch.zeros(3, 3, dtype=torch.float64)
    masked[0, 0] = -INF
    assert kl_divergence(GumbelSinkhorn(masked, 1.0), q) == 0
    assert kl_divergence(q, GumbelSinkhorn(masked, 1.0)) == INF


def test_in_a_model():
    """The noise is the site: the documented pattern finds the permutation behind data."""
    target = torch.eye(4)[[2, 0, 3, 1]]
    potentials = torch.zeros(4, 4, requires_grad=True)

    def model():
        d = GumbelSinkhorn(torch.zeros(4, 4), 0.5)
        x = d.from_noise(pyro.sample("noise", d.noise()))
        pyro.sample("y", dist.Normal(x, 0.2).to_event(2), obs=target)

    def guide():
        pyro.sample("noise", GumbelSinkhorn(potentials, 0.5).noise())

    optimizer = torch.optim.Adam([potentials], 0.2)
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=0)
    for _ in range(60):
        optimizer.zero_grad()
        elbo.differentiable_loss(model, guide).backward()
        optimizer.step()
    assert torch.equal(GumbelMatching(potentials).mode, target)


def test_expand_and_shapes():
    d = GumbelSinkhorn(torch.randn(3, 3), torch.tensor([0.5, 1.0]))
    assert d.batch_shape == (2,)
    wide = d.expand((4, 2))
    assert wide.sample((5,)).shape == (5, 4, 2, 3, 3)
    assert GumbelMatching(torch.randn(2, 3, 3)).expand((4, 2)).sample((5,)).shape == (5, 4, 2, 3, 3)
    assert isinstance(d.to_event(1), dist.Independent)
    assert GumbelMatching(torch.zeros(3, 3)).support is constraints.permutation_matrix


def test_a_single_element():
    assert torch.equal(GumbelSinkhorn(torch.zeros(1, 1), 0.1).sample((2,)), torch.ones(2, 1, 1))
    assert torch.equal(GumbelMatching(torch.zeros(1, 1)).sample((2,)), torch.ones(2, 1, 1))


@pytest.mark.parametrize("d", [GumbelSinkhorn(torch.zeros(2, 2), 1.0), GumbelMatching(torch.zeros(2, 2))])
def test_there_is_no_density(d):
    with pytest.raises(NotImplementedError, match=r"noise\(\)"):
        d.log_prob(torch.eye(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GumbelSinkhorn(torch.zeros(2, 3), 1.0), r"log_potentials must have shape batch_shape \+ \(N, N\)"),
        (lambda: GumbelSinkhorn(torch.zeros(2, 2), -1.0), "temperature must be positive and finite, got -1"),
        (
            lambda: GumbelSinkhorn(torch.zeros(3, 2, 2), torch.ones(4)),
            r"temperature has shape \(4,\), which does not fit",
        ),
        (lambda: GumbelMatching(torch.zeros(0, 0)), "N at least 1"),
        (
            lambda: GumbelMatching(torch.full((2, 2), math.nan)),
            "log_potentials must be neither NaN nor \\+inf, got nan",
        ),
        (lambda: GumbelMatching(torch.tensor([[0.0, 0.0], [-INF, -INF]])), "log_potentials leaves no permutation"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
