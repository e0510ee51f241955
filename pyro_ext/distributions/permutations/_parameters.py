"""Parameters of distributions of matrices: their checks at construction, their broadcasting, their shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_ext.ops.assignment import has_perfect_matching
from pyro_ext.utils.checks import positive_int, positive_number
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = [
    "as_parameter",
    "broadcast_matrices",
    "broadcast_temperature",
    "check_matrix",
    "check_potentials",
    "check_scaling",
    "check_values",
    "matrix_shapes",
]


def check_matrix(name: str, value: Tensor, least: int = 1) -> None:
    """Raise a ValueError unless ``value`` is a floating ``batch_shape + (N, N)`` with N of at least ``least``."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"{name} must be a floating point tensor, got {value!r}")
    if value.dim() < 2 or value.shape[-1] != value.shape[-2] or value.shape[-1] < least:
        raise ValueError(
            f"{name} must have shape batch_shape + (N, N) with N at least {least}, got {tuple(value.shape)}: "
            "give square matrices in the last two dims"
        )


def as_parameter(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """Return a number as a tensor of the type and device of ``like``, a floating point tensor as it is.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.to(like)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number or a tensor, got {value!r}")
    return like.new_tensor(float(value))


def check_values(name: str, value: Tensor, minus_inf: bool = False) -> None:
    """Raise a ValueError where ``value`` holds NaN or inf; -inf too, unless ``minus_inf``."""
    wrong = value.isnan() | (value == torch.inf) | ((value == -torch.inf) & (not minus_inf))
    if bool(wrong.any()):
        kind = "neither NaN nor +inf" if minus_inf else "finite"
        raise ValueError(f"{name} must be {kind}, got {float(value.detach()[wrong][0])}")


def check_scaling(num_iterations: int | None, tolerance: float) -> None:
    """Raise a ValueError unless Sinkhorn scaling can stop after ``num_iterations``, or at ``tolerance`` if None."""
    if num_iterations is None:
        positive_number("tolerance", tolerance)
    else:
        positive_int("num_iterations", num_iterations)


def check_potentials(log_potentials: Tensor) -> None:
    """Raise a ValueError where log-potentials hold NaN or +inf, or their finite cells no permutation."""
    check_values("log_potentials", log_potentials, minus_inf=True)
    usable = log_potentials > -torch.inf
    if not bool(usable.all()) and not bool(has_perfect_matching(usable).all()):
        raise ValueError("log_potentials leaves no permutation: too many of its cells are -inf, allow more")


def broadcast_temperature(name: str, matrix: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Return matrices ``batch_shape + (N, N)`` and temperatures ``batch_shape``, both expanded.

    Raises:
        ValueError: if the shapes do not broadcast.
    """
    try:
        batch_shape = broadcast_shapes(matrix.shape[:-2], temperature.shape)
    except RuntimeError as error:
        raise ValueError(
            f"temperature has shape {tuple(temperature.shape)}, which does not fit {name} {tuple(matrix.shape)}: "
            "give it the batch shape, that without the last two dims"
        ) from error
    return matrix.expand(batch_shape + matrix.shape[-2:]), temperature.expand(batch_shape)


def broadcast_matrices(loc: Tensor, scale: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return matrices ``batch_shape + (M, M)`` and temperatures ``batch_shape``, all expanded.

    Raises:
        ValueError: if the shapes do not broadcast, or would change the size of the matrices.
    """
    try:
        shape = broadcast_shapes(loc.shape, scale.shape, (*temperature.shape, 1, 1))
    except RuntimeError as error:
        raise ValueError(_misfit(loc, scale, temperature)) from error
    if shape[-2:] != loc.shape[-2:]:
        raise ValueError(_misfit(loc, scale, temperature))
    return loc.expand(shape), scale.expand(shape), temperature.expand(shape[:-2])


def _misfit(loc: Tensor, scale: Tensor, temperature: Tensor) -> str:
    return (
        f"loc {tuple(loc.shape)}, scale {tuple(scale.shape)} and temperature {tuple(temperature.shape)} do not fit: "
        "give scale the shape of loc or one that broadcasts to it, and temperature the batch shape, loc's without "
        "its last two dims"
    )


def _batch_of(shape: Sequence[int], event_dim: int) -> torch.Size:
    """Return ``shape`` without its last ``event_dim`` dims."""
    return torch.Size(shape[: max(len(shape) - event_dim, 0)])


def matrix_shapes(
    matrix: Sequence[int], others: Sequence[Sequence[int]] = (), temperature: Sequence[int] = (), grow: int = 0
) -> tuple[torch.Size, torch.Size]:
    """Return the batch and event shape of a distribution with parameters of these shapes.

    Args:
        matrix: the shape of the parameter that sets the size, ``batch_shape + (M, M)``.
        others: shapes of further parameters, which broadcast to that of the matrix.
        temperature: the shape of the temperature, ``batch_shape`` or one that broadcasts to it.
        grow: the size of an event less that of the parameter.
    """
    batches = [_batch_of(shape, 2) for shape in (matrix, *others)]
    return broadcast_shapes(*batches, tuple(temperature)), torch.Size(size + grow for size in matrix[-2:])
