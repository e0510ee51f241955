"""Category means of a Gamma distribution: published values, numerical integration, gradients, extremes."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from pyro_ext.ops.gamma_quantiles import gamma_category_means


def test_published_values():
    """Rates printed by IQ-TREE for the shape .1447, and those of Yang (1994) for .5."""
    result = gamma_category_means(torch.tensor([0.1447, 0.5], dtype=torch.float64), 4)
    expected = torch.tensor([[3.791e-05, 0.009102, 0.2258, 3.765], [0.0334, 0.2519, 0.8203, 2.8944]])
    torch.testing.assert_close(result, expected.double(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 7.0])
def test_against_integration(alpha):
    gamma = stats.gamma(alpha, scale=1 / alpha)
    ends = gamma.ppf(np.linspace(0, 1, 6))
    expected = [5 * integrate.quad(lambda x: x * gamma.pdf(x), *pair)[0] for pair in pairwise(ends)]
    result = gamma_category_means(torch.tensor(alpha, dtype=torch.float64), 5)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_gradients():
    shapes = torch.tensor([[0.05, 0.1447, 0.5], [1.0, 20.0, 150.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: gamma_category_means(a, 4), (shapes,), atol=1e-7, rtol=1e-5)


def test_second_derivatives():
    shapes = torch.tensor([[0.05, 0.1447, 0.5], [1.0, 5.0, 20.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a: gamma_category_means(a, 4), (shapes,), atol=1e-5, rtol=1e-4)


def test_extremes(dtype):
    shapes = torch.tensor([1e-4, 1e4], dtype=dtype, requires_grad=True)
    result = gamma_category_means(shapes, 4)
    assert result.dtype == dtype
    assert result.isfinite().all()
    torch.testing.assert_close(result.mean(-1), torch.ones(2, dtype=dtype))
    assert torch.autograd.grad(result[:, -1].sum(), shapes)[0].isfinite().all()


def test_one_category():
    assert gamma_category_means(torch.tensor(0.5), 1).tolist() == [1.0]
