"""Scaling to doubly stochastic matrices: sums, form, gradients of the solution, masks, refusals."""

import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyro_ext.ops.sinkhorn import log_sinkhorn, sinkhorn

INF = math.inf


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_sums_and_form(n, temperature, dtype):
    potentials = torch.randn(4, n, n, dtype=dtype) / temperature
    log_x = log_sinkhorn(potentials)
    x = log_x.exp()
    assert log_x.dtype == dtype
    tolerance = 3e-8 if dtype == torch.float64 else 1e-6
    assert (x.sum(-1) - 1).abs().max() < tolerance
    assert (x.sum(-2) - 1).abs().max() < tolerance
    shift = (log_x - potentials).double()  # f + g: every 2 x 2 minor vanishes
    minors = shift + shift[..., :1, :1] - shift[..., :1] - shift[..., :1, :]
    assert minors.abs().max() < 1e-13 / temperature * (1 if dtype == torch.float64 else 1e9)


def test_two_by_two_in_closed_form():
    potentials = torch.randn(7, 2, 2, dtype=torch.float64)
    gap = potentials[:, 0, 0] + potentials[:, 1, 1] - potentials[:, 0, 1] - potentials[:, 1, 0]
    torch.testing.assert_close(sinkhorn(potentials)[:, 0, 0], (gap / 2).sigmoid(), rtol=0, atol=1e-8)


def test_tolerance_is_the_limit_of_iterations():
    potentials = torch.randn(3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(potentials), sinkhorn(potentials, num_iterations=2000), rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 5, 5)])
def test_first_and_second_derivatives(shape):
    potentials = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    for function in (sinkhorn, log_sinkhorn):
        assert gradcheck(lambda x, f=function: f(x, 1e-13), (potentials,))
    assert gradgradcheck(lambda x: sinkhorn(x, 1e-13), (potentials,))


def test_gradient_of_the_solution_is_that_of_many_iterations():
    potentials = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 5, dtype=torch.float64)
    grads = [
        torch.autograd.grad((x * weight).sum(), potentials)[0]
        for x in (sinkhorn(potentials, 1e-13), sinkhorn(potentials, num_iterations=500))
    ]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 0.001])
def test_gradients_stay_bounded_at_low_temperature(temperature, dtype):
    potentials = (torch.randn(8, 12, 12, dtype=dtype) / temperature).requires_grad_()
    (grad,) = torch.autograd.grad(sinkhorn(potentials).square().sum(), potentials)
    assert grad.isfinite().all()
    assert grad.abs().max() < 2


def scaled_in_logs(log_potentials, num_iterations):
    log_x = log_potentials.double()
    for _ in range(num_iterations):
        log_x = log_x.log_softmax(-2).log_softmax(-1)
    return log_x


@pytest.mark.parametrize("num_iterations", [1, 2, 6, 7, 20])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("cells", ["all", "some", "no permutation"])
def test_iterations_of_large_matrices(num_iterations, temperature, cells, dtype):
    """Products of matrices and vectors make the iterations of logs, to the stated rounding."""
    torch.manual_seed(0)
    potentials = (3 * torch.randn(3, 30, 30, dtype=dtype)) / temperature
    if cells == "some":
        potentials[:, torch.rand(30, 30) + torch.eye(30) < 0.6] = -INF
    if cells == "no permutation":
        potentials[:, :2, 1:] = -INF
    found, expected = (
        log_sinkhorn(potentials, num_iterations=num_iterations),
        scaled_in_logs(potentials, num_iterations),
    )
    assert found.dtype == dtype
    assert torch.equal(found.isinf(), expected.isinf())
    error = ((found - expected) / (1 + expected.abs()))[expected.isfinite()].abs().max()
    assert error < (5e-6 if dtype == torch.float32 else 1e-13)


def test_derivatives_of_iterations(monkeypatch):
    """First and second ones of the products, for matrices small enough for finite differences."""
    monkeypatch.setattr("pyro_ext.ops.sinkhorn._SMALL", 1)
    potentials = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    iterated = partial(log_sinkhorn, num_iterations=8)
    torch.testing.assert_close(iterated(potentials), scaled_in_logs(potentials, 8), rtol=0, atol=1e-14)
    assert gradcheck(iterated, (potentials,))
    assert gradgradcheck(iterated, (potentials,))
    torch.testing.assert_close(torch.func.vmap(iterated)(potentials), iterated(potentials))


def test_cells_at_minus_infinity_stay_zero_with_zero_gradient():
    potentials = torch.randn(3, 3, dtype=torch.float64)
    potentials[0, 1] = potentials[2, 0] = -INF
    potentials.requires_grad_()
    for options in ({}, {"num_iterations": 30}):
        x = sinkhorn(potentials, **options)
        (grad,) = torch.autograd.grad(x.square().sum(), potentials)
        assert x[0, 1] == x[2, 0] == 0
        assert grad.isfinite().all()
        assert grad[0, 1] == grad[2, 0] == 0


def test_support_without_total_support_converges():
    x = sinkhorn(torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64).log())
    assert (x - torch.eye(2)).abs().max() < 1e-7  # after 200 plain iterations: 0.0025


def test_batch_and_vmap():
    potentials = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    one_by_one = torch.stack([sinkhorn(x) for x in potentials.flatten(0, 1)]).reshape(potentials.shape)
    torch.testing.assert_close(sinkhorn(potentials), one_by_one, rtol=0, atol=1e-8)
    torch.testing.assert_close(torch.func.vmap(sinkhorn, in_dims=1, out_dims=1)(potentials), sinkhorn(potentials))
    assert sinkhorn(torch.zeros(0, 3, 3)).shape == (0, 3, 3)
    iterated = partial(sinkhorn, num_iterations=3)
    torch.testing.assert_close(torch.func.vmap(iterated, in_dims=1, out_dims=1)(potentials), iterated(potentials))
    assert iterated(torch.zeros(0, 3, 3)).shape == (0, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinkhorn(torch.zeros(2, 3)), r"log_potentials must have shape batch_shape \+ \(N, N\)"),
        (lambda: sinkhorn(torch.zeros(0, 0)), "N at least 1"),
        (lambda: sinkhorn(torch.zeros(2)), r"got \(2,\)"),
        (lambda: sinkhorn(torch.zeros(2, 2), tolerance=0.0), "tolerance must be a positive, finite number, got 0.0"),
        (
            lambda: sinkhorn(torch.zeros(2, 2), num_iterations=0),
            "num_iterations must be an integer of at least 1, got 0",
        ),
        (lambda: sinkhorn(torch.full((2, 2), math.nan)), "must not hold NaN"),
        (lambda: sinkhorn(torch.full((2, 2), INF)), "must not hold NaN or \\+inf, got inf"),
        (lambda: sinkhorn(torch.full((2, 2), math.nan), num_iterations=3), "must not hold NaN or \\+inf, got nan"),
        (lambda: sinkhorn(torch.full((2, 2), INF), num_iterations=3), "must not hold NaN or \\+inf, got inf"),
        (lambda: sinkhorn(torch.tensor([[0.0, 0.0], [-INF, -INF]]), num_iterations=3), "a row or a column of -inf"),
        (lambda: sinkhorn(torch.tensor([[0.0, -INF], [0.0, -INF]])), "a row or a column of -inf"),
        (
            lambda: sinkhorn(torch.tensor([[0.0, 0.0, 0.0], [-INF, -INF, 0.0], [-INF, -INF, 0.0]])),
            "cannot be scaled to column sums of 1 within tolerance=1e-08",
        ),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
