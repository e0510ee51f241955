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
    found = symmetric_exp(matrix, times)
    expected = torch.matrix_exp(matrix.unsqueeze(-3) * times[..., None, None])
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-4 if dtype == torch.float32 else 1e-11, atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-9, 0.0])
def test_gradients_with_close_eigenvalues(spread):
    matrix = (0.3 * torch.eye(4, dtype=F64) + spread * symmetric()).requires_grad_()
    times = torch.tensor([0.0, 0.5, 2.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: symmetric_exp((s + s.mT) / 2, t), (matrix, times))


def test_broadcast_gradients():
    matrix, times = symmetric(2, 1).requires_grad_(), torch.rand(3, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: symmetric_exp((s + s.mT) / 2, t), (matrix, times))
