"""Log-probabilities of values that were drawn here: they are in the support, and need not be checked for that again."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Independent

from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["compute_log_probs", "sample_one_hot"]

_ONE_HOT = (dist.OneHotCategorical, torch.distributions.OneHotCategorical)
_DISCRETE = (
    *_ONE_HOT,
    dist.Categorical,
    dist.Bernoulli,
    torch.distributions.Categorical,
    torch.distributions.Bernoulli,
)


class _Known:
    """Stands in for the distribution of a site whose log-probability is known."""

    has_rsample = False

    def __init__(self, log_prob: Tensor) -> None:
        self._log_prob = log_prob

    def log_prob(self, value: Tensor) -> Tensor:
        return self._log_prob

    def score_parts(self, value: Tensor) -> ScoreParts:
        return ScoreParts(self._log_prob, self._log_prob, 0)


def compute_log_probs(model_trace: Any, guide_trace: Any, drawn: str) -> None:
    """Compute the log-probabilities of all sites of a pair of traces, in place, as Pyro does.

    Those of one-hot, categorical and Bernoulli values that the engine drew are not checked to be in the support of the
    guide's distribution, nor of the model's where that is the same.

    Args:
        model_trace: the trace of the model.
        guide_trace: the trace of the guide.
        drawn: the key in ``infer`` of the guide's sites whose values the engine drew.
    """
    known: list[tuple[Any, Any]] = []
    for name, site in guide_trace.nodes.items():
        if site["type"] != "sample" or drawn not in site["infer"]:
            continue
        base, num_event_dims = _below_events(site["fn"])
        if type(base) not in _DISCRETE:
            continue
        known.append((site, _log_prob(base, num_event_dims, site["value"])))
        other = model_trace.nodes.get(name)
        if other is None or other["is_observed"]:
            continue
        prior, num_prior_dims = _below_events(other["fn"])
        if num_prior_dims == num_event_dims and _same_support(base, prior):
            known.append((other, _log_prob(prior, num_event_dims, site["value"])))
    before = [site["fn"] for site, _ in known]
    try:
        for site, log_prob in known:
            site["fn"] = _Known(log_prob)
        model_trace.compute_log_prob()
        guide_trace.compute_score_parts()
    finally:
        for (site, _), fn in zip(known, before, strict=True):
            site["fn"] = fn


def sample_one_hot(fn: Any, num_samples: int) -> Tensor | None:
    """Return independent draws of one-hot variables, with the same random numbers as its ``sample``; None for others.

    Args:
        fn: a distribution.
        num_samples: the number of draws, which become the leftmost dim.
    """
    base, _ = _below_events(fn)
    if type(base) not in _ONE_HOT:
        return None
    index = base._categorical.sample(torch.Size([num_samples]))
    values = base.logits.new_zeros(index.shape + base.event_shape)
    return values.scatter_(-1, index.unsqueeze(-1), 1.0)


def _below_events(fn: Any) -> tuple[Any, int]:
    number = 0
    while isinstance(fn, Independent):
        number += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    return fn, number


def _same_support(base: Any, prior: Any) -> bool:
    if type(prior) is not type(base) or prior.event_shape != base.event_shape:
        return False
    return not hasattr(base, "_num_events") or bool(prior._num_events == base._num_events)


def _log_prob(base: Any, num_event_dims: int, value: Tensor) -> Tensor:
    if isinstance(base, torch.distributions.Bernoulli):
        checked, base._validate_args = base._validate_args, False
        try:
            log_prob = base.log_prob(value)
        finally:
            base._validate_args = checked
    elif isinstance(base, torch.distributions.Categorical):
        log_prob = _gathered(base.logits, value.long())
    else:
        log_prob = _gathered(base.logits, _category(value))
    result: Tensor = sum_rightmost(log_prob, num_event_dims)
    return result


def _category(value: Tensor) -> Tensor:
    """Return the category of each one-hot value; without a search for it where all numbers of categories are exact."""
    number = value.shape[-1]
    if number > 2 / torch.finfo(value.dtype).eps:
        return value.argmax(-1)
    # no product of matrices, which may be made with fewer digits
    return (value * torch.arange(number, dtype=value.dtype, device=value.device)).sum(-1).long()


def _gathered(logits: Tensor, index: Tensor) -> Tensor:
    """Return the logit of each index; where indices have further dims on the left, without a copy of logits for each.

    Args:
        logits: ``batch_shape + (C,)``.
        index: the categories, of a shape that broadcasts with ``batch_shape``.
    """
    batch_shape = logits.shape[:-1]
    split = index.dim() - len(batch_shape)
    if split >= 0 and index.shape[split:] == batch_shape:
        columns = index.reshape((-1, *batch_shape)).movedim(0, -1)
        return logits.gather(-1, columns).movedim(-1, 0).reshape(index.shape)
    shape = broadcast_shapes(batch_shape, index.shape)
    return logits.expand(*shape, logits.shape[-1]).gather(-1, index.expand(shape).unsqueeze(-1)).squeeze(-1)
