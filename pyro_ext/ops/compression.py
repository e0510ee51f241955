"""How many bits weights need, and what is left of them when they are rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.utils.checks import positive_int

__all__ = ["MAX_SIGNIFICAND_BITS", "code_entropy", "exponent_bits", "round_to_bits", "significand_bits"]

MAX_SIGNIFICAND_BITS = 23
"""Bits of the significand of a number in single precision."""


def significand_bits(variance: Tensor, kept: Tensor | None = None) -> Tensor:
    r"""Return how many bits the significands of a layer's weights need, given how uncertain the weights are.

    A significand of t bits rounds by a unit of :math:`2^{-t}`. A weight of posterior variance V gets as many bits as
    there are units from :math:`2^{-1}` to :math:`2^{-23}` above 2 V,

    .. math::  t(V) = \mathrm{clip}(\lceil -\log_2 (2 V) \rceil - 1,\; 0,\; 23),

    and the layer gets the mean over its weights, rounded up. As published, the *variance* is compared with the unit,
    though the standard deviation is what has the unit of a weight. Only weights that are kept and have a positive
    variance count: zeros within a pruned layer have none, and would count with all 23 bits.

    Args:
        variance: the posterior variance of each weight, any shape.
        kept: which of them are kept, of the same shape; all of them if None.

    Returns:
        An int64 scalar; 23 where no weight that counts is left.

    Raises:
        ValueError: if ``kept`` has another shape.

    References:
        | Bayesian compression for deep learning (Louizos et al., 2017), section 3.2 and the authors' programs
        | https://arxiv.org/abs/1705.08665

    Example:
        >>> [significand_bits(torch.tensor([v])).item() for v in (1e-1, 1e-2, 1e-4, 1e-6, 1e-8)]
        [2, 5, 12, 18, 23]
    """
    if kept is not None and kept.shape != variance.shape:
        raise ValueError(f"kept must have the shape {tuple(variance.shape)} of variance, got {tuple(kept.shape)}")
    counts = variance > 0 if kept is None else (variance > 0) & kept
    safe = torch.where(counts, variance, 1.0).double()
    bits = (torch.ceil(-torch.log2(2 * safe)) - 1).clamp(0, MAX_SIGNIFICAND_BITS)
    number = counts.sum()
    mean = (bits * counts).sum() / number.clamp(min=1)
    return torch.where(number > 0, torch.ceil(mean), MAX_SIGNIFICAND_BITS).long()


def exponent_bits(weight: Tensor) -> Tensor:
    r"""Return how many bits the exponents of weights need.

    .. math::  e = \left\lceil \log_2\big(|\log_2 \max |w|\,| + 1\big) + 1 \right\rceil,

    a sign and the magnitude of the largest exponent. Where the largest weight is at least 1 this is the published
    number, which takes the outer logarithm of :math:`\log_2 \max|w| + 1` and so has no value for weights up to 0.5.

    Args:
        weight: weights, any shape; zeros do not matter.

    Returns:
        An int64 scalar; 0 where all weights are zero.

    References:
        | Bayesian compression for deep learning (Louizos et al., 2017), the authors' programs
        | https://arxiv.org/abs/1705.08665

    Example:
        >>> [exponent_bits(torch.tensor([largest, 0.0])).item() for largest in (0.0, 0.25, 0.5, 1.0, 2.0, 8.0)]
        [0, 3, 2, 1, 2, 3]
    """
    largest = weight.abs().amax().double() if weight.numel() else weight.new_zeros((), dtype=torch.float64)
    magnitude = torch.where(largest > 0, largest, 1.0).log2().abs()
    return torch.where(largest > 0, torch.ceil((magnitude + 1).log2() + 1), 0.0).long()


def round_to_bits(x: Tensor, bits: int) -> Tensor:
    r"""Round to multiples of :math:`2^{-\mathrm{bits}}`: fixed-point numbers with so many binary places.

    The error is at most half a unit, :math:`2^{-\mathrm{bits} - 1}`.

    Args:
        x: any shape.
        bits: the number of binary places, from 0 to 23.

    Raises:
        ValueError: if ``bits`` is out of range.

    Example:
        >>> round_to_bits(torch.tensor([0.3, -0.8, 1.9]), bits=2)
        tensor([ 0.2500, -0.7500,  2.0000])
    """
    unit = 2.0 ** positive_int("bits", bits, minimum=0, maximum=MAX_SIGNIFICAND_BITS)
    return torch.round(x * unit) / unit


def code_entropy(x: Tensor) -> Tensor:
    r"""Return the entropy of the values in x in bits, :math:`-\sum_v p_v \log_2 p_v` with their frequencies.

    No code of single values, Huffman's included, needs fewer bits per value.

    Args:
        x: any shape.

    Returns:
        A scalar; 0 where x is empty.

    Example:
        >>> code_entropy(torch.tensor([0.0, 0.0, 1.0, 0.5]))
        tensor(1.5000, dtype=torch.float64)
    """
    counts = torch.unique(x, return_counts=True)[1].double()
    p = counts / counts.sum()
    return -(p * p.log2()).sum()
