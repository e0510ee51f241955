"""Checks of arguments, shared by the whole package: each returns the value, or says which argument is wrong and why."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # commands that only print help read this module, and PyTorch takes seconds to import
    from torch import Tensor

__all__ = [
    "check_positive_tensor",
    "finite_number",
    "nonnegative_number",
    "number_between",
    "one_of",
    "optional_positive_int",
    "positive_int",
    "positive_number",
    "probability",
]

T = TypeVar("T")


def positive_int(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Return ``value`` if it is an integer from ``minimum`` to ``maximum``.

    Args:
        name: what the argument is called.
        value: what was given.
        minimum: the least integer allowed.
        maximum: the largest one; there is none if None.

    Raises:
        ValueError: if it is anything else; True and False are no integers here.

    Example:
        >>> positive_int("num_samples", 4)
        4
        >>> positive_int("num_samples", 0)
        Traceback (most recent call last):
            ...
        ValueError: num_samples must be an integer of at least 1, got 0
    """
    wrong = isinstance(value, bool) or not isinstance(value, numbers.Integral)
    if wrong or value < minimum or (maximum is not None and value > maximum):
        allowed = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{name} must be an integer {allowed}, got {value!r}")
    return int(value)


def optional_positive_int(name: str, value: Any) -> int | None:
    """Return ``value`` if it is None or an integer of at least 1; raise a ValueError naming it otherwise."""
    return None if value is None else positive_int(name, value)


def positive_number(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a positive, finite number.

    Raises:
        ValueError: if it is anything else.

    Example:
        >>> positive_number("noise", -1)
        Traceback (most recent call last):
            ...
        ValueError: noise must be a positive, finite number, got -1
    """
    if not _is_number(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
    return float(value)


def nonnegative_number(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number of at least 0; raise a ValueError naming it otherwise."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def finite_number(name: str, value: Any) -> float:
    """Return ``value`` as a float if it is a finite number of any sign; raise a ValueError naming it otherwise."""
    if not _is_number(value) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def number_between(name: str, value: Any, low: float, high: float, ends: str = "[]") -> float:
    """Return ``value`` as a float if it lies in an interval.

    Args:
        name: what the argument is called.
        value: what was given.
        low: the lower end.
        high: the upper end.
        ends: a bracket for each end: ``[`` and ``]`` where the end belongs to the interval, ``(`` and ``)`` where not.

    Raises:
        ValueError: if it is no number, or lies outside.

    Example:
        >>> number_between("binarize", 16, 0, 16, "[)")
        Traceback (most recent call last):
            ...
        ValueError: binarize must be a number in [0, 16), got 16
    """
    inside = _is_number(value) and low <= value <= high
    inside = inside and not (value == low and ends[0] == "(") and not (value == high and ends[1] == ")")
    if not inside:
        raise ValueError(f"{name} must be a number in {ends[0]}{low:g}, {high:g}{ends[1]}, got {value!r}")
    return float(value)


def probability(name: str, value: Any) -> float:
    """Return ``value`` as a float if it lies in [0, 1]; raise a ValueError naming it otherwise."""
    return number_between(name, value, 0, 1)


def one_of(name: str, value: T, allowed: Iterable[Any]) -> T:
    """Return ``value`` if it is one of those allowed.

    Raises:
        ValueError: if it is not; the message lists them.

    Example:
        >>> one_of("prior", "flat", ("path", "factorised"))
        Traceback (most recent call last):
            ...
        ValueError: prior must be one of path, factorised; got 'flat'
    """
    known = [*allowed]
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}; got {value!r}")
    return value


def check_positive_tensor(name: str, value: Tensor) -> None:
    """Raise a ValueError naming the argument and an entry that is not positive and finite, if there is one.

    Args:
        name: what the argument is called.
        value: a tensor of any shape.
    """
    detached = value.detach()
    wrong = ~(detached > 0) | detached.isinf()
    if bool(wrong.any()):
        raise ValueError(f"{name} must be positive and finite, got {detached[wrong][0]:g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
