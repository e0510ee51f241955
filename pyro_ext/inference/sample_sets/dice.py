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
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_ext.inference.sample_sets.messenger import SET_KEY, SiteSet

__all__ = ["expected_elbo", "plate_escape_message"]

Costs = dict[frozenset[str], list[Tensor]]


def expected_elbo(model_trace: Any, guide_trace: Any, baseline: bool, analytic_kl: bool) -> tuple[Tensor, Tensor]:
    r"""Return the ELBO estimate of a pair of packed traces and a surrogate whose gradient is the estimator.

    With :math:`E = \sum_s w_s f(s)` (nested over sites, plates and particles) and u added to a site's log-weights,
    :math:`\partial E / \partial u_s` is :math:`w_s f(s)` with the cost downstream and the weights upstream of the
    site, for every plate and upstream set at once. The surrogate is
    :math:`E + \sum_s [w_s (f(s) - b_s)] \log q(s)` with the bracket held fixed.

    Args:
        model_trace: the packed trace of the model.
        guide_trace: the packed trace of the guide.
        baseline: whether to subtract the built-in baseline.
        analytic_kl: whether Kullback-Leibler divergences known in closed form replace sampled ones.

    Returns:
        The estimate and the surrogate, both of shape ``()``.

    Raises:
        ValueError: naming a site that a cost outside its plates depends on; with ``analytic_kl``, naming two sites
            that model and guide sample in different orders.
    """
    sets = {name: site["infer"][SET_KEY] for name, site in guide_trace.nodes.items() if _has_set(site)}
    with torch.enable_grad() if _wants_gradient(model_trace, guide_trace) else torch.no_grad():
        costs, ordering = _costs(model_trace, guide_trace, analytic_kl)
        _check_plate_escape(costs, guide_trace, ordering)
        dice = _SampleSetDice(guide_trace, ordering, sets)
        elbo = torch.as_tensor(dice.compute_expectation(_in_one_dtype(costs, dice)))
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
        replaced = _replace_by_analytic_kl(model_trace, guide_trace)
    costs, factors, ordering, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
    if factors:
        for ordinal, terms in _marginalised(factors, sum_dims).items():
            costs.setdefault(ordinal, []).extend(packed.scale_and_mask(term, scale=scale) for term in terms)
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample" and name not in replaced:
            costs.setdefault(ordering[name], []).append(_guide_cost(site))
    return costs, ordering


def _in_one_dtype(costs: Costs, dice: Dice) -> Costs:
    """Promote costs, and the factors of ``dice`` in place, to the widest dtype among them, at least float32.

    Sites on integers have costs in the default dtype; contractions take tensors of one dtype only.
    """
    tensors = [t for group in (costs, dice.log_probs) for terms in group.values() for t in terms]
    dtypes = (t.dtype for t in tensors if isinstance(t, Tensor))
    widest = functools.reduce(torch.promote_types, dtypes, torch.float32)
    for ordinal, terms in dice.log_probs.items():
        dice.log_probs[ordinal] = [_cast(term, widest) for term in terms]
    return {ordinal: [_cast(term, widest) for term in terms] for ordinal, terms in costs.items()}


def _cast(term: Tensor, dtype: torch.dtype) -> Tensor:
    if not isinstance(term, Tensor):
        return term
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
    """Return the sum over set sites of w (f - b), held fixed, times log q."""
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
        # an infinite cost has no gradient: its element of the plate is left out
        weighted_cost = weighted_cost.masked_fill(~weighted_cost.isfinite(), 0.0)
        # values of probability zero have log q = -inf, and weight zero
        score = torch.where(score.detach().isinf(), torch.zeros_like(score), score)
        total = total + (weighted_cost.detach() * score).sum()
    return total


def _replace_by_analytic_kl(model_trace: Any, guide_trace: Any) -> set[str]:
    """Put -KL(q || p) in the place of log p - log q at every latent site where it is known in closed form.

    The packed ``log_prob`` of the model's site becomes -KL; the caller leaves out the guide's term.

    Args:
        model_trace: the packed trace of the model, changed in place.
        guide_trace: the packed trace of the guide.

    Returns:
        The names of the sites replaced; the others keep their sampled terms.

    Raises:
        ValueError: naming two sites that model and guide sample in different orders, where the divergence of one
            may depend on a value drawn later.
    """
    latent = [name for name, site in guide_trace.nodes.items() if _is_latent(site) and name in model_trace.nodes]
    _check_order(latent, [name for name in model_trace.nodes if name in set(latent)])
    replaced = set()
    for name in latent:
        model_site, guide_site = model_trace.nodes[name], guide_trace.nodes[name]
        if guide_site["infer"].get("enumerate") or model_site["is_observed"]:
            continue
        try:
            divergence = kl_divergence(guide_site["fn"], model_site["fn"])
        except NotImplementedError:
            continue
        cost = packed.pack(-divergence, guide_site["infer"]["_dim_to_symbol"])
        # in two calls: Pyro's function leaves out the scale where there is a mask
        cost = packed.scale_and_mask(cost, scale=model_site["scale"])
        cost = packed.scale_and_mask(cost, mask=model_site["packed"]["mask"])
        model_site["packed"]["log_prob"] = cost
        replaced.add(name)
    return replaced


def _is_latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def _check_order(guide_order: list[str], model_order: list[str]) -> None:
    for in_guide, in_model in zip(guide_order, model_order, strict=True):
        if in_guide != in_model:
            raise ValueError(
                f"analytic_kl=True needs model and guide to sample their sites in one order, but the guide samples "
                f"{in_guide!r} where the model samples {in_model!r}; reorder one of them, or use analytic_kl=False"
            )


def _check_plate_escape(
    costs: dict[frozenset[str], list[Any]], guide_trace: Any, ordering: dict[str, frozenset[str]]
) -> None:
    """Refuse costs that depend on an enumerated site in a plate they are not in.

    Elements of a plate are enumerated together, not in all combinations, so such a cost would be evaluated at the
    wrong values and the bound would be wrong.

    Raises:
        ValueError: naming the site and its plates.
    """
    owner = {
        site["infer"]["_enumerate_symbol"]: name
        for name, site in guide_trace.nodes.items()
        if site["type"] == "sample" and "_enumerate_symbol" in site["infer"]
    }
    for ordinal, terms in costs.items():
        for symbol in set().union(*(set(term._pyro_dims) for term in terms)) & owner.keys():
            name = owner[symbol]
            if not ordering[name] <= ordinal:
                raise ValueError(plate_escape_message(guide_trace, name, ordering[name] - ordinal))


def plate_escape_message(guide_trace: Any, name: str, missing: frozenset[str]) -> str:
    """Return what is wrong with a site that sites outside its plates depend on, and the way out.

    Args:
        guide_trace: the packed trace of the guide.
        name: the name of the site.
        missing: the symbols of the plates of the site that are not around the dependent site.
    """
    plates = sorted(plate for plate, symbol in guide_trace.plate_to_symbol.items() if symbol in missing)
    where = ", ".join(f"pyro.plate({plate!r})" for plate in plates)
    return (
        f"site {name!r} is inside {where}, but a site outside depends on it, so the elements of the plate are not "
        f"independent. Replace the plate around {name!r} by .to_event(1) on its distribution (joint samples), or move "
        "the dependent site into the plate"
    )
