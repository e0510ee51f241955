"""The expected cost of a trace in which some sites hold sample sets, and the gradient that belongs to it."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from torch import Tensor

from pyro_ext.inference.sample_sets.analytic_kl import replace_by_analytic_kl
from pyro_ext.inference.sample_sets.checks import check_plate_escape
from pyro_ext.inference.sample_sets.messenger import SET_KEY, SiteSet

__all__ = ["expected_elbo"]

Costs = dict[frozenset[str], list[Tensor]]


def expected_elbo(model_trace: Any, guide_trace: Any, baseline: bool, analytic_kl: bool) -> tuple[Tensor, Tensor]:
    r"""Return the ELBO estimate of a pair of packed traces and a surrogate whose gradient is the estimator.

    With :math:`E = \sum_s w_s f(s)` (nested over sites, plates and particles) and u added to a site's log-weights,
    :math:`\partial E / \partial u_s` is :math:`w_s f(s)` with the cost downstream and the weights upstream of the
    site, for every plate and upstream set at once. The surrogate is
    :math:`E + \sum_s [w_s (f(s) - b_s)] \log q(s)` with the bracket held fixed.

    Args:
        model_trace: packed trace of the model.
        guide_trace: packed trace of the guide.
        baseline: whether to subtract the built-in baseline.
        analytic_kl: whether Kullback-Leibler divergences known in closed form replace sampled ones.

    Returns:
        Estimate and surrogate, both of shape ``()``.
    """
    sets = {name: site["infer"][SET_KEY] for name, site in guide_trace.nodes.items() if _has_set(site)}
    with torch.enable_grad() if _wants_gradient(model_trace, guide_trace) else torch.no_grad():
        costs, ordering = _costs(model_trace, guide_trace, analytic_kl)
        check_plate_escape(costs, guide_trace, ordering)
        dice = _SampleSetDice(guide_trace, ordering, sets)
        elbo = torch.as_tensor(dice.compute_expectation(_in_one_dtype(costs, dice.log_probs)))
        if not torch.is_grad_enabled():
            return elbo, elbo
        return elbo, elbo + _score_terms(elbo, guide_trace, sets, baseline)


def _wants_gradient(model_trace: Any, guide_trace: Any) -> bool:
    return torch.is_grad_enabled() and any(
        site["type"] == "sample" and site["log_prob"].requires_grad
        for trace in (model_trace, guide_trace)
        for site in trace.nodes.values()
    )


def _has_set(site: Any) -> bool:
    return site["type"] == "sample" and SET_KEY in site["infer"]


class _SampleSetDice(Dice):
    """Dice whose factor at a set site is the perturbed log-weight of its sample set."""

    def __init__(self, guide_trace: Any, ordering: dict[str, frozenset[str]], sets: dict[str, SiteSet]) -> None:
        rest = guide_trace.copy()
        for name in sets:
            rest.remove_node(name)
        super().__init__(rest, ordering)
        for name, drawn in sets.items():
            dim_to_symbol = guide_trace.nodes[name]["infer"]["_dim_to_symbol"]
            factor = packed.pack(drawn.log_weight + drawn.perturbation, dim_to_symbol)
            self.log_probs[ordering[name]].append(factor)


def _costs(model_trace: Any, guide_trace: Any, analytic_kl: bool) -> tuple[Costs, dict[str, frozenset[str]]]:
    """Collect log p of the model's sites and -log q of the guide's, by ordinal."""
    replaced: set[str] = set()
    if analytic_kl:
        replaced = replace_by_analytic_kl(model_trace, guide_trace)
    costs, factors, ordering, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
    if factors:
        for ordinal, terms in _marginalised(factors, sum_dims).items():
            costs.setdefault(ordinal, []).extend(packed.scale_and_mask(term, scale=scale) for term in terms)
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and name not in replaced:
            costs.setdefault(ordering[name], []).append(_guide_cost(site))
    return costs, ordering


def _in_one_dtype(costs: Costs, log_factors: Costs) -> Costs:
    """Promote the costs to the widest dtype around: sites on integers have costs in the default dtype."""
    tensors = [t for group in (costs, log_factors) for terms in group.values() for t in terms if isinstance(t, Tensor)]
    widest = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.get_default_dtype())
    return {ordinal: [_cast(term, widest) for term in terms] for ordinal, terms in costs.items()}


def _cast(term: Tensor, dtype: torch.dtype) -> Tensor:
    cast = term.to(dtype)
    cast._pyro_dims = term._pyro_dims  # type: ignore[attr-defined]
    return cast


def _marginalised(factors: Any, sum_dims: set[str]) -> OrderedDict[frozenset[str], list[Tensor]]:
    """Sum model-enumerated sites out of their log factors, keeping the dependency structure."""
    sizes = {
        s: n for terms in factors.values() for term in terms for s, n in zip(term._pyro_dims, term.shape, strict=True)
    }
    with shared_intermediates() as cache:
        ring = SampleRing(cache=cache, dim_to_size=sizes)
        result: OrderedDict[frozenset[str], list[Tensor]] = contract_tensor_tree(factors, sum_dims, ring=ring)
    return result


def _guide_cost(site: Any) -> Tensor:
    """Return -log q; held fixed at set sites, where its own gradient has mean zero and would only add noise."""
    log_prob = site["packed"]["log_prob"]
    if not _has_set(site):
        return packed.neg(log_prob)
    cost = -log_prob.detach()
    cost._pyro_dims = log_prob._pyro_dims
    return cost


def _score_terms(elbo: Tensor, guide_trace: Any, sets: dict[str, SiteSet], baseline: bool) -> Tensor:
    """Sum over set sites of w (f - b), held fixed, times log q."""
    total = torch.zeros_like(elbo)
    if not sets or not elbo.requires_grad:
        return total
    perturbations = [drawn.perturbation for drawn in sets.values()]
    gradients = torch.autograd.grad(elbo, perturbations, retain_graph=True, allow_unused=True)
    for (name, drawn), weighted_cost in zip(sets.items(), gradients, strict=True):
        score = guide_trace.nodes[name]["score_parts"].score_function
        if weighted_cost is None or not isinstance(score, Tensor) or not score.requires_grad:
            continue
        if baseline:
            weighted_cost = drawn.minus_baseline(weighted_cost)
        # values of probability zero have log q = -inf, and weight zero
        score = torch.where(score.detach().isinf(), torch.zeros_like(score), score)
        total = total + (weighted_cost.detach() * score).sum()
    return total
