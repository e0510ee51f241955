"""Models of rates over sites: mean one, batches, gradients, bad input."""

import pytest
import torch

from pyro_ext.phylo.rates import ConstantRate, GammaRates, InvariantSites, WeibullRates

F64 = torch.float64
SHAPES = torch.tensor([0.2, 1.0, 5.0], dtype=F64)
MODELS = {
    "constant": ConstantRate(),
    "gamma": GammaRates(SHAPES),
    "weibull": WeibullRates(SHAPES, num_categories=6),
    "invariant": InvariantSites(torch.tensor([0.0, 0.1, 0.7], dtype=F64)),
    "invariant and gamma": InvariantSites(torch.tensor(0.3, dtype=F64), GammaRates(SHAPES)),
}


@pytest.mark.parametrize("name", MODELS)
def test_mixtures_have_mean_one(name):
    rates, log_probs = MODELS[name].mixture(torch.zeros((), dtype=F64))
    probs = log_probs.exp().expand_as(rates)
    one = torch.ones(rates.shape[:-1], dtype=F64)
    torch.testing.assert_close(probs.sum(-1), one)
    torch.testing.assert_close((rates * probs).sum(-1), one)
    assert (rates >= 0).all()


def test_type_follows_the_branch_lengths():
    rates, log_probs = InvariantSites(torch.tensor(0.3), GammaRates(torch.tensor(0.5))).mixture(
        torch.zeros((), dtype=F64)
    )
    assert rates.dtype == log_probs.dtype == F64


def test_gradients():
    shape, share = SHAPES.clone().requires_grad_(), torch.tensor(0.3, dtype=F64, requires_grad=True)
    like = torch.zeros((), dtype=F64)
    assert torch.autograd.gradcheck(lambda s: WeibullRates(s).mixture(like).rates, (shape,))
    assert torch.autograd.gradcheck(lambda s, p: InvariantSites(p, GammaRates(s)).mixture(like), (shape, share))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GammaRates(torch.tensor(0.0)), "shape must be positive and finite, got 0"),
        (lambda: WeibullRates(torch.tensor(1.0), 0), "num_categories must be an integer of at least 1, got 0"),
        (lambda: InvariantSites(torch.tensor(1.0)), r"proportion must lie in \[0, 1\), got 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
