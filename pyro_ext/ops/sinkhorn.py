"""Scaling of positive matrices to doubly stochastic ones, in log space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from pyro_ext.ops._shapes import check_square
from pyro_ext.utils.checks import positive_int, positive_number

__all__ = ["log_sinkhorn", "sinkhorn"]

_SMALL = 24  # smaller matrices are scaled sooner in logs than by products
_BLOCK = 5  # iterations between two matrices of logs; a factor stays within N to this power
_WARM_UP = 5
# Few Newton steps are needed (tens at temperature 0.01, a hundred at 0.001); so many mean that there is no solution.
_MOST_STEPS = 500
_FIRST_DAMPING = 0.1  # relative to the largest excess of a column
# Keeps the linear system solvable where the matrix consists of separate blocks; relative to entries of at most 1.
_RIDGE = 1e-12


def log_sinkhorn(log_potentials: Tensor, tolerance: float = 1e-8, num_iterations: int | None = None) -> Tensor:
    r"""Return the log of the doubly stochastic matrix nearest to ``exp(log_potentials)`` in relative entropy.

    It is the only doubly stochastic matrix of the form

    .. math::  X_{ij} = \exp(L_{ij} + f_i + g_j).

    Without ``num_iterations`` the scalings are computed to ``tolerance``: a few Sinkhorn iterations, then regularised
    Newton steps on the convex dual, which take tens of linear solves where, at low temperatures, alternate scaling
    takes 10^5 iterations. The gradient is then that of the solution, by implicit differentiation; it can be
    differentiated again. With ``num_iterations`` the classical algorithm makes that many iterations and is
    differentiated step by step; it does not check whether the finite entries hold a permutation, only that every row
    and column has a finite entry.

    Args:
        log_potentials: logs of the entries to scale, ``batch_shape + (N, N)``; -inf where the result is to be 0.
        tolerance: the largest deviation of a column's sum from 1; rows always sum to 1 up to rounding.
        num_iterations: the number of alternate scalings, columns first; if None, as many steps as ``tolerance`` needs.

    Returns:
        ``batch_shape + (N, N)``, in the type of ``log_potentials``; computed in float64 without ``num_iterations``, in
        that type with it (but at least in float32, where rounding is below ``5e-6 * (1 + abs(result))``).

    Raises:
        ValueError: if the matrices are not square or hold NaN or +inf, if ``tolerance`` or ``num_iterations`` is not
            positive, or if no doubly stochastic matrix has its positive entries where ``log_potentials`` is finite
            (with ``num_iterations``: if a row or a column has no finite entry).

    References:
        | A relationship between arbitrary positive matrices and doubly stochastic matrices (Sinkhorn, 1964)
        | https://doi.org/10.1214/aoms/1177703591
        | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018), section 3
        | https://arxiv.org/abs/1802.08665

    >>> log_sinkhorn(torch.tensor([[0.0, 1.0], [2.0, 0.0]])).exp()
    tensor([[0.1824, 0.8176], [0.8176, 0.1824]])
    """
    check_square("log_potentials", log_potentials)
    if num_iterations is None:
        positive_number("tolerance", tolerance)
        solution: Tensor = _Balanced.apply(log_potentials.double(), tolerance)
        return solution.to(log_potentials.dtype)
    positive_int("num_iterations", num_iterations)
    precise = log_potentials if log_potentials.dtype == torch.float64 else log_potentials.float()
    return _alternate(_Scalable.apply(precise), num_iterations).to(log_potentials.dtype)


def sinkhorn(log_potentials: Tensor, tolerance: float = 1e-8, num_iterations: int | None = None) -> Tensor:
    """Return the doubly stochastic scaling of ``exp(log_potentials)``: the exponential of :func:`log_sinkhorn`.

    >>> sinkhorn(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    tensor([[0.1824, 0.8176], [0.8176, 0.1824]])
    """
    return log_sinkhorn(log_potentials, tolerance, num_iterations).exp()


def _alternate(log_potentials: Tensor, num_iterations: int) -> Tensor:
    """Scale columns and rows in turn; unless matrices are small, few iterations touch the logs of all entries.

    The others find the factors of the columns and rows in products of the matrix with a vector. Once every row sums
    to 1, no column sums to less than 1 / N, so that what underflows in the matrix is lost in the rounding of its sums.
    """
    if log_potentials.shape[-1] < _SMALL:
        for _ in range(num_iterations):
            log_potentials = log_potentials.log_softmax(-2).log_softmax(-1)
        return log_potentials
    log_x = log_potentials.log_softmax(-2).log_softmax(-1)
    for start in range(1, num_iterations, _BLOCK):
        rows, columns = _Factors.apply(log_x.exp(), min(_BLOCK, num_iterations - start))
        log_x = log_x + rows.log() + columns.log()
    return log_x


def _factors(x: Tensor, turns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the factors of rows ``(..., N, 1)`` and of columns ``(..., 1, N)`` after every turn."""
    rows = torch.ones_like(x[..., :1])
    for _ in range(turns):
        columns = (rows.mT @ x).reciprocal()
        rows = (x @ columns.mT).reciprocal()
        yield rows, columns


class _Factors(Function):
    """The factors after the last turn. Their gradients in the matrix meet in one product, not turn by turn."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, turns: int) -> tuple[Tensor, Tensor]:
        *_, last = _factors(x, turns)
        return last

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        (x, ctx.turns) = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # the factors are found again, so that second derivatives pass through them
        turns = list(_factors(x, ctx.turns))
        before = [torch.ones_like(x[..., :1]), *(rows for rows, _ in turns)]
        left, right = [], []
        for (rows, columns), start in zip(turns[::-1], before[-2::-1], strict=True):
            of_sums = -of_rows * rows.square()  # rows = 1 / (x columns)
            of_columns = (of_columns + of_sums.mT @ x) * -columns.square()  # columns = 1 / (start x)
            left += [of_sums, start]
            right += [columns, of_columns]
            of_rows, of_columns = x @ of_columns.mT, torch.zeros_like(columns)
        return torch.cat(left, -1) @ torch.cat(right, -2), None


class _Scalable(Function):
    """The identity on what alternate scaling keeps free of NaN; a ValueError, also under ``vmap``, for the rest."""

    @staticmethod
    def forward(log_potentials: Tensor) -> Tensor:
        if bool((log_potentials.amax(-1) + log_potentials.amax(-2)).isfinite().all()):
            return log_potentials.clone()
        raise ValueError(_why_not_ever(log_potentials))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], log_potentials: Tensor) -> tuple[Tensor, int]:
        return _Scalable.apply(log_potentials.movedim(in_dims[0], 0)), 0


class _Balanced(Function):
    """The solution as a function of the potentials, differentiated as such and not through the iterations."""

    @staticmethod
    def forward(log_potentials: Tensor, tolerance: float) -> Tensor:
        return _solve(log_potentials, tolerance)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (log_x,) = ctx.saved_tensors
        return _pull_back(log_x, grad), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], log_potentials: Tensor, tolerance: float) -> tuple[Tensor, int]:
        return _Balanced.apply(log_potentials.movedim(in_dims[0], 0), tolerance), 0


def _solve(log_potentials: Tensor, tolerance: float) -> Tensor:
    """Return the log of the solution ``batch_shape + (N, N)``; a matrix leaves the loop once it is solved."""
    base = log_potentials.reshape(-1, *log_potentials.shape[-2:])
    for _ in range(_WARM_UP):
        base = base.log_softmax(-2).log_softmax(-1)
    if bool(base.isnan().any()):
        raise ValueError(_why_not(log_potentials, tolerance))
    solution, todo = torch.empty_like(base), torch.arange(len(base), device=base.device)
    search = _Search.start(base)
    for _ in range(_MOST_STEPS):
        x = search.log_x.exp()
        excess = x.sum(-2) - 1
        error = excess.abs().amax(-1)
        going = error > tolerance
        left = going.nonzero().squeeze(-1)  # the one synchronisation a step
        if len(left) < len(todo):
            solution = solution.index_copy(0, todo, search.log_x)  # what is not yet solved comes again later
            todo, x, excess, error, *parts = (part.index_select(0, left) for part in (todo, x, excess, error, *search))
            search = _Search(*parts)
        if not len(todo):
            return solution.reshape(log_potentials.shape)
        search = search.advance(_newton_step(x, excess, search.damping * error), excess)
    raise ValueError(_why_not(log_potentials, tolerance))


class _Search(NamedTuple):
    """The state of the minimisation of the convex dual in the column scalings, for ``B`` matrices.

    Attributes:
        base: the log of the matrices to scale, rows summing to 1, ``(B, N, N)``.
        largest: the column of each row's largest entry, ``(B, N, 1)``.
        g: the logs of the column scalings, ``(B, N)``.
        log_x: ``base`` with columns scaled by them and rows made to sum to 1 again.
        objective: the dual at ``g``, ``(B,)``.
        damping: the damping of the next Newton step, relative to the error, ``(B,)``.
    """

    base: Tensor
    largest: Tensor
    g: Tensor
    log_x: Tensor
    objective: Tensor
    damping: Tensor

    @classmethod
    def start(cls, base: Tensor) -> _Search:
        zero = torch.zeros_like(base[:, 0, 0])
        return cls(base, base.argmax(-1, keepdim=True), torch.zeros_like(base[:, 0]), base, zero, zero + _FIRST_DAMPING)

    def advance(self, step: Tensor, excess: Tensor) -> _Search:
        """Take the steps ``(B, N)`` that lower the dual enough, its gradient being ``excess``; damp the others more."""
        g = self.g + step
        scaled = self.base + g.unsqueeze(-2)
        log_x = scaled.log_softmax(-1)
        log_sums = (scaled.gather(-1, self.largest) - log_x.gather(-1, self.largest)).sum((-2, -1))
        objective = log_sums - g.sum(-1)
        rounding = 1e-12 * self.objective.abs() + 1e-14
        accept = objective <= self.objective + 1e-4 * (excess * step).sum(-1) + rounding
        return _Search(
            self.base,
            self.largest,
            torch.where(accept.unsqueeze(-1), g, self.g),
            torch.where(accept[:, None, None], log_x, self.log_x),
            torch.where(accept, objective, self.objective),
            torch.where(accept, self.damping / 4, self.damping * 8),
        )


def _newton_step(x: Tensor, excess: Tensor, damping: Tensor) -> Tensor:
    """Return the damped Newton step of the column scalings; the damping falls with the error."""
    factor, _ = torch.linalg.cholesky_ex(_column_hessian(x, damping.clamp_min(_RIDGE).unsqueeze(-1)))
    return -torch.cholesky_solve(excess.unsqueeze(-1), factor).squeeze(-1)


def _column_hessian(x: Tensor, ridge: Tensor | float) -> Tensor:
    """Return ``diag(X' 1) - X' X`` for ``x`` with unit row sums, made definite by ``ridge`` and a constant.

    The diagonal is a sum of the others and not a difference; the constant fills the kernel, equal shifts.
    """
    coupling = x.mT @ x
    coupling.diagonal(dim1=-2, dim2=-1).zero_()
    degree = coupling.sum(-1)
    hessian = 1 / x.shape[-1] - coupling
    hessian.diagonal(dim1=-2, dim2=-1).add_(degree + ridge)
    return hessian


def _pull_back(log_x: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient in the potentials from that in the log of the solution.

    The solution moves by ``dL + df + dg`` with unchanged sums; this is the transpose of the linear system for
    ``df`` and ``dg``.
    """
    x = log_x.exp()
    rows, columns = grad.sum(-1, keepdim=True), grad.sum(-2).unsqueeze(-1)
    factor, _ = torch.linalg.cholesky_ex(_column_hessian(x, _RIDGE))  # positive definite: nothing to check
    b = torch.cholesky_solve(columns - x.mT @ rows, factor)
    return grad - x * (rows - x @ b + b.mT)


def _why_not_ever(log_potentials: Tensor) -> str:
    bad = log_potentials.isnan() | (log_potentials == torch.inf)
    if bool(bad.any()):
        return f"log_potentials must not hold NaN or +inf, got {float(log_potentials[bad][0])}"
    return "log_potentials has a row or a column of -inf, which cannot be scaled to a sum of 1: allow more cells"


def _why_not(log_potentials: Tensor, tolerance: float) -> str:
    nothing = (log_potentials == -torch.inf).all(-1) | (log_potentials == -torch.inf).all(-2)
    bad = log_potentials.isnan() | (log_potentials == torch.inf)
    if bool(bad.any()) or bool(nothing.any()):
        return _why_not_ever(log_potentials)
    return (
        f"log_potentials cannot be scaled to column sums of 1 within tolerance={tolerance}: its finite entries must "
        "hold a permutation (see ops.assignment.has_perfect_matching); if they do, allow a larger tolerance"
    )
