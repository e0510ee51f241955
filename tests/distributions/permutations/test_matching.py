"""PermutationMatching: against enumeration and Pyro's unbatched class; moments, divergence, samples, refusals.

UniformPermutation: frequencies and sizes.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.distributions import kl_divergence

from pyro_ext.distributions import PermutationMatching, StickBreakingPermutation, UniformPermutation
from pyro_ext.distributions.goodness_of_fit import chi_square_p_value, counts_of

INF = math.inf


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_normalised_with_exact_moments(n):
    potentials = 2 * torch.randn(3, n, n, dtype=torch.float64)
    if n > 2:
        potentials[0, 0, 1] = -INF
    d = PermutationMatching(potentials)
    values = d.enumerate_support()
    log_prob = d.log_prob(values)
    probs = log_prob.exp()
    torch.testing.assert_close(probs.sum(0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(d.mean, (probs[..., None, None] * values).sum(0), rtol=0, atol=1e-13)
    entropy = -torch.special.xlogy(probs, probs).sum(0)
    torch.testing.assert_close(d.entropy(), entropy, rtol=0, atol=1e-12)
    assert torch.equal(d.log_prob(d.mode), log_prob.amax(0))


def test_agrees_with_pyro_one_at_a_time():
    potentials = torch.randn(5, 4, 4, dtype=torch.float64)
    d = PermutationMatching(potentials)
    x = d.sample()
    for i in range(5):
        single = dist.OneOneMatching(potentials[i])
        assert float(d.log_prob(x)[i]) == pytest.approx(float(single.log_prob(x[i].argmax(-1))), abs=1e-12)


def test_samples_follow_the_law(dtype):
    """A chi-square test over all 120 permutations, false alarms 1e-6."""
    d = PermutationMatching(torch.randn(5, 5, dtype=dtype))
    values = d.enumerate_support()
    draws = d.sample((100, 300)).reshape(30_000, 1, 5, 5)
    probs = d.log_prob(values).double().exp().unsqueeze(-1)
    assert float(chi_square_p_value(counts_of(draws, values), probs)) > 1e-6


def test_gradients():
    potentials = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    value = PermutationMatching(potentials).sample((3,))
    for function in (
        lambda x: PermutationMatching(x).log_prob(value),
        lambda x: PermutationMatching(x).mean,
        lambda x: PermutationMatching(x).entropy(),
    ):
        assert torch.autograd.gradcheck(function, (potentials,))
    with torch.no_grad():
        assert not PermutationMatching(potentials).mean.requires_grad
    assert not PermutationMatching(potentials.detach()).mean.requires_grad


def test_divergence():
    p = PermutationMatching(torch.randn(2, 1, 4, 4, dtype=torch.float64))
    q = PermutationMatching(torch.randn(3, 4, 4, dtype=torch.float64))
    values = p.enumerate_support(expand=False)
    log_p, log_q = p.log_prob(values), q.log_prob(values)
    torch.testing.assert_close(kl_divergence(p, q), (log_p.exp() * (log_p - log_q)).sum(0))
    holes = torch.zeros(4, 4, dtype=torch.float64)
    holes[0, 0] = -INF
    assert kl_divergence(q, PermutationMatching(holes)).isinf().all()
    assert kl_divergence(PermutationMatching(holes), q).isfinite().all()
    assert kl_divergence(p, p).abs().max() < 1e-12


def test_impossible_permutations():
    potentials = torch.zeros(3, 3, requires_grad=True)
    holes = potentials.masked_fill(torch.eye(3).bool(), -INF)
    d = PermutationMatching(holes)
    assert d.log_prob(torch.eye(3)) == -INF
    assert (d.sample((500,)).diagonal(dim1=-2, dim2=-1) == 0).all()
    (grad,) = torch.autograd.grad(d.log_prob(torch.eye(3).roll(1, 0)), potentials)
    assert grad.isfinite().all()


@pytest.mark.parametrize("family", [PermutationMatching, StickBreakingPermutation])
def test_enumerated_in_a_model(family):
    """The exact ELBO of an enumerated site with guide = prior is the expected log-likelihood."""
    d = family(torch.randn(3, 3))
    weight = torch.randn(d.event_shape)

    def guide():
        return pyro.sample("x", d, infer={"enumerate": "parallel"})

    def model():
        pyro.factor("f", (weight * guide()).sum((-2, -1)))

    expected = (weight * d.mean).sum()
    assert -TraceEnum_ELBO(max_plate_nesting=0).loss(model, guide) == pytest.approx(float(expected), abs=1e-5)


def test_a_single_element_and_repr():
    d = PermutationMatching(torch.randn(2, 1, 1))
    assert torch.equal(d.sample(), torch.ones(2, 1, 1))
    assert torch.equal(d.log_prob(d.sample()), torch.zeros(2))
    assert repr(d) == "PermutationMatching(batch_shape: (2,), N=1)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PermutationMatching(torch.zeros(3, 2)), r"log_potentials must have shape batch_shape \+ \(N, N\)"),
        (lambda: PermutationMatching(torch.zeros(0, 0)), "N at least 1"),
        (lambda: PermutationMatching(torch.zeros(19, 19)), "19 rows, but exact sums take at most 18: use Gumbel"),
        (
            lambda: PermutationMatching(torch.full((2, 2), INF)),
            "log_potentials must be neither NaN nor \\+inf, got inf",
        ),
        (lambda: PermutationMatching(torch.full((2, 2), -INF)), "log_potentials leaves no permutation"),
        (lambda: PermutationMatching(torch.zeros(2, 2)).log_prob(torch.ones(2, 2)), "within the support"),
        (
            lambda: kl_divergence(PermutationMatching(torch.zeros(2, 2)), PermutationMatching(torch.zeros(3, 3))),
            "p permutes 2 and q 3 elements",
        ),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_uniform_draws_are_equally_frequent():
    d = UniformPermutation(torch.zeros(3, 3))
    agreement = d.sample((6000,)).flatten(1) @ d.enumerate_support().flatten(1).T  # of 3 rows
    counts = (agreement == 3).sum(0)
    # standard deviation of a count 29: 5 of them fail falsely less than once in 100,000
    assert (counts - 1000).abs().max() < 5 * 29


def test_uniform_of_large_sizes():
    d = UniformPermutation(torch.zeros(30, 30))
    assert d.log_prob(torch.eye(30)) == pytest.approx(-math.lgamma(31))
    assert d.support.check(d.sample((4,))).all()


def test_uniform_like_must_be_square():
    with pytest.raises(ValueError, match=r"like must have shape batch_shape \+ \(N, N\)"):
        UniformPermutation(torch.zeros(2, 3))
