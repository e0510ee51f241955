"""Exponentials of symmetric matrices: values and gradients, equal eigenvalues included."""

import pytest
import torch

from pyro_ext.ops.symmetric_exp import symmetric_exp

F64 = torch.float64


def symmetric(*shape, dtype=F64):
    matrix = torch.randn(*shape, 4, 4, dtype=dtype)
    return matrix + matrix.mT


def test_against_torch(dtype):
    matrix, times = symmetric(3, 1, dtype=dtype), torch.rand(2, 5, dtype=dtype)
    result = symmetric_exp(matrix, times)
    expected = torch.matrix_exp(matrix.unsqueeze(-3) * times[..., None, None])
    assert result.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(result, expected, **tolerance)


def test_short_times_keep_their_digits(dtype):
    """Off the diagonal t S to first order; nothing at all at time 0, where the gradient is S."""
    matrix, times = symmetric(dtype=dtype), torch.tensor([0.0, 1e-20], dtype=dtype, requires_grad=True)
    result = symmetric_exp(matrix, times)
    assert torch.equal(result[0], torch.eye(4, dtype=dtype))
    off = ~torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(result[1][off], 1e-20 * matrix[off], rtol=1e-4, atol=0)
    (slope,) = torch.autograd.grad(result[0, 1, 2], times)
    torch.testing.assert_close(slope[0], matrix[1, 2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-9, 0.0])
def test_gradients_with_close_eigenvalues(spread):
    matrix = (0.3 * torch.eye(4, dtype=F64) + spread * symmetric()).requires_grad_()
    times = torch.tensor([0.0, 0.5, 2.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: symmetric_exp((s + s.mT) / 2, t), (matrix, times))


def test_broadcast_gradients():
    matrix, times = symmetric(2, 1).requires_grad_(), torch.rand(3, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: symmetric_exp((s + s.mT) / 2, t), (matrix, times))


def test_second_derivatives():
    """Second derivatives by gradgradcheck, and for an input whose first gradient has no graph of its own."""
    matrix, times = symmetric().requires_grad_(), torch.rand(2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda s, t: symmetric_exp((s + s.mT) / 2, t), (matrix, times))
    (slope,) = torch.autograd.grad(symmetric_exp(matrix.detach(), times).sum(), times, create_graph=True)
    expected = (matrix @ matrix @ symmetric_exp(matrix, times)).sum((-2, -1))
    torch.testing.assert_close(torch.autograd.grad(slope.sum(), times)[0], expected.detach())
