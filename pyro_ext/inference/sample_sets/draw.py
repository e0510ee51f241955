"""Draw the sample set of one site: values, weights and baseline by the estimator asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ext.distributions.distinct import SamplesWithoutReplacement
from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference.sample_sets.finite import FiniteDistribution, finite_distribution, parameter_dtype
from pyro_ext.inference.sample_sets.log_probs import sample_one_hot
from pyro_ext.inference.sample_sets.weights import (
    SetWeights,
    enumeration_weights,
    leave_one_out_weights,
    sum_and_sample_weights,
    unordered_set_weights,
)
from pyro_ext.ops.sets import gumbel_topk, optimal_num_summed, topk_remainder
from pyro_ext.ops.sets.product import product_gumbel_topk, product_topk
from pyro_ext.ops.sets.product_rest import ProductRest, sample_remainder

__all__ = ["ESTIMATORS", "SampleSet", "SetOptions", "draw_sample_set"]

ESTIMATORS = ("unordered_set", "sum_and_sample", "leave_one_out", "exact", "reinforce")


@dataclass(frozen=True)
class SetOptions:
    """How the sample set of a site is drawn.

    Attributes:
        estimator: the name of the estimator, one of ``ESTIMATORS``.
        num_samples: the size k of the set; a finite support of at most k values is enumerated.
        num_summed: how many of the k values ``"sum_and_sample"`` sums, the rest being sampled; ``"optimal"`` chooses
            the number for each batch element.
        max_leaves: the largest number of values that ``"exact"`` may enumerate.
    """

    estimator: str = "unordered_set"
    num_samples: int = 4
    num_summed: int | str = "optimal"
    max_leaves: int = 2**16


class SampleSet(NamedTuple):
    """A weighted set of values of one site.

    Attributes:
        values: ``(k,) + batch_shape + event_shape``.
        log_weight: ``(k,) + batch_shape`` without gradient; the batch dims have size 1 where all elements share it.
        baseline: the baseline matrix C of :mod:`.weights`, ``(k, k) + batch_shape``, with a single row where all rows
            are the same, and batch dims of size 1 where all elements share it.
    """

    values: Tensor
    log_weight: Tensor
    baseline: Tensor


@torch.no_grad()
def draw_sample_set(fn: Any, options: SetOptions) -> SampleSet:
    """Draw the sample set of a distribution.

    Args:
        fn: a Pyro distribution.
        options: the estimator and the sizes.

    Raises:
        InfiniteSupportError: if the estimator needs a finite support and there is none.
        ValueError: if an exact enumeration would exceed ``options.max_leaves``.
    """
    if options.estimator == "leave_one_out":
        values = sample_one_hot(fn, options.num_samples)
        if values is None:
            values = fn.sample(torch.Size([options.num_samples]))
        weights = leave_one_out_weights(options.num_samples, values)
        return _laid_out(values, weights, fn)
    base, num_event_dims = unwrap(fn)
    if options.estimator == "unordered_set" and not num_event_dims and isinstance(base, SamplesWithoutReplacement):
        drawn = base.sample_without_replacement(options.num_samples)
        log_prob = drawn.log_prob.movedim(0, -1)
        if bool((drawn.log_rest == -math.inf).all()):  # nothing is left out: no ratios needed
            return _laid_out(drawn.values, enumeration_weights(log_prob), fn)
        return _laid_out(drawn.values, unordered_set_weights(log_prob, drawn.log_rest), fn)
    finite = finite_distribution(fn)
    if options.estimator == "exact" or options.num_samples >= finite.domain_size:
        index, weights = _all(finite, options.max_leaves)
    elif options.estimator == "sum_and_sample":
        index, weights = _sum_and_sample(finite, options)
    else:
        index, weights = _unordered(finite, options.num_samples)
    return _laid_out(finite.values(index), weights, fn)


def _laid_out(values: Tensor, weights: SetWeights, fn: Any) -> SampleSet:
    """Move the set dims to the left and cast to the dtype of the distribution, at least float32.

    Half precision has too few digits for weights that add up to one.
    """
    dtype = torch.promote_types(parameter_dtype(fn), torch.float32)
    ones = (1,) * (len(fn.batch_shape) + 1 - weights.log_weight.dim())
    log_weight = weights.log_weight.movedim(-1, 0).to(dtype)
    baseline = weights.baseline.movedim((-2, -1), (0, 1)).to(dtype)
    return SampleSet(values, log_weight.reshape(log_weight.shape + ones), baseline.reshape(baseline.shape + ones))


def _all(finite: FiniteDistribution, max_leaves: int) -> tuple[Tensor, SetWeights]:
    if finite.domain_size > max_leaves:
        raise ValueError(
            f"enumerating its {finite.domain_size} values exceeds max_leaves={max_leaves}; "
            'raise max_leaves, or use estimator="unordered_set"'
        )
    index = finite.configurations()
    log_prob = finite.log_probs.gather(-1, index.movedim(-1, -2)).sum(-2)
    return index, enumeration_weights(log_prob)


def _unordered(finite: FiniteDistribution, k: int) -> tuple[Tensor, SetWeights]:
    if finite.log_probs.shape[-2] == 1:
        drawn = gumbel_topk(finite.log_probs.squeeze(-2), k)
        return drawn.index.unsqueeze(-1), unordered_set_weights(drawn.log_p, drawn.log_rest)
    members = product_gumbel_topk(finite.log_probs, k)
    return members.index, unordered_set_weights(members.log_prob, ProductRest(finite.log_probs, members).log_mass)


def _sum_and_sample(finite: FiniteDistribution, options: SetOptions) -> tuple[Tensor, SetWeights]:
    k = options.num_samples
    if finite.log_probs.shape[-2] == 1:
        return _sum_and_sample_one(finite.log_probs.squeeze(-2), options)
    members = product_topk(finite.log_probs, k)
    rest = ProductRest(finite.log_probs, members)
    masses = torch.cat([members.log_prob, rest.log_mass.unsqueeze(-1)], dim=-1)
    log_tail = masses.flip(-1).logcumsumexp(-1).flip(-1)
    num_summed = _num_summed(log_tail, options)
    draws = rest.sample(num_summed, k)
    summed = torch.arange(k, device=draws.device) < num_summed.unsqueeze(-1)
    index = torch.where(summed.unsqueeze(-1), members.index, draws)
    return index, sum_and_sample_weights(members.log_prob, log_tail, num_summed)


def _sum_and_sample_one(log_probs: Tensor, options: SetOptions) -> tuple[Tensor, SetWeights]:
    """Return categories of a single variable, which may have thousands, as configurations of one coordinate."""
    k = options.num_samples
    top = topk_remainder(log_probs, k)
    num_summed = _num_summed(top.log_tail, options)
    draws = sample_remainder(log_probs, top.index, num_summed, k)
    summed = torch.arange(k, device=draws.device) < num_summed.unsqueeze(-1)
    index = torch.where(summed, top.index, draws)
    return index.unsqueeze(-1), sum_and_sample_weights(top.log_p, top.log_tail, num_summed)


def _num_summed(log_tail: Tensor, options: SetOptions) -> Tensor:
    if isinstance(options.num_summed, int):
        return torch.full_like(log_tail[..., 0], options.num_summed, dtype=torch.long)
    return optimal_num_summed(log_tail, options.num_samples)
