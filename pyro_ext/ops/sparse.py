"""Sparse matrices times dense ones, with dropout on stored values and a backward pass that stays sparse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.utils.checks import number_between

__all__ = ["SparseMatrix", "dropout", "dropout_values", "multiply", "multiply_sparse", "stored_rows"]

Transposed = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix of N x M numbers of which few are stored, row by row (CSR).

    It is made of ordinary tensors, so that it works on every device and needs none of PyTorch's sparse layouts. The
    structure of its transpose is computed once, when it is made, and reused by every backward pass.

    Args:
        crow: where the rows begin in ``col`` and ``values``, and where the last one ends; int64 ``(N + 1,)``.
        col: the columns of the stored values, int64 ``(nnz,)``.
        values: the stored values, ``(nnz,)``.
        shape: N and M.
        transposed: ``crow`` and ``col`` of the transpose, the places in ``values`` of its values, and the other way
            round; None for a symmetric matrix, which is its own transpose.

    Example:
        >>> matrix = SparseMatrix.from_coo(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([5.0, 7.0]), (2, 3))
        >>> matrix
        SparseMatrix(2 x 3, 2 stored values, torch.float32)
        >>> matrix.to_dense()
        tensor([[0., 0., 5.],
                [7., 0., 0.]])
    """

    crow: Tensor
    col: Tensor
    values: Tensor
    shape: tuple[int, int]
    transposed: Transposed | None = None

    @classmethod
    def from_coo(
        cls, row: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int], symmetric: bool = False
    ) -> SparseMatrix:
        """Make a matrix from the places of its values; values at one place are added up.

        Args:
            row: the rows, int64 ``(nnz,)``.
            col: the columns, int64 ``(nnz,)``.
            values: the values, floating point ``(nnz,)``.
            shape: the numbers N of rows and M of columns.
            symmetric: whether the matrix equals its transpose, which the caller answers for.

        Raises:
            ValueError: if the tensors differ in length, or a place lies outside of the matrix.

        Example:
            >>> place = torch.tensor([0, 0])
            >>> SparseMatrix.from_coo(place, place, torch.ones(2), (1, 1)).values
            tensor([2.])
        """
        if row.dim() != 1 or not row.shape == col.shape == values.shape:
            shapes = ", ".join(str(tuple(part.shape)) for part in (row, col, values))
            raise ValueError(f"row, col and values must be vectors of one length, got shapes {shapes}")
        if not values.is_floating_point():
            raise ValueError(f"values must be floating point, got {values.dtype}; convert them with .to(torch.float32)")
        for name, places, size in (("row", row, shape[0]), ("col", col, shape[1])):
            if places.is_floating_point() or (len(places) and bool(((places < 0) | (places >= size)).any())):
                raise ValueError(f"{name} must hold integers from 0 to {size - 1}, for shape {tuple(shape)}")
        key, place = torch.unique(row.long() * shape[1] + col.long(), return_inverse=True)
        summed = values.new_zeros(len(key)).index_add(0, place, values)
        rows = key.div(max(shape[1], 1), rounding_mode="floor")
        made = cls(_starts(rows, shape[0]), key - rows * shape[1], summed, (int(shape[0]), int(shape[1])))
        return made if symmetric else replace(made, transposed=_transposed(made))

    @classmethod
    def from_csr(cls, crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        """Make a matrix from compressed rows; values at one place are added up.

        Raises:
            ValueError: if ``crow`` does not begin with 0, end with the number of values and rise in between, or a
                column lies outside of the matrix.

        Example:
            >>> SparseMatrix.from_csr(torch.tensor([0, 1, 1]), torch.tensor([2]), torch.ones(1), (2, 3))
            SparseMatrix(2 x 3, 1 stored values, torch.float32)
        """
        ends = crow[:1].tolist() + crow[-1:].tolist()
        if crow.shape != (shape[0] + 1,) or ends != [0, len(values)] or bool((crow.diff() < 0).any()):
            raise ValueError(
                f"crow must be {shape[0] + 1} integers that rise from 0 to the number of values {len(values)}, got "
                f"shape {tuple(crow.shape)} from {' to '.join(map(str, ends))}"
            )
        rows = torch.repeat_interleave(torch.arange(shape[0], device=crow.device), crow.diff().long())
        return cls.from_coo(rows, col, values, shape)

    @classmethod
    def from_dense(cls, dense: Tensor) -> SparseMatrix:
        """Make a matrix of the values of a dense one that are not zero.

        Example:
            >>> SparseMatrix.from_dense(torch.eye(3))
            SparseMatrix(3 x 3, 3 stored values, torch.float32)
        """
        if dense.dim() != 2:
            raise ValueError(f"dense must be a matrix, got shape {tuple(dense.shape)}")
        row, col = dense.nonzero(as_tuple=True)
        return cls.from_coo(row, col, dense[row, col], (dense.shape[0], dense.shape[1]))

    @property
    def is_symmetric(self) -> bool:
        """Whether it was made as a symmetric matrix."""
        return self.transposed is None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the values lie."""
        return self.values.device

    @property
    def T(self) -> SparseMatrix:
        """The transpose."""
        if self.transposed is None:
            return self
        crow, col, order, back = self.transposed
        return SparseMatrix(crow, col, self.values[order], self.shape[::-1], (self.crow, self.col, back, order))

    def to(self, *args: Any, **kwargs: Any) -> SparseMatrix:
        """Return the matrix on another device, or with values of another type; arguments are those of a tensor's."""
        values = self.values.to(*args, **kwargs)
        crow, col = self.crow.to(values.device), self.col.to(values.device)
        moved = None if self.transposed is None else _moved(self.transposed, values.device)
        return SparseMatrix(crow, col, values, self.shape, moved)

    def with_values(self, values: Tensor) -> SparseMatrix:
        """Return a matrix with other values at the same places; it is not known to be symmetric any more."""
        if values.shape != self.values.shape:
            raise ValueError(f"values must have shape {tuple(self.values.shape)}, got {tuple(values.shape)}")
        transposed = _transposed(self) if self.transposed is None else self.transposed
        return replace(self, values=values, transposed=transposed)

    def to_dense(self) -> Tensor:
        """Return all N x M numbers."""
        return self.values.new_zeros(self.shape).index_put((stored_rows(self), self.col), self.values)

    def __matmul__(self, dense: Tensor) -> Tensor:
        """Return the product with a dense matrix, as :func:`multiply` does."""
        return multiply(self, dense)

    def __repr__(self) -> str:
        return f"SparseMatrix({self.shape[0]} x {self.shape[1]}, {len(self.values)} stored values, {self.values.dtype})"


def multiply(matrix: SparseMatrix, dense: Tensor) -> Tensor:
    r"""Multiply a sparse matrix and dense ones, with one pass over the stored values for all of them.

    The gradient with respect to the dense matrix is :math:`A^\top g`, by the transposed structure that the matrix
    keeps; for a symmetric matrix it is :math:`A g` with the same structure.

    Args:
        matrix: N x M.
        dense: shape ``batch_shape + (M, K)``.

    Returns:
        The products, shape ``batch_shape + (N, K)``.

    Raises:
        ValueError: if shapes do not fit, or the types differ; inside of ``torch.autocast``, which makes dense matrices
            of another type by itself, they may.

    Example:
        >>> matrix = SparseMatrix.from_dense(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
        >>> multiply(matrix, torch.tensor([[1.0], [10.0]]))
        tensor([[20.],
                [ 1.]])
    """
    if dense.dim() < 2 or dense.shape[-2] != matrix.shape[1]:
        raise ValueError(
            f"dense must have shape (..., {matrix.shape[1]}, K) for a sparse matrix of {matrix.shape[0]} x "
            f"{matrix.shape[1]}, got {tuple(dense.shape)}"
        )
    device = dense.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and dense.is_floating_point():
        dense = dense.to(matrix.dtype)
    if dense.dtype != matrix.dtype:
        raise ValueError(f"dense must be {matrix.dtype} as the matrix is, got {dense.dtype}; use matrix.to(dense)")
    if dense.dim() == 2:
        return _product(matrix, dense)
    batch, columns = dense.shape[:-2], dense.shape[-1]
    side_by_side = dense.reshape(-1, *dense.shape[-2:]).transpose(0, 1).flatten(1)
    product = _product(matrix, side_by_side).unflatten(-1, (-1, columns))
    return product.transpose(0, 1).reshape(*batch, matrix.shape[0], columns)


def multiply_sparse(first: SparseMatrix, second: SparseMatrix) -> SparseMatrix:
    """Multiply two sparse matrices; the product is sparse again, and its structure is computed anew at each call.

    Args:
        first: N x L.
        second: L x M.

    Raises:
        ValueError: if shapes do not fit.

    Example:
        >>> path = SparseMatrix.from_dense(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> multiply_sparse(path, path).to_dense()
        tensor([[1., 0.],
                [0., 1.]])
    """
    if first.shape[1] != second.shape[0]:
        raise ValueError(f"second must have {first.shape[1]} rows, as first has columns, got {second.shape[0]}")
    number = second.crow.diff()[first.col]  # of values in the row of the second that a value of the first meets
    pairs = torch.repeat_interleave(torch.arange(len(number), device=number.device), number)
    begin = second.crow[first.col] - (number.cumsum(0) - number)
    other = begin[pairs] + torch.arange(len(pairs), device=pairs.device)
    rows = stored_rows(first)[pairs]
    values = first.values[pairs] * second.values[other]
    return SparseMatrix.from_coo(rows, second.col[other], values, (first.shape[0], second.shape[1]))


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Set each entry to zero with probability p, and divide the others by 1 - p.

    Uniform numbers decide. That takes a third of the time of ``torch.nn.functional.dropout`` on the CPU, whose draws of
    Bernoulli variables are the largest part of a step of a small graph convolutional network.

    Args:
        x: any floating point tensor.
        p: the probability, in [0, 1).
        training: whether to do so at all.

    Raises:
        ValueError: if ``p`` is out of range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> dropout(torch.ones(4), 0.5)
        tensor([0., 2., 0., 0.])
    """
    number_between("p", p, 0, 1, "[)")
    if not training or p == 0:
        return x
    return x * (torch.rand_like(x) >= p).to(x.dtype).mul_(1 / (1 - p))


def dropout_values(matrix: SparseMatrix, p: float, training: bool = True) -> SparseMatrix:
    r"""Set each stored value to zero with probability p, and divide the others by 1 - p.

    The zeros of the matrix stay zeros whatever dropout does, so that nothing is drawn for them.

    Args:
        matrix: any sparse matrix.
        p: the probability, in [0, 1).
        training: whether to do so at all.

    Raises:
        ValueError: if ``p`` is out of range.

    References:
        | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017)
        | https://arxiv.org/abs/1609.02907, section 6

    Example:
        >>> _ = torch.manual_seed(0)
        >>> dropout_values(SparseMatrix.from_dense(torch.eye(4)), 0.5).values
        tensor([0., 2., 0., 0.])
    """
    values = dropout(matrix.values, p, training)
    return matrix if values is matrix.values else matrix.with_values(values)


def stored_rows(matrix: SparseMatrix) -> Tensor:
    """Return the row of each stored value, int64 ``(nnz,)``."""
    places = torch.arange(len(matrix.col), device=matrix.col.device)
    return torch.searchsorted(matrix.crow, places, right=True) - 1


class _Product(torch.autograd.Function):
    """The product with one dense matrix."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, dense: Tensor, matrix: SparseMatrix) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(values, dense)
        # The sum of a bag of weighted rows: the kernel that every device has, and as fast as MKL's on the CPU.
        return F.embedding_bag(
            matrix.col,
            dense.contiguous(),
            matrix.crow,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, dense = ctx.saved_tensors
        (gradient,) = gradients
        of_values = of_dense = None
        if ctx.needs_input_grad[0]:
            of_values = (gradient[stored_rows(ctx.matrix)] * dense[ctx.matrix.col]).sum(-1)
        if ctx.needs_input_grad[1]:
            of_dense = _product(replace(ctx.matrix, values=values).T, gradient)
        return of_values, of_dense, None


def _product(matrix: SparseMatrix, dense: Tensor) -> Tensor:
    if len(matrix.values) == 0 or dense.shape[-1] == 0:
        return dense.new_zeros(matrix.shape[0], dense.shape[-1]) + 0 * dense.sum()
    return _Product.apply(matrix.values, dense, replace(matrix, values=matrix.values.detach()))


def _starts(rows: Tensor, number: int) -> Tensor:
    """Return where each of ``number`` rows begins among sorted ``rows``, and where the last one ends."""
    counts = rows.new_zeros(number + 1).index_add(0, rows + 1, torch.ones_like(rows))
    return counts.cumsum(0)


def _transposed(matrix: SparseMatrix) -> Transposed:
    order = matrix.col.argsort(stable=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return _starts(matrix.col[order], matrix.shape[1]), stored_rows(matrix)[order], order, back


def _moved(transposed: Transposed, device: torch.device) -> Transposed:
    crow, col, order, back = (part.to(device) for part in transposed)
    return crow, col, order, back
