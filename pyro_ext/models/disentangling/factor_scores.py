"""Scores of codes against known factors: DCI and the mutual information gap."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_ext.utils.checks import positive_int

__all__ = ["DCI", "dci", "mutual_information_gap"]


class DCI(NamedTuple):
    """What :func:`dci` returns.

    Args:
        disentanglement: how far each feature is about one factor only, from 0 to 1.
        completeness: how far each factor is in one feature only, from 0 to 1, ``(K,)``.
        informativeness: the share of held-out rows whose factor is predicted, ``(K,)``.
        importance: the importance of each feature (row) for each factor (column); columns sum to 1, ``(D, K)``.

    Example:
        >>> DCI(1.0, torch.ones(2), torch.ones(2), torch.eye(2)).disentanglement
        1.0
    """

    disentanglement: float
    completeness: Tensor
    informativeness: Tensor
    importance: Tensor


def dci(codes: Tensor, factors: Tensor, held_out: float = 0.25, num_trees: int = 20, seed: int = 0) -> DCI:
    r"""Return disentanglement, completeness and informativeness of codes.

    For each factor j a random forest predicts its value from the code. The importance of feature i in this forest is
    :math:`R_{ij}`, and with :math:`P_{ij} = R_{ij} / \sum_j R_{ij}`, :math:`\tilde P_{ij} = R_{ij} / \sum_i R_{ij}`,

    .. math::

        D = \sum_i \rho_i \Bigl(1 + \sum_j P_{ij} \log_K P_{ij}\Bigr), \quad
        C_j = 1 + \sum_i \tilde P_{ij} \log_D \tilde P_{ij}, \quad
        \rho_i \propto \sum_j R_{ij}.

    Trees see all features at each split: with random subsets of them even a perfect code would have some importance in
    the wrong places. A single factor has no disentanglement, and a single feature no completeness; they are nan.

    Args:
        codes: D features of N images, ``(N, D)``.
        factors: the values of K factors, int64 ``(N, K)``; each is predicted as a class.
        held_out: the share of the rows, chosen at random, on which informativeness is measured.
        num_trees: the number of trees of each forest.
        seed: the seed of the forests and of the choice of rows.

    Raises:
        ValueError: if the shapes do not fit, a factor is constant, or a number is out of range.
        ImportError: if scikit-learn is not installed.

    References:
        | A framework for the quantitative evaluation of disentangled representations (Eastwood and Williams, 2018)
        | https://openreview.net/forum?id=By-7dz-AZ

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(5)).repeat(20, 1)
        >>> scores = dci(factors.flip(1).float(), factors)
        >>> scores.disentanglement, scores.completeness, scores.importance
        (1.0, tensor([1., 1.]), tensor([[0., 1.],
                [1., 0.]]))
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise ImportError("dci needs scikit-learn: pip install 'pyro-ext[data]'") from error
    _check(codes, factors)
    positive_int("num_trees", num_trees)
    cut = round(len(codes) * (1 - held_out))
    if not 0 < cut < len(codes):
        raise ValueError(f"held_out must leave rows on both sides of the cut, got {held_out!r} of {len(codes)} rows")
    order = np.random.default_rng(seed).permutation(len(codes))
    x, y = codes.detach().cpu().numpy()[order], factors.cpu().numpy()[order]
    importances, shares = [], []
    for values in y.T:
        forest = RandomForestClassifier(num_trees, max_features=None, min_samples_leaf=2, random_state=seed)
        forest.fit(x[:cut], values[:cut])
        importances.append(torch.from_numpy(forest.feature_importances_))
        shares.append(float(forest.score(x[cut:], values[cut:])))
    importance = torch.stack(importances, 1)
    about = importance.sum(1)
    disentanglement = _sharpness(importance, 1) @ about / about.sum()
    dtype = torch.get_default_dtype()
    return DCI(float(disentanglement), _sharpness(importance, 0).to(dtype), torch.tensor(shares), importance.to(dtype))


