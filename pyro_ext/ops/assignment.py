"""Linear assignment: the best permutation for a matrix of scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from pyro_ext.ops._shapes import check_square

__all__ = [
    "best_permutation",
    "has_perfect_matching",
    "linear_assignment",
    "permutation_matrix",
    "total_support",
]


def linear_assignment(scores: Tensor) -> Tensor:
    r"""Return the permutation :math:`\pi` with the largest :math:`\sum_i S_{i, \pi_i}`.

    SciPy solves it on the CPU. For CUDA tensors the optional package ``torch-linear-assignment`` (the extra ``cuda``)
    keeps the work on the device; without it the scores travel to the CPU and the answer back. Ties are broken
    deterministically; equal scores give the identity.

    Args:
        scores: the score of each column for each row, ``batch_shape + (N, N)``, any floating type; -inf for pairs that
            are not allowed.

    Returns:
        The column of every row, int64 ``batch_shape + (N,)``, on the device of ``scores``.

    Raises:
        ValueError: if the matrices are not square, hold NaN or +inf, or -inf leaves no permutation.

    References:
        | On implementing 2D rectangular assignment algorithms (Crouse, 2016)
        | https://doi.org/10.1109/TAES.2016.140952

    >>> linear_assignment(torch.tensor([[0.0, 1.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 0.5]]))
    tensor([1, 0, 2])
    """
    check_square("scores", scores)
    index: Tensor = _Assignment.apply(scores.detach())
    return index


def permutation_matrix(index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the matrices ``batch_shape + (N, N)`` with a one in column ``index[..., i]`` of row ``i``.

    >>> permutation_matrix(torch.tensor([1, 0]))
    tensor([[0., 1.], [1., 0.]])
    """
    matrix = torch.zeros(*index.shape, index.shape[-1], dtype=dtype or torch.get_default_dtype(), device=index.device)
    return matrix.scatter(-1, index.unsqueeze(-1), 1)


def best_permutation(scores: Tensor) -> Tensor:
    """Return the permutation matrix nearest to ``scores``, in its type and without gradient.

    It maximises the sum of the scores it covers, which is the Euclidean projection onto the permutation matrices.
    Arguments and errors are those of :func:`linear_assignment`.

    >>> best_permutation(torch.tensor([[0.6, 0.5], [0.9, 0.4]]))
    tensor([[0., 1.], [1., 0.]])
    """
    return permutation_matrix(linear_assignment(scores), scores.dtype)


def has_perfect_matching(mask: Tensor) -> Tensor:
    """Return whether the true cells of each matrix hold a permutation.

    Args:
        mask: which cells are allowed, bool ``batch_shape + (N, N)``.

    Returns:
        bool ``batch_shape``, on the device of ``mask``.

    >>> has_perfect_matching(torch.tensor([[[True, True], [False, True]], [[True, True], [False, False]]]))
    tensor([ True, False])
    """
    check_square("mask", mask)
    flat = mask.detach().cpu().numpy().reshape(-1, *mask.shape[-2:])
    has_matching = [bool((_matching(cells) >= 0).all()) for cells in flat]
    return torch.tensor(has_matching, dtype=torch.bool, device=mask.device).reshape(mask.shape[:-2])


def total_support(mask: Tensor) -> Tensor:
    """Return the cells that some permutation within ``mask`` uses; all others are zero in any balanced matrix.

    A cell belongs to one if and only if it closes a cycle with the cells of some matching, that is if its row and the
    row matched to its column lie in one strongly connected component.

    Args:
        mask: which cells are allowed, bool ``batch_shape + (N, N)``.

    Returns:
        bool ``batch_shape + (N, N)``, on the device of ``mask``.

    Raises:
        ValueError: if a matrix of ``mask`` holds no permutation.

    >>> total_support(torch.tensor([[True, True], [False, True]]))
    tensor([[ True, False], [False,  True]])
    """
    if not bool(has_perfect_matching(mask).all()):
        raise ValueError("mask holds no permutation: allow more cells")
    flat = mask.detach().cpu().numpy().reshape(-1, *mask.shape[-2:])
    kept = np.stack([_cells_on_cycles(cells) for cells in flat]) if len(flat) else flat
    return torch.from_numpy(kept).to(mask.device).reshape(mask.shape)


class _Assignment(Function):
    """The solution as a function that ``torch.func.vmap`` hands whole batches."""

    @staticmethod
    def forward(scores: Tensor) -> Tensor:
        flat = scores.reshape(-1, *scores.shape[-2:])
        on_device = _device_solver() if scores.is_cuda else None
        index = _by_scipy(flat) if on_device is None else _on_device(flat, on_device)
        return index.reshape(scores.shape[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], scores: Tensor) -> tuple[Tensor, int]:
        return _Assignment.apply(scores.movedim(in_dims[0], 0)), 0


def _by_scipy(flat: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    rows = flat.double().cpu().numpy()  # bfloat16 has no NumPy type
    index = np.empty(rows.shape[:-1], dtype=np.int64)
    for i, row in enumerate(rows):
        try:
            index[i] = linear_sum_assignment(row, maximize=True)[1]
        except ValueError as error:
            raise ValueError(_why_not(row)) from error
    return torch.from_numpy(index).to(flat.device)


def _on_device(flat: Tensor, solver: Callable[[Tensor], Tensor]) -> Tensor:
    """Solve on the device of the scores; a forbidden cell costs more than any permutation of allowed cells."""
    invalid = (flat.isnan() | (flat == math.inf)).any(-1).any(-1)
    if bool(invalid.any()):
        raise ValueError(_why_not(flat[invalid][0].double().cpu().numpy()))
    forbidden = flat == -math.inf
    allowed = flat.double().masked_fill(forbidden, 0)
    worst = flat.shape[-1] * (allowed.amax((-2, -1), keepdim=True) - allowed.amin((-2, -1), keepdim=True)) + 1
    index = solver((allowed.amax((-2, -1), keepdim=True) - allowed).where(~forbidden, worst)).long()
    failed = flat.gather(-1, index.clamp_min(0).unsqueeze(-1)).squeeze(-1) == -math.inf
    if bool(failed.any()):
        raise ValueError(_why_not(flat[failed.any(-1)][0].double().cpu().numpy()))
    return index


@lru_cache(maxsize=1)
def _device_solver() -> Callable[[Tensor], Tensor] | None:
    try:
        from torch_linear_assignment import batch_linear_assignment  # type: ignore[import-not-found]
    except ImportError:
        return None
    return batch_linear_assignment


def _why_not(scores: np.ndarray) -> str:
    bad = np.isnan(scores) | (scores == np.inf)
    if bad.any():
        return f"scores must not hold NaN or +inf, got {scores[bad][0]}"
    return "scores leave no permutation: too many of its cells are -inf, allow more"


def _matching(cells: np.ndarray) -> np.ndarray:
    """Return the column matched to every row, -1 for none."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    matched: np.ndarray = maximum_bipartite_matching(csr_matrix(cells), perm_type="column")
    return matched


def _cells_on_cycles(cells: np.ndarray) -> np.ndarray:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    matched = _matching(cells)
    between_rows = cells[:, matched]  # row i may take the column of row k
    label = connected_components(csr_matrix(between_rows), connection="strong")[1]
    same = np.empty_like(cells)
    same[:, matched] = label[:, None] == label[None, :]
    return cells & same
