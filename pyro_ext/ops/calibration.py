"""How well predicted probabilities agree with how often predictions are right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.utils.checks import positive_int

__all__ = ["CalibrationBins", "calibration_bins", "expected_calibration_error"]


class CalibrationBins(NamedTuple):
    """Predictions grouped by their confidence, into M bins of equal width.

    Args:
        confidence: the mean probability of the predicted class in each bin, ``(M,)``; 0 where a bin is empty.
        accuracy: the share of right predictions in each bin, ``(M,)``; 0 where a bin is empty.
        share: the share of all predictions that fall into each bin, ``(M,)``.
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


def calibration_bins(probs: Tensor, labels: Tensor, num_bins: int = 15) -> CalibrationBins:
    """Group predictions by the probability of the predicted class.

    Args:
        probs: the probabilities of C classes, ``(N, C)``; half types are added up in single precision.
        labels: the true classes, int64 ``(N,)``, from 0 to C - 1.
        num_bins: the number M of bins.

    Raises:
        ValueError: if shapes do not fit, there are no predictions, ``probs`` are no probabilities, a label is none of
            the C classes, or ``num_bins`` is not a positive integer.

    Example:
        >>> bins = calibration_bins(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 1]), num_bins=2)
        >>> bins.confidence, bins.accuracy, bins.share
        (tensor([0.0000, 0.8000]), tensor([0.0000, 0.5000]), tensor([0., 1.]))
    """
    positive_int("num_bins", num_bins)
    if probs.dim() != 2 or labels.shape != probs.shape[:1] or len(probs) == 0:
        raise ValueError(
            f"probs must have shape (N, C) and labels (N,) with N at least 1, got {tuple(probs.shape)} and "
            f"{tuple(labels.shape)}"
        )
    outside = ((probs < 0) | (probs > 1.01)).any()  # of half types 1 is rough
    unknown = ((labels < 0) | (labels >= probs.shape[1])).any()
    no_probability, no_class = torch.stack([outside, unknown]).tolist()  # the host waits once
    if no_probability or not probs.is_floating_point():
        raise ValueError("probs must be probabilities, from 0 to 1; use .softmax(-1) if they are logits")
    if no_class:
        raise ValueError(
            f"labels must be classes from 0 to {probs.shape[1] - 1}, got {labels.min():g} to {labels.max():g}; leave "
            "out predictions whose label is unknown"
        )
    confidence, predicted = probs.to(torch.promote_types(probs.dtype, torch.float32)).max(-1)
    # A bin includes its upper end, as in the publication.
    bins = ((confidence * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)
    zeros, none = confidence.new_zeros(num_bins), bins.new_zeros(num_bins)
    number = none.index_add(0, bins, torch.ones_like(bins)).to(confidence)  # sums of floating-point ones stop growing
    right = none.index_add(0, bins, (predicted == labels).to(bins)).to(confidence)
    known = number.clamp(min=1)
    return CalibrationBins(zeros.index_add(0, bins, confidence) / known, right / known, number / len(probs))


def expected_calibration_error(probs: Tensor, labels: Tensor, num_bins: int = 15) -> Tensor:
    r"""Return the mean distance between confidence and accuracy, a scalar.

    .. math::  \mathrm{ECE} = \sum_m \frac{|B_m|}{N} \left| \mathrm{acc}(B_m) - \mathrm{conf}(B_m) \right|

    Args:
        probs: the probabilities of C classes, ``(N, C)``.
        labels: the true classes, int64 ``(N,)``.
        num_bins: the number of bins of equal width.

    Raises:
        ValueError: as :func:`calibration_bins`.

    References:
        | On calibration of modern neural networks (Guo et al., 2017)
        | https://arxiv.org/abs/1706.04599, equation 3

    Example:
        >>> expected_calibration_error(torch.tensor([[0.9, 0.1], [0.7, 0.3]]), torch.tensor([0, 1]), num_bins=2)
        tensor(0.3000)
    """
    bins = calibration_bins(probs, labels, num_bins)
    return (bins.share * (bins.accuracy - bins.confidence).abs()).sum()
