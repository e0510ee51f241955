"""The log-uniform prior: its constant, what it draws, registered divergences, and the warning of their absence."""

import math
import warnings

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_ext.distributions import LogUniform


@pytest.mark.parametrize("log_alpha", [-4.0, 0.0, 3.0])
def test_constant_makes_sampled_and_closed_divergences_agree(log_alpha):
    q = dist.Normal(torch.tensor(0.7, dtype=torch.float64), 0.7 * math.exp(0.5 * log_alpha))
    p = LogUniform(kl="exact")
    w = q.sample((400_000,))
    terms = q.log_prob(w) - p.log_prob(w)
    error = terms.mean() - kl_divergence(q, p)
    assert abs(error) < 4 * terms.std() / len(terms) ** 0.5


def test_draws_are_uniform_in_the_logarithm():
    w = LogUniform(1e-3, 10.0).sample((20_000,))
    assert abs((w > 0).double().mean() - 0.5) < 5 * 0.5 / len(w) ** 0.5
    u = (w.abs().log() - math.log(1e-3)) / math.log(1e4)
    assert ((u >= 0) & (u <= 1)).all()
    assert abs(u.mean() - 0.5) < 5 * 12**-0.5 / len(w) ** 0.5


def test_divergences_keep_shapes(dtype):
    q = dist.Normal(torch.zeros(3, 1, dtype=dtype), torch.ones(4, dtype=dtype))
    for p in (LogUniform(), LogUniform().expand([4]), LogUniform().expand([3, 4])):
        assert kl_divergence(q, p).shape == (3, 4)
        assert kl_divergence(q, p).dtype == dtype
    joint = kl_divergence(q.to_event(2), LogUniform().expand([3, 4]).to_event(2))
    torch.testing.assert_close(joint, kl_divergence(q, LogUniform()).sum())
    assert kl_divergence(dist.Normal(torch.zeros(()), 1.0), LogUniform().expand([5])).shape == (5,)


def test_zero_weight():
    w = torch.zeros(2, requires_grad=True)
    log_prob = LogUniform().log_prob(w)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("family", [dist.Gamma, dist.InverseGamma, torch.distributions.InverseGamma])
@pytest.mark.parametrize("loc", [-0.4, 0.8])
def test_log_normal(family, loc):
    loc, scale = torch.tensor([loc, 0.1], dtype=torch.float64), torch.tensor([0.3, 0.8], dtype=torch.float64)
    q, p = dist.LogNormal(loc, scale), family(torch.tensor([0.5, 2.0]).double(), torch.tensor([1.0, 0.7]).double())
    x = q.sample((200_000,))
    terms = q.log_prob(x) - p.log_prob(x)
    error = (terms.mean(0) - kl_divergence(q, p)).abs()
    assert (error < 4 * terms.std(0) / len(x) ** 0.5).all()
    torch.testing.assert_close(kl_divergence(q.to_event(1), dist.Independent(p, 1)), kl_divergence(q, p).sum())


def test_warning_where_a_sampled_weight_gets_the_gradient():
    loc = torch.tensor([0.5], requires_grad=True)
    w = dist.Normal(loc, 1.0).rsample()
    log_prob = LogUniform().log_prob(w)
    with pytest.warns(RuntimeWarning, match=r"infinite variance.*AnalyticKL"):
        log_prob.sum().backward()
    state = torch.tensor([0.5], requires_grad=True)  # of a Markov chain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogUniform().log_prob(state).sum().backward()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LogUniform(kl="sampled"), "kl must be one of approx, exact; got 'sampled'"),
        (lambda: LogUniform(2.0, 1.0), "high must be above low, got low=2.0 and high=1.0"),
        (lambda: LogUniform(-1.0), "low"),
        (lambda: LogUniform().log_prob(torch.tensor(math.nan)), "support"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