def mutual_information_gap(codes: Tensor, factors: Tensor, bins: int = 20) -> Tensor:
    r"""Return how much more the best feature says about each factor than the second best, as a share of its entropy.

    .. math::  \mathrm{MIG}_j = \frac{I(c_{(1)}; v_j) - I(c_{(2)}; v_j)}{H(v_j)}.

    The score of a code is the mean over factors. Features are cut into bins of equal width. With few rows per cell the
    informations are too large, those of all features alike.

    Args:
        codes: D >= 2 features of N images, ``(N, D)``.
        factors: the values of K factors, int64 ``(N, K)``.
        bins: the number of bins. A factor of more values than that cannot reach a gap of 1.

    Returns:
        The gap of each factor, from 0 to 1, ``(K,)``.

    Raises:
        ValueError: if the shapes do not fit, there is one feature only, a factor is constant, or ``bins`` is no
            integer of at least 2.

    References:
        | Isolating sources of disentanglement in variational autoencoders (Chen et al., 2018), section 4.1
        | https://arxiv.org/abs/1802.04942

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(5))
        >>> mutual_information_gap(factors.float(), factors)
        tensor([1., 1.])
        >>> mutual_information_gap(torch.stack([factors[:, 0], factors[:, 0]], 1).float(), factors)
        tensor([0., 0.])
    """
    _check(codes, factors)
    positive_int("bins", bins, 2)
    if codes.shape[1] < 2:
        raise ValueError("codes must have at least two features for a gap between them, got 1")
    cells = torch.stack([_binned(feature, bins) for feature in codes.detach().double().unbind(1)])
    gaps = []
    for values in factors.unbind(1):
        labels = values.unique(return_inverse=True)[1]
        entropy = _entropy(labels)
        num_labels = int(labels.max()) + 1
        information = torch.stack([entropy + _entropy(own) - _entropy(own * num_labels + labels) for own in cells])
        best = information.topk(2).values
        gaps.append((best[0] - best[1]) / entropy)
    return torch.stack(gaps).clamp_min(0).to(torch.get_default_dtype())


def _check(codes: Tensor, factors: Tensor) -> None:
    if codes.dim() != 2 or factors.dim() != 2 or len(codes) != len(factors) or len(codes) < 2 or codes.shape[1] == 0:
        raise ValueError(
            "codes must have shape (N, D) and factors (N, K) for the same N of at least 2, got "
            f"{tuple(codes.shape)} and {tuple(factors.shape)}"
        )
    if factors.is_floating_point():
        raise ValueError(f"factors must hold integers, got {factors.dtype}; number their values")
    constant = (factors == factors[:1]).all(0)
    if bool(constant.any()):
        raise ValueError(f"factor {int(constant.int().argmax())} has one value only; leave it out")


def _sharpness(importance: Tensor, dim: int) -> Tensor:
    """Return 1 minus the entropy along ``dim``, to the base of its length: 1 if all lies in one place, 0 if none."""
    length = importance.shape[dim]
    if length == 1:
        return importance.new_full(importance.sum(dim).shape, math.nan)
    total = importance.sum(dim, keepdim=True)
    share = importance / total.clamp_min(torch.finfo(importance.dtype).tiny)
    entropy = -torch.special.xlogy(share, share).sum(dim) / math.log(length)
    return torch.where(total.squeeze(dim) > 0, 1 - entropy, 0.0)


def _binned(feature: Tensor, bins: int) -> Tensor:
    """Return the number of each value's bin; all bins are equally wide."""
    low, high = feature.min(), feature.max()
    width = (high - low) / bins
    if not bool(width > 0):
        return torch.zeros_like(feature, dtype=torch.long)
    return ((feature - low) / width).long().clamp_max(bins - 1)


def _entropy(values: Tensor) -> Tensor:
    share = values.unique(return_counts=True)[1].double() / len(values)
    return -(share * share.log()).sum()
