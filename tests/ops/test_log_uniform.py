"""The divergence from the log-uniform prior: series and Dawson's function as references, limits, gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.special import dawsn, gammaln, psi

from pyro_ext.ops.log_uniform import log_alpha, log_uniform_kl

RATIOS = torch.linspace(-8, 8, 161, dtype=torch.float64)


def by_series(ratios):
    """Sum over Poisson weights of digamma, the expectation of the logarithm of a noncentral chi-squared variable."""
    u = 0.5 * np.exp(-ratios.numpy())[:, None]
    k = np.arange(3000)
    weights = np.exp(k * np.log(u) - u - gammaln(k + 1))
    constant = 0.5 * (np.euler_gamma + math.log(2))
    return torch.from_numpy(0.5 * math.log(2) + 0.5 * (weights * psi(k + 0.5)).sum(-1) + constant)


def gradient(ratios, kl):
    ratios = ratios.clone().requires_grad_()
    return torch.autograd.grad(log_uniform_kl(ratios, kl).sum(), ratios)[0]


def test_approximation():
    error = (log_uniform_kl(RATIOS) - by_series(RATIOS)).abs()
    assert error.max() < 0.01
    assert 0.009 < error.max()  # what the fit of the paper is known to miss


def test_exact(dtype):
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    value = log_uniform_kl(RATIOS.to(dtype), "exact").double()
    torch.testing.assert_close(value, by_series(RATIOS), rtol=0, atol=tolerance)
    root = np.sqrt(0.5 * np.exp(-RATIOS.numpy()))
    slope = gradient(RATIOS.to(dtype), "exact").double()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(slope, torch.from_numpy(-root * dawsn(root)), rtol=0, atol=tolerance)


def test_exact_gradient_is_that_of_the_value():
    assert torch.autograd.gradcheck(lambda x: log_uniform_kl(x, "exact"), RATIOS[::8].clone().requires_grad_())


@pytest.mark.parametrize("kl", ["approx", "exact"])
def test_limits(kl, dtype):
    wide = torch.linspace(-80, 40, 1201, dtype=dtype)
    value = log_uniform_kl(wide, kl)
    assert (value.diff() <= 1e-6).all()
    assert abs(value[wide >= 10]).max() < 1e-4
    slope = gradient(wide, kl)
    assert slope.isfinite().all()
    torch.testing.assert_close(slope[wide < -12], torch.full_like(slope[wide < -12], -0.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kl", ["approx", "exact"])
def test_where_clipped_formulas_fail(kl, dtype):
    """No clip at -8 that would stop the gradient, and no NaN at a mean of zero."""
    loc = torch.tensor([0.0, 1.0, 1.0, 1e-12, -3.0], dtype=dtype, requires_grad=True)
    log_variance = torch.tensor([-12.0, -12.0, -15.0, -40.0, 12.0], dtype=dtype, requires_grad=True)
    value = log_uniform_kl(log_alpha(loc, log_variance), kl)
    grads = torch.autograd.grad(value.sum(), [loc, log_variance])
    assert value.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)
    assert grads[0][0] == 0
    torch.testing.assert_close(grads[1][1:3], torch.full_like(grads[1][1:3], -0.5), rtol=0, atol=1e-4)


def test_under_vmap():
    x = torch.linspace(-3, 3, 12).reshape(3, 4)
    torch.testing.assert_close(torch.vmap(lambda row: log_uniform_kl(row, "exact"))(x), log_uniform_kl(x, "exact"))


def test_unknown_form():
    with pytest.raises(ValueError, match="kl must be one of approx, exact; got 'molchanov'"):
        log_uniform_kl(RATIOS, "molchanov")
