"""The score-function estimator over whole runs of model and guide, each the baseline of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_ext.inference._traces import (
    Plates,
    Term,
    has_score,
    log_weight_terms,
    plates_of,
    sample_sites,
    score_function,
)
from pyro_ext.inference.elbo import checked_loss, value_with_gradient_of

__all__ = ["leave_one_out_loss", "refuse_enumeration"]


def leave_one_out_loss(traces: Sequence[tuple[Any, Any]], baseline: bool = True) -> Tensor:
    r"""Return the negative ELBO, averaged over independent runs, with a leave-one-out baseline at every site.

    The gradient for a site that is not reparameterised is

    .. math:: \frac{1}{k} \sum_s \Big( f_s - \frac{1}{k - 1} \sum_{s' \ne s} f_{s'} \Big) \nabla \log q(z_s)

    where f is the part of the log weight that the site can influence: a term in a plate of the site counts for the
    element of the site alone, any other term for all of them. Costs of ``-inf`` are left out of the gradient.
    A site that only some runs have is compared with those runs. One run has no baseline: this is
    :class:`pyro.infer.Trace_ELBO`, with the terms of auxiliary guide sites, which that leaves out of f.

    Args:
        traces: pairs of a model trace and a guide trace, each an independent run.
        baseline: whether to subtract the mean over the other runs.

    Raises:
        ValueError: if a latent model site is absent from the guide.
    """
    terms = [log_weight_terms(*pair) for pair in traces]
    zero = _zero(terms)
    value = sum((term.value.detach().sum() for run in terms for term in run), zero)
    surrogate = sum((_finite(t.surrogate).sum() for run in terms for t in run if t.surrogate is not None), zero)
    for score, signal in _scores(traces, terms, baseline):
        surrogate = surrogate + (score.masked_fill(score.detach().isinf(), 0.0) * signal).sum()
    loss = value_with_gradient_of(-value / len(traces), -surrogate / len(traces))
    return checked_loss(loss, traces)


def _zero(terms: Sequence[Sequence[Term]]) -> Tensor:
    """Return a zero of the device and dtype of the terms, in the default dtype if there are none."""
    return next((term.value.new_zeros(()) for run in terms for term in run), torch.zeros(()))


def _finite(x: Tensor) -> Tensor:
    return x.masked_fill(x.detach().isinf(), 0.0)


def _scores(
    traces: Sequence[tuple[Any, Any]], terms: Sequence[Sequence[Term]], baseline: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return, for each site of each run, the score-function term and what multiplies it."""
    sites: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for (_, guide_trace), run in zip(traces, terms, strict=True):
        costs = _costs(run)
        for name, site in sample_sites(guide_trace).items():
            if has_score(site):
                score = score_function(site)
                sites.setdefault(name, []).append((score, _cost_within(costs, plates_of(site)).expand(score.shape)))
    return [pair for runs in sites.values() for pair in _signals(runs, baseline)]


def _costs(terms: Sequence[Term]) -> dict[Plates, Tensor]:
    """Return the terms without gradient, added up by the plates they are in."""
    costs: dict[Plates, Tensor] = {}
    for term in terms:
        value = term.value.detach()
        costs[term.plates] = costs[term.plates] + value if term.plates in costs else value
    return costs


def _cost_within(costs: dict[Plates, Tensor], plates: Plates) -> Tensor:
    """Return the sum of the costs, over all plates but ``plates``; those keep their dims."""
    total: Any = 0.0
    for own, value in costs.items():
        dims = [frame.dim for frame in own - plates if -frame.dim <= value.dim()]
        total = total + (value.sum(dims, keepdim=True) if dims else value)
    while total.dim() and total.shape[0] == 1:
        total = total.squeeze(0)
    return total


def _signals(runs: list[tuple[Tensor, Tensor]], baseline: bool) -> list[tuple[Tensor, Tensor]]:
    """Subtract from the cost of each run the mean over the others of the same shape; 0 where one is infinite."""
    groups: dict[torch.Size, list[int]] = {}
    for i, (_, cost) in enumerate(runs):
        groups.setdefault(cost.shape, []).append(i)
    pairs = list(runs)
    for members in groups.values():
        cost = torch.stack([runs[i][1] for i in members])
        finite = cost.isfinite().all(0)
        cost = torch.where(finite, cost, 0.0)
        n = len(members)
        signal = (n * cost - cost.sum(0)) / (n - 1) if baseline and n > 1 else cost
        for i, own in zip(members, signal, strict=True):
            pairs[i] = (runs[i][0], own)
    return pairs


def refuse_enumeration(elbo: str, model_trace: Any, guide_trace: Any) -> None:
    """Raise NotImplementedError for a model site that is to be summed out instead of sampled in the guide.

    Args:
        elbo: what cannot sum it out, for the message.
        model_trace: the trace of the model.
        guide_trace: the trace of the guide.
    """
    guide = sample_sites(guide_trace)
    for name, site in sample_sites(model_trace).items():
        if not site["is_observed"] and name not in guide and site["infer"].get("enumerate"):
            raise NotImplementedError(
                f"model site {name!r} is marked infer={{'enumerate': {site['infer']['enumerate']!r}}} and is not in "
                f"the guide: {elbo} does not sum sites out of the model. Use TraceUnorderedSet_ELBO or another "
                "ELBO of sample sets, which do, or sample the site in the guide"
            )
