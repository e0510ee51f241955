"""How well samples of trees agree: split frequencies and their average standard deviation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.phylo.splits import split_words
from pyro_ext.phylo.trees import TreeSet

__all__ = ["SplitFrequencies", "asdsf", "split_frequencies"]


class SplitFrequencies(NamedTuple):
    """The splits of several samples of trees, and how frequent they are.

    Attributes:
        words: the splits as bits, int64 ``(splits, words)``, in the form of :func:`~pyro_ext.phylo.splits.split_words`.
        frequencies: the frequency of each split in each sample, float64 ``(samples, splits)``.
    """

    words: Tensor
    frequencies: Tensor


def split_frequencies(*samples: TreeSet) -> SplitFrequencies:
    """Return how often each split, or clade of rooted trees, occurs in each sample.

    Splits that every tree has, those of single taxa, are left out.

    Args:
        *samples: sets of trees over the same taxa; trees count by their weights.

    Raises:
        ValueError: if there is no sample, one is empty, or they differ in taxa or in being rooted.

    Example:
        >>> trees = TreeSet(("a", "b", "c", "d"), torch.tensor([[-1, 5, 5, 4, 0, 4], [-1, 4, 5, 5, 0, 4]]))
        >>> split_frequencies(trees, trees[:1])
        SplitFrequencies(words=tensor([[ 6], [12]]), frequencies=tensor([[0.5000, 0.5000], [1.0000, 0.0000]],
        dtype=torch.float64))
    """
    if not samples or not all(len(sample) for sample in samples):
        raise ValueError("samples must be one or more sets of trees, none of them empty")
    first = samples[0]
    if any(sample.taxa != first.taxa or sample.rooted != first.rooted for sample in samples):
        raise ValueError("samples must have the same taxa and be all rooted or all unrooted")
    inner = [split_words(sample.parents, first.rooted)[:, first.num_taxa :] for sample in samples]
    words, group = torch.cat([own.flatten(0, 1) for own in inner]).unique(dim=0, return_inverse=True)
    frequencies = torch.zeros(len(samples), len(words), dtype=torch.float64, device=words.device)
    parts = group.split([own.shape[0] * own.shape[1] for own in inner])
    for row, sample, own, part in zip(frequencies, samples, inner, parts, strict=True):
        row.index_add_(0, part, sample.probabilities().repeat_interleave(own.shape[1]))
    return SplitFrequencies(words, frequencies)


def asdsf(*samples: TreeSet, min_frequency: float = 0.0) -> Tensor:
    r"""Return the average standard deviation of split frequencies, a measure of the convergence of Markov chains.

    .. math::  \frac{1}{|B|} \sum_{b \in B} \sqrt{\frac{1}{R - 1} \sum_{r=1}^R (f_{rb} - \bar f_b)^2}

    over R samples and the splits B that reach ``min_frequency`` in at least one of them. MrBayes uses
    ``min_frequency=0.1``, and values below 0.01 are commonly taken for convergence.

    Args:
        *samples: two or more sets of trees over the same taxa; trees count by their weights.
        min_frequency: the frequency that a split must reach in at least one of the samples to count.

    Returns:
        A float64 scalar; 0 if no split reaches ``min_frequency``.

    Raises:
        ValueError: if there are fewer than two samples, one is empty, or they differ in taxa or in being rooted.

    References:
        | MrBayes 3.2: efficient Bayesian phylogenetic inference and model choice across a large model space
        | (Ronquist et al., 2012), https://doi.org/10.1093/sysbio/sys029

    Example:
        >>> trees = TreeSet(("a", "b", "c", "d"), torch.tensor([[-1, 5, 5, 4, 0, 4], [-1, 4, 5, 5, 0, 4]]))
        >>> asdsf(trees, trees[:1])
        tensor(0.3536, dtype=torch.float64)
    """
    if len(samples) < 2:
        raise ValueError(f"samples must be two or more sets of trees, got {len(samples)}")
    frequencies = split_frequencies(*samples).frequencies
    counted = frequencies[:, (frequencies >= min_frequency).any(0)]
    return counted.std(0).mean() if counted.shape[1] else frequencies.new_zeros(())
