"""Masks on the distributions of a guide: they change what a value costs, and neither how it is drawn nor its score."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist

from pyro_ext import inference
from tests.inference.feeding import gradients

F64 = torch.float64
N = 4_000
LOGITS = torch.tensor([0.7, -0.4], dtype=F64)
LOC = torch.tensor([1.0, -2.0], dtype=F64)
HALF = torch.tensor([True, False])
MASKS = {
    "below to_event": lambda fn: fn.mask(HALF).to_event(1),
    "false": lambda fn: fn.to_event(1).mask(False),
    "false below to_event": lambda fn: fn.mask(False).to_event(1),
    "a tensor": lambda fn: fn.to_event(1).mask(torch.tensor(False)),
}
ELBOS = {
    "unordered set": lambda: inference.TraceUnorderedSet_ELBO(2, max_plate_nesting=1),
    "all values": lambda: inference.TraceUnorderedSet_ELBO(4, max_plate_nesting=1),
    "analytic KL": lambda: inference.TraceUnorderedSet_ELBO(4, analytic_kl=True, max_plate_nesting=1),
    "sum-and-sample": lambda: inference.TraceSumAndSample_ELBO(3, max_plate_nesting=1),
    "leave-one-out": lambda: inference.TraceLeaveOneOut_ELBO(2, max_plate_nesting=1),
    "runs": lambda: inference.TraceLeaveOneOut_ELBO(2, vectorize_samples=False, max_plate_nesting=1),
    "beam": lambda: inference.TraceUnorderedBeam_ELBO(3, max_plate_nesting=1),
    "VIMCO": lambda: inference.TraceVIMCO_ELBO(1, max_plate_nesting=1),
    "DisARM": lambda: inference.TraceDisARM_ELBO(max_plate_nesting=1),
    "double CV": lambda: inference.TraceDoubleCV_ELBO(2, max_plate_nesting=1),
    "RODEO": lambda: inference.TraceRODEO_ELBO(2, hidden=4, max_plate_nesting=1),
    "ARMS": lambda: inference.TraceARMS_ELBO(3, max_plate_nesting=1),
}


def programs(mask, logits):
    def model():
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.3, dtype=F64)).to_event(1))
            pyro.sample("x", dist.Normal((z * LOC).sum(-1) + z.prod(-1), 1.0), obs=torch.ones(N, dtype=F64))

    def guide():
        with pyro.plate("data", N):
            pyro.sample("z", MASKS[mask](dist.Bernoulli(logits=logits)))

    return model, guide


def exact(mask):
    """Return the expected gradient by the sum over the four values, drawn without a mask."""
    logits = LOGITS.clone().requires_grad_()
    q = dist.Bernoulli(logits=logits)
    counted = HALF if mask == "below to_event" else torch.zeros(2)
    loss = 0.0
    for z in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=F64)] * 2):
        log_p = dist.Bernoulli(torch.tensor(0.3, dtype=F64)).log_prob(z).sum()
        log_p = log_p + dist.Normal((z * LOC).sum() + z.prod(), 1.0).log_prob(torch.tensor(1.0))
        loss = loss - q.log_prob(z).sum().exp() * (log_p - (q.log_prob(z) * counted).sum())
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ELBOS)
def test_gradient(name, mask):
    logits = LOGITS.expand(N, 2).clone().requires_grad_()
    samples = gradients(ELBOS[name]().differentiable_loss(*programs(mask, logits)), [logits])[0]
    error = (samples.std(0) / math.sqrt(N)).clamp_min(1e-9)
    assert ((samples.mean(0) - exact(mask)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("mark", [{}, {"enumerate": "parallel"}])
def test_the_score_is_needed_where_no_log_probability_depends_on_a_parameter(mark):
    """The guide's term is masked and the model has no parameter: all of the gradient is the score's."""
    logits = torch.zeros(3, dtype=F64, requires_grad=True)

    def model():
        z = pyro.sample("z", dist.Categorical(torch.ones(3, dtype=F64)))
        pyro.sample("x", dist.Normal(z.to(F64), 1.0), obs=torch.tensor(0.0, dtype=F64))

    def guide():
        pyro.sample("z", dist.Categorical(logits=logits).mask(False), infer=mark)

    loss = inference.TraceUnorderedSet_ELBO(3, max_plate_nesting=0).differentiable_loss(model, guide)
    (gradient,) = torch.autograd.grad(loss, logits)
    cost = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    torch.testing.assert_close(gradient, (cost - cost.mean()) / 3)
