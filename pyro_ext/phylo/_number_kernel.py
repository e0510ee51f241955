"""Decimal numbers in a text as the nearest float64, by a compiled kernel; the few that it cannot decide are marked.

References:
    | Number parsing at a gigabyte per second (Lemire, 2021), section 4, on the algorithm of Eisel and Lemire
    | https://arxiv.org/abs/2101.11408
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pyro_ext.ops.kernels import compiled, in_threads

__all__ = ["read_numbers"]

_LOWEST, _HIGHEST = -342, 308  # powers of ten between which products with 19 digits are floats


def read_numbers(body: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers written at slices of a text, and where they are not decided.

    Args:
        body: the text, uint8.
        starts: the position of the first byte of each number, int64.
        stops: the position after the last byte of each, int64.

    Returns:
        The numbers, and 1 where the kernel cannot tell the nearest float or the text is no plain decimal number, uint8.

    Example:
        >>> text = np.frombuffer(b"0.1,-2.5e-3, 7 ,1x", np.uint8)
        >>> values, undecided = read_numbers(text, np.array([0, 4, 12, 16]), np.array([3, 11, 15, 18]))
        >>> values[:3].tolist(), undecided.tolist()
        ([0.1, -0.0025, 7.0], [0, 0, 0, 1])
    """
    values, undecided = np.empty(len(starts)), np.empty(len(starts), np.uint8)
    high, low = _powers_of_five()

    def part(start: int, stop: int) -> None:
        _read(body, starts, stops, high, low, values.view(np.uint64), undecided, start, stop)

    in_threads(part, len(starts), smallest=1 << 14)
    return values, undecided


@cache
def _powers_of_five() -> tuple[np.ndarray, np.ndarray]:
    """Return the 128 leading bits of each power of five, in two halves; rounded down, and up for negative powers."""
    rows = []
    for power in range(_LOWEST, _HIGHEST + 1):
        if power >= 0:
            number = 5**power
            shift = number.bit_length() - 128
            rows.append(number >> shift if shift > 0 else number << -shift)
        else:
            divisor = 5**-power
            bits = divisor.bit_length() + 127
            rows.append((1 << bits) // divisor + 1)
    assert all(row >> 127 == 1 for row in rows)
    return tuple(np.array([(row >> by) & (2**64 - 1) for row in rows], np.uint64) for by in (64, 0))  # type: ignore[return-value]


@compiled
def _read(
    body: Any, starts: Any, stops: Any, high: Any, low: Any, bits: Any, undecided: Any, start: Any, stop: Any
) -> None:
    one, ten = np.uint64(1), np.uint64(10)
    for k in range(start, stop):
        at, end = starts[k], stops[k]
        bits[k], undecided[k] = np.uint64(0), 1
        while at < end and body[at] == 32:
            at += 1
        while end > at and body[end - 1] == 32:
            end -= 1
        negative = at < end and body[at] == 45
        if at < end and (body[at] == 45 or body[at] == 43):
            at += 1
        digits, exponent, number = np.uint64(0), 0, 0
        some, point, cut = False, False, False
        while at < end:
            code = body[at]
            if code == 46:
                if point:
                    break
                point = True
            elif 48 <= code <= 57:
                some = True
                if number < 19:
                    digits = digits * ten + np.uint64(code - 48)
                    if digits > 0:
                        number += 1
                    if point:
                        exponent -= 1
                else:
                    cut = cut or code != 48
                    if not point:
                        exponent += 1
            else:
                break
            at += 1
        if not some:
            continue
        if at < end and (body[at] == 101 or body[at] == 69):
            at += 1
            minus = at < end and body[at] == 45
            if at < end and (body[at] == 45 or body[at] == 43):
                at += 1
            if at == end:
                continue
            scale = 0
            while at < end and 48 <= body[at] <= 57 and scale < 10000:
                scale = scale * 10 + body[at] - 48
                at += 1
            exponent += -scale if minus else scale
        if at != end:
            continue
        sign = np.uint64(negative) << np.uint64(63)
        if digits == 0:
            bits[k], undecided[k] = sign, 0
            continue
        if exponent < -342 or exponent > 308:
            continue
        result = _nearest(digits, exponent, high, low)
        if result == 0:
            continue
        if cut and _nearest(digits + one, exponent, high, low) != result:
            continue  # the digits beyond the first 19 decide
        bits[k], undecided[k] = result | sign, 0


@compiled
def _nearest(digits: Any, exponent: Any, high: Any, low: Any) -> Any:
    """Return the bits of the float nearest to digits times a power of ten; 0 where that is not decided here."""
    one, zero = np.uint64(1), np.uint64(0)
    leading = 0
    word = digits
    while word >> np.uint64(63) == zero:
        word <<= one
        leading += 1
    upper, lower = _product(word, high[exponent + 342])
    if upper & np.uint64(0x1FF) == np.uint64(0x1FF):
        more, _ = _product(word, low[exponent + 342])
        lower += more
        if lower < more:
            upper += one
        if lower == np.uint64(0xFFFFFFFFFFFFFFFF) and not -27 <= exponent <= 55:
            return zero
    top = upper >> np.uint64(63)
    shift = top + np.uint64(9)
    mantissa = upper >> shift
    power = ((217706 * exponent) >> 16) + 63 + np.int64(top) - leading + 1023
    if power <= 0 or power >= 2046:
        return zero  # too small for a normal number, or too large
    if lower <= one and -4 <= exponent <= 23 and mantissa & np.uint64(3) == one and (mantissa << shift) == upper:
        mantissa &= ~one  # just between two floats: the even one
    mantissa += mantissa & one
    mantissa >>= one
    if mantissa >> np.uint64(53) != zero:
        mantissa = one << np.uint64(52)
        power += 1
    return (mantissa & ~(one << np.uint64(52))) | (np.uint64(power) << np.uint64(52))


@compiled
def _product(a: Any, b: Any) -> Any:
    """Return the upper and the lower half of a product of 64 by 64 bits."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    a1, a0, b1, b0 = a >> half, a & mask, b >> half, b & mask
    low, middle, cross = a0 * b0, a1 * b0, a0 * b1
    carry = (low >> half) + (middle & mask) + (cross & mask)
    return a1 * b1 + (middle >> half) + (cross >> half) + (carry >> half), (carry << half) | (low & mask)
