"""Exponentials of multiples of a symmetric matrix, with gradients that are right for equal eigenvalues too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_ext.ops._second_derivatives import gradients_with_graph
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["symmetric_exp"]


def symmetric_exp(matrix: Tensor, times: Tensor, *, largest_is_zero: bool = False) -> Tensor:
    r"""Return :math:`\exp(t S)` for every time t.

    With :math:`S = V \Lambda V^T`, the gradient in S weighs the entries of :math:`V^T G V` by the divided differences
    :math:`(e^{t \lambda_i} - e^{t \lambda_j}) / (\lambda_i - \lambda_j)`, and by their limit where two eigenvalues
    are equal, where the gradient of an eigendecomposition is not finite.

    Args:
        matrix: the symmetric matrix S, ``batch_shape + (A, A)``.
        times: the times t, ``batch_shape + (E,)``.
        largest_is_zero: whether the largest eigenvalue is known to be 0, as for the generator of a Markov process; it
            is then set to 0, because its rounding error would grow without bound over long times.

    Returns:
        ``batch_shape + (E, A, A)``; batch shapes broadcast. Time 0 gives the identity; short times keep their digits.

    References:
        | Functions of matrices: theory and computation (Higham, 2008), theorem 3.11 (Daleckii and Krein)
        | https://doi.org/10.1137/1.9780898717778

    >>> symmetric_exp(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0.0, 1.0]))
    tensor([[[1.0000, 0.0000], [0.0000, 1.0000]],
            [[1.5431, 1.1752], [1.1752, 1.5431]]])
    """
    batch_shape = broadcast_shapes(matrix.shape[:-2], times.shape[:-1])
    matrix = matrix.expand(*batch_shape, *matrix.shape[-2:])
    result: Tensor = _SymmetricExp.apply(matrix, times.expand(*batch_shape, times.shape[-1]), largest_is_zero)
    return result


class _SymmetricExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, times: Tensor, largest_is_zero: bool) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        if largest_is_zero:
            values = torch.cat([values[..., :-1].clamp_max(0), torch.zeros_like(values[..., -1:])], -1)
        ctx.save_for_backward(matrix, times, values, vectors)
        change = (times.unsqueeze(-1) * values.unsqueeze(-2)).expm1().diag_embed()
        return _sandwich(vectors, change) + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        matrix, times, values, vectors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *gradients_with_graph(_by_autograd, (matrix, times), grad), None
        inner = vectors.mT.unsqueeze(-3) @ grad @ vectors.unsqueeze(-3)
        powers = (times.unsqueeze(-1) * values.unsqueeze(-2)).exp()
        time_grad = (inner.diagonal(dim1=-2, dim2=-1) * values.unsqueeze(-2) * powers).sum(-1)
        weighed = (inner * _divided_differences(values, times)).sum(-3, keepdim=True)
        matrix_grad = _sandwich(vectors, weighed).squeeze(-3)
        return (matrix_grad + matrix_grad.mT) / 2, time_grad, None


def _by_autograd(matrix: Tensor, times: Tensor) -> Tensor:
    return torch.matrix_exp(times[..., None, None] * matrix.unsqueeze(-3))


def _sandwich(vectors: Tensor, inner: Tensor) -> Tensor:
    return vectors.unsqueeze(-3) @ inner @ vectors.mT.unsqueeze(-3)


def _divided_differences(values: Tensor, times: Tensor) -> Tensor:
    """Return the divided differences of ``exp(t .)`` at all pairs of eigenvalues, ``batch_shape + (E, A, A)``."""
    t = times[..., None, None]
    first, second = values[..., None, :, None], values[..., None, None, :]
    half = t * (first - second) / 2
    # sinh(x) / x, by its series near 0
    small = half.abs() < 1e-3
    safe = half.where(~small, 1)
    ratio = torch.where(small, 1 + half.square() / 6, safe.sinh() / safe)
    return t * (t * (first + second) / 2).exp() * ratio
