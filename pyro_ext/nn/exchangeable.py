"""Layers for matrices whose rows and whose columns have no order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_ext.utils.checks import positive_int

__all__ = ["ExchangeableLayer"]


class ExchangeableLayer(nn.Module):
    r"""A linear layer for the entries of a matrix that sees their rows and their columns by means.

    .. math::  Y_{ij} = W_1 X_{ij} + W_2 \tfrac{1}{M} \sum_{j'} X_{ij'} + W_3 \tfrac{1}{N} \sum_{i'} X_{i'j}
        + W_4 \tfrac{1}{NM} \sum_{i'j'} X_{i'j'} + b,

    the linear map with the most freedom of those that a permutation of rows or columns passes through. It takes
    matrices of any size.

    Args:
        in_features: the number of features of an entry.
        out_features: the number of features of an entry of the result.

    Raises:
        ValueError: if a number is not a positive integer.

    References:
        | Deep models of interactions across sets (Hartford et al., 2018), theorem 2.1
        | https://arxiv.org/abs/1803.02879

    Example:
        >>> layer = ExchangeableLayer(3, 8)
        >>> layer(torch.randn(5, 6, 4, 3)).shape
        torch.Size([5, 6, 4, 8])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        positive_int("in_features", in_features)
        positive_int("out_features", out_features)
        self.entry = nn.Linear(in_features, out_features)
        self.means = nn.ModuleList(nn.Linear(in_features, out_features, bias=False) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map the entries of matrices.

        Args:
            x: ``(..., N, M, in_features)``.
            mask: which entries are no padding, bool ``(..., N, M)``; all of them if None. Means leave the others out.

        Returns:
            ``(..., N, M, out_features)``.
        """
        y: Tensor = self.entry(x)
        weight = None if mask is None else mask.unsqueeze(-1).to(x.dtype)
        of_rows, of_columns, of_all = self.means
        for layer, dims in ((of_rows, (-2,)), (of_columns, (-3,)), (of_all, (-2, -3))):
            y = y + layer(_mean(x, weight, dims))
        return y


def _mean(x: Tensor, weight: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    if weight is None:
        return x.mean(dims, keepdim=True)
    return torch.sum(x * weight, dims, keepdim=True) / weight.sum(dims, keepdim=True).clamp(min=1)
