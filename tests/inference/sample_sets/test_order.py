"""Models that sample their sites in another order than the guide."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSampleSet_ELBO, TraceUnorderedSet_ELBO

NAMES = ("a", "b", "c")


class Chain:
    """A chain that the model samples from its end: c, then b given c, then a given b; the guide from a on."""

    def __init__(self):
        torch.manual_seed(0)
        self.p, self.q = (torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def model(self):
        c = pyro.sample("c", dist.Categorical(logits=self.p[0, 0]))
        b = pyro.sample("b", dist.Categorical(logits=self.p[1][c]))
        a = pyro.sample("a", dist.Categorical(logits=self.p[2][b]))
        pyro.sample("x", dist.Normal(a.double(), 1.0), obs=torch.tensor(0.3, dtype=torch.float64))

    def guide(self):
        a = pyro.sample("a", dist.Categorical(logits=self.q[0, 0]))
        b = pyro.sample("b", dist.Categorical(logits=self.q[1][a]))
        pyro.sample("c", dist.Categorical(logits=self.q[2][b]))

    def exact_loss(self):
        total = torch.zeros((), dtype=torch.float64)
        for values in itertools.product(range(2), repeat=3):
            state = dict(zip(NAMES, map(torch.tensor, values), strict=True))
            log_p, log_q = (
                pyro.poutine.trace(pyro.poutine.condition(program, state)).get_trace().log_prob_sum()
                for program in (self.model, self.guide)
            )
            total = total - log_q.exp() * (log_p - log_q)
        return total


def test_whole_sets_are_exact_in_any_order():
    chain = Chain()
    loss = TraceUnorderedSet_ELBO(num_samples=2, max_plate_nesting=0).differentiable_loss(chain.model, chain.guide)
    exact = chain.exact_loss()
    torch.testing.assert_close(loss, exact)
    for one, other in zip(*(torch.autograd.grad(each, [chain.p, chain.q]) for each in (loss, exact)), strict=True):
        torch.testing.assert_close(one, other)


def test_samples_in_any_order_are_unbiased():
    chain = Chain()
    exact = torch.autograd.grad(chain.exact_loss(), chain.q)[0].flatten()
    elbo = TraceLeaveOneOut_ELBO(num_samples=3, num_particles=400, vectorize_particles=True, max_plate_nesting=0)
    pyro.set_rng_seed(0)
    drawn = torch.stack(
        [
            torch.autograd.grad(elbo.differentiable_loss(chain.model, chain.guide), chain.q)[0].flatten()
            for _ in range(20)
        ]
    )
    z = (drawn.mean(0) - exact) / (drawn.std(0) / 20**0.5 + 1e-12)
    # Ten components with 19 degrees of freedom: a false alarm in one of 500 seeds.
    assert z.abs().max() < 5.5


def test_a_warning_where_nothing_is_discrete():
    def program():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.warns(UserWarning, match="no site has a sample set or is enumerated"):
        TraceSampleSet_ELBO(strict_enumeration_warning=True).loss(program, program)
    TraceSampleSet_ELBO().loss(program, program)
