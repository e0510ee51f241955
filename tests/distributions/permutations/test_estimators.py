"""The exact distributions of permutations as sites of a guide, under estimators for discrete variables."""

import pyro
import pytest
import torch

from pyro_ext.distributions import PermutationMatching, StickBreakingPermutation
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSumAndSample_ELBO, TraceUnorderedSet_ELBO

SIZES = {StickBreakingPermutation: 3, PermutationMatching: 4}
WEIGHT = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pair(family, parameter):
    prior = family(torch.zeros_like(parameter))

    def model():
        x = pyro.sample("x", prior)
        pyro.factor("score", (WEIGHT * x).sum((-2, -1)))

    def guide():
        pyro.sample("x", family(parameter))

    return model, guide


def exact_gradient(family, parameter):
    d, prior = family(parameter), family(torch.zeros_like(parameter))
    values = d.enumerate_support()
    log_q = d.log_prob(values)
    loss = (log_q.exp() * (log_q - prior.log_prob(values) - (WEIGHT * values).sum((-2, -1)))).sum()
    return loss.detach(), torch.autograd.grad(loss, parameter)[0]


@pytest.mark.parametrize("family", SIZES)
def test_a_set_of_all_permutations_is_exact(family):
    parameter = torch.randn(SIZES[family], SIZES[family], dtype=torch.float64, requires_grad=True)
    expected, expected_gradient = exact_gradient(family, parameter)
    loss = TraceUnorderedSet_ELBO(24, max_plate_nesting=0).differentiable_loss(*pair(family, parameter))
    torch.testing.assert_close(loss.detach(), expected)
    torch.testing.assert_close(torch.autograd.grad(loss, parameter)[0], expected_gradient)


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("elbo", [TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO, TraceLeaveOneOut_ELBO])
def test_gradients_are_unbiased(family, elbo):
    """The mean of 200 gradients, each entry within 4.5 standard errors: false alarm 1e-4 in all."""
    parameter = torch.randn(SIZES[family], SIZES[family], dtype=torch.float64, requires_grad=True)
    _, expected = exact_gradient(family, parameter)
    estimator = elbo(4, max_plate_nesting=0)
    losses = (estimator.differentiable_loss(*pair(family, parameter)) for _ in range(200))
    gradients = torch.stack([torch.autograd.grad(loss, parameter)[0] for loss in losses])
    errors = gradients.std(0) / 200**0.5
    assert ((gradients.mean(0) - expected).abs() <= 4.5 * errors + 1e-12).all()


@pytest.mark.parametrize("family", SIZES)
def test_sets_in_a_plate_are_unbiased(family):
    """Two elements of a plate that differ, 4,000 copies of each, |z| < 4.5: false alarm 3e-4 in all."""
    size = SIZES[family]
    parameter = torch.randn(2, size, size, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([exact_gradient(family, row)[1] for row in parameter.detach().requires_grad_()])
    copies = parameter.detach().expand(4_000, *parameter.shape).clone().requires_grad_()
    prior = family(torch.zeros_like(copies))

    def model():
        with pyro.plate("copies", 4_000, dim=-2), pyro.plate("data", 2, dim=-1):
            x = pyro.sample("x", prior)
            pyro.factor("score", (WEIGHT * x).sum((-2, -1)))

    def guide():
        with pyro.plate("copies", 4_000, dim=-2), pyro.plate("data", 2, dim=-1):
            pyro.sample("x", family(copies))

    TraceUnorderedSet_ELBO(4, max_plate_nesting=2).differentiable_loss(model, guide).backward()
    z = (copies.grad.mean(0) - expected) / copies.grad.std(0) * 4_000**0.5
    assert float(z.abs().max()) < 4.5


def test_supports_too_large_to_list():
    """A guide over 16! permutations, under the ELBO's defaults, climbs from 1 fixed point on average to most of 16."""
    score = 4 * torch.eye(16)

    def model():
        x = pyro.sample("x", StickBreakingPermutation(torch.zeros(15, 15)))
        pyro.factor("score", (score * x).sum((-2, -1)))

    logits = torch.zeros(15, 15, requires_grad=True)
    elbo, optimiser = TraceUnorderedSet_ELBO(8), torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        optimiser.zero_grad()
        elbo.loss_and_grads(model, lambda: pyro.sample("x", StickBreakingPermutation(logits)))
        optimiser.step()
    fixed_points = StickBreakingPermutation(logits).sample((100,)).diagonal(dim1=-2, dim2=-1).sum(-1)
    assert float(fixed_points.mean()) > 10
