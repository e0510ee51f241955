"""How varied and how recognisable samples are, by the probabilities that a classifier gives them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.utils.checks import positive_int

__all__ = ["InceptionScore", "inception_score"]


class InceptionScore(NamedTuple):
    """Scores of parts of a set of samples.

    Args:
        mean: the mean of the scores of the parts, shape ``()``.
        deviation: their standard deviation, 0 if there is one part.
    """

    mean: Tensor
    deviation: Tensor


def inception_score(probs: Tensor, splits: int = 10, seed: int = 0) -> InceptionScore:
    r"""Return the inception score of samples, as its mean and its deviation over random parts of them.

    .. math::  \exp \mathbb{E}_x \mathrm{KL}\big(p(y \mid x) \,\|\, p(y)\big), \qquad p(y) = \mathbb{E}_x\, p(y \mid x),

    is 1 if all samples look alike to the classifier, and K if it is sure of each of them and finds all K classes
    equally often. Samples are shuffled before they are divided: parts of samples in the order of their classes would
    hold one class each, and score 1. The published score has 50,000 samples, ten parts, and the Inception network;
    scores by other classifiers, or of fewer samples, are not comparable with it.

    Args:
        probs: the probabilities of K classes, ``(N, K)``; sums are taken in double precision, and the scores have the
            type of ``probs``, single precision for half types.
        splits: the number of parts.
        seed: the seed of the order.

    Raises:
        ValueError: if ``probs`` has another shape, rows are no probabilities that sum to 1, or there are fewer samples
            than parts.

    References:
        | Improved techniques for training GANs (Salimans et al., 2016), section 4, https://arxiv.org/abs/1606.03498
        | A note on the inception score (Barratt and Sharma, 2018), https://arxiv.org/abs/1801.01973

    Example:
        >>> sure = torch.eye(10).repeat_interleave(100, 0)
        >>> inception_score(sure, splits=1).mean, inception_score(torch.full((50, 4), 0.25)).mean
        (tensor(10.0000), tensor(1.))
    """
    positive_int("splits", splits)
    _check_probabilities("probs", probs)
    if len(probs) < splits:
        raise ValueError(f"splits must be at most the number of samples, {len(probs)}, got {splits}")
    order = torch.randperm(len(probs), generator=torch.Generator().manual_seed(seed), device="cpu")
    shuffled = _wide(probs)[order.to(probs.device)]
    scores = torch.stack([_score(part) for part in shuffled.tensor_split(splits)])
    dtype = torch.promote_types(probs.dtype, torch.float32)
    return InceptionScore(scores.mean().to(dtype), scores.std(correction=0).to(dtype))


def _check_probabilities(name: str, probs: Tensor) -> None:
    """Raise a ValueError unless a tensor holds rows of probabilities that sum to 1, up to rounding."""
    if not isinstance(probs, Tensor) or probs.dim() != 2 or not probs.numel() or not probs.is_floating_point():
        shape = f"shape {tuple(probs.shape)} of {probs.dtype}" if isinstance(probs, Tensor) else type(probs).__name__
        raise ValueError(f"{name} must be probabilities of shape (N, K), N and K at least 1, got {shape}")
    sums, least = _wide(probs).sum(-1), probs.min()
    worst = sums.gather(0, (sums - 1).abs().argmax()[None]).squeeze(0)
    tolerance = 4 * probs.shape[1] * torch.finfo(probs.dtype).eps + 1e-4
    total, smallest = torch.stack([worst, least.to(worst.dtype)]).tolist()  # the host waits once
    if not abs(total - 1) <= tolerance or smallest < 0:
        found = f"sums to {total:g}" if smallest >= 0 or total != total else f"has a negative entry, {smallest:g}"
        raise ValueError(
            f"{name} must hold probabilities that sum to 1 in each row, got a row that {found}; use .softmax(-1) if "
            "they are logits"
        )


def _score(probs: Tensor) -> Tensor:
    marginal = probs.mean(0)
    # xlogy: a probability of zero adds nothing, where p * log p would not be a number
    return (torch.xlogy(probs, probs) - torch.xlogy(probs, marginal)).sum(-1).mean().exp()


def _wide(x: Tensor) -> Tensor:
    return x if x.device.type == "mps" else x.double()
