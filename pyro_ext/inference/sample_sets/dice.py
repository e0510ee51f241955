"""The expected cost of a trace in which some sites hold sample sets, and the gradient that belongs to it."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask, sum_rightmost
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import SampleRing
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_ext.distributions.structure import masks_of, unwrap
from pyro_ext.inference._traces import plates_of, score_function
from pyro_ext.inference.control_variates import ControlVariates
from pyro_ext.inference.sample_sets.messenger import SET_KEY, SiteSet
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["expected_elbo", "plate_escape_message"]

Costs = dict[frozenset[str], list[Tensor]]


def expected_elbo(
    model_trace: Any,
    guide_trace: Any,
    baseline: bool,
    analytic_kl: bool,
    variates: ControlVariates | None = None,
    slopes: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return the ELBO estimate of a pair of packed traces and a surrogate whose gradient is the estimator.

    With :math:`E = \sum_s w_s f(s)` (nested over sites, plates and particles) and u added to a site's log-weights,
    :math:`\partial E / \partial u_s` is :math:`w_s f(s)` with the cost downstream and the weights upstream of the
    site, for every plate and upstream set at once. The surrogate is
    :math:`E + \sum_s [w_s (f(s) - b_s)] \log q(s)` with the bracket held fixed. A control variate c takes the place of
    f in :math:`-\sum_s [w_s (c(s) - b_s)] \log q(s)`, and its expectation is added.

    Args:
        model_trace: the packed trace of the model.
        guide_trace: the packed trace of the guide.
        baseline: whether to subtract the built-in baseline.
        analytic_kl: whether Kullback-Leibler divergences known in closed form replace sampled ones.
        variates: the control variates of the sites.
        slopes: the derivatives of the costs at the means of sites, for those control variates that need them.

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
        expectation = dice.compute_expectation(_in_one_dtype(costs, dice))
        # as_tensor would move a tensor to the default device, if one was set
        elbo = expectation if isinstance(expectation, Tensor) else torch.as_tensor(expectation)
        if not torch.is_grad_enabled():
            return elbo, elbo
        control = _Control(variates, slopes or {}, dice, ordering, elbo.dtype) if variates else None
        return elbo, elbo + _score_terms(elbo, guide_trace, sets, baseline, control)


class _Control:
    """The control variates of the set sites of one guide trace."""

    def __init__(
        self,
        variates: ControlVariates,
        slopes: dict[str, Tensor],
        dice: Dice,
        ordering: dict[str, frozenset[str]],
        dtype: torch.dtype,
    ) -> None:
        self._variates, self._slopes, self._dice, self._ordering, self._dtype = variates, slopes, dice, ordering, dtype

    def weighted(self, site: Any, weighted_cost: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return w c, in the shape of w f, and a scalar with the gradient of the expectation of c; None without c."""
        variate = self._variates.of(site, self._slopes)
        if variate is None:
            return None
        weight = self._weight(site)
        dim = site["infer"][SET_KEY].dim
        # the weights of the site's own set add up to 1
        upstream = weight if dim is None else weight.sum(dim, keepdim=True)
        if dim is not None:
            own = torch.where(upstream > 0, weight / upstream, 0.0)
            cost = torch.where(weight > 0, weighted_cost / weight, 0.0)
            variate.learn(torch.where(cost.isfinite(), cost, 0.0), own, dim)
        shape = broadcast_shapes(site["fn"].batch_shape, upstream.shape)
        upstream = upstream.expand(shape)[(0,) * (len(shape) - len(site["fn"].batch_shape))]
        return weight * variate.values, variate.expected(upstream)

    def _weight(self, site: Any) -> Tensor:
        """Return the weight of each value of a site, times those of the values that it depends on."""
        perturbation = site["infer"][SET_KEY].perturbation
        ones = torch.ones_like(perturbation, dtype=self._dtype)
        cost = packed.pack(ones, site["infer"]["_dim_to_symbol"])
        expectation = self._dice.compute_expectation({self._ordering[site["name"]]: [cost]})
        (weight,) = torch.autograd.grad(expectation, perturbation, retain_graph=True)
        return weight.to(self._dtype)


def _wants_gradient(model_trace: Any, guide_trace: Any) -> bool:
    if not torch.is_grad_enabled():
        return False
    model, guide = ([s for s in t.nodes.values() if s["type"] == "sample"] for t in (model_trace, guide_trace))
    terms = [*(site["log_prob"] for site in (*model, *guide)), *map(score_function, guide)]
    return any(isinstance(term, Tensor) and term.requires_grad for term in terms)


def _has_set(site: Any) -> bool:
    return site["type"] == "sample" and SET_KEY in site["infer"]


class _SampleSetDice(Dice):
    """Dice whose factor at a set site is the perturbed log-weight of its sample set."""

    def __init__(self, guide_trace: Any, ordering: dict[str, frozenset[str]], sets: dict[str, SiteSet]) -> None:
        rest = guide_trace.copy()
        for name in sets:
            rest.remove_node(name)
        for name, site in rest.nodes.items():
            if site["type"] == "sample":
                rest.nodes[name] = _without_masks(site)
        super().__init__(rest, ordering)
        for name, drawn in sets.items():
            dim_to_symbol = guide_trace.nodes[name]["infer"]["_dim_to_symbol"]
            factor = packed.pack(drawn.log_weight + drawn.perturbation, dim_to_symbol)
            self.log_probs[ordering[name]].append(factor)

    def compute_expectation(self, costs: Costs) -> Any:
        """Return the expected cost.

        One ordinal at a time: Pyro shares contractions between them, and one made for costs that need no marginal
        of a site lacks what the costs of another ordinal need.
        """
        return sum(self._of_ordinal(ordinal, terms) for ordinal, terms in costs.items())

    def _of_ordinal(self, ordinal: frozenset[str], terms: list[Any]) -> Any:
        """Return the expected cost in some plates; without a contraction where one site at most is upstream."""
        factors = self._get_log_factors(ordinal)
        if len(factors) > 1 or not all(isinstance(factor, Tensor) for factor in factors):
            return super().compute_expectation({ordinal: terms})
        dims = factors[0]._pyro_dims if factors else ""
        if any(set(dims).intersection(ordinal).difference(term._pyro_dims) for term in terms):
            return super().compute_expectation({ordinal: terms})  # a cost lacks a plate of the site
        total: Tensor | float = 0.0
        weights: dict[str, Any] = {}
        for term in terms:
            if not factors:
                total = total + term.sum()
                continue
            left = "".join(dim for dim in dims if dim in term._pyro_dims)
            if left not in weights:
                weight = factors[0].exp()
                gone = [at for at, dim in enumerate(dims) if dim not in left]
                weights[left] = weight.sum(gone) if gone else weight
                weights[left]._pyro_dims = left
            total = total + _expected(weights[left], term)
        return total


def _expected(weight: Any, cost: Any) -> Tensor:
    """Return the sum of weight times cost, where the weight is not zero: there a cost may be infinite."""
    weight, cost = packed.broadcast_all(weight, cost)
    total: Tensor = (weight * torch.where(weight > 0, cost, 0.0)).sum()
    return total


def _without_masks(site: Any) -> Any:
    """Return a packed site whose factor is the probability of its value, whatever masks are on its distribution."""
    parts, score = site["packed"]["score_parts"], score_function(site)
    if score is site["score_parts"].score_function:
        return site
    score = packed.pack(score, site["infer"]["_dim_to_symbol"])
    return {**site, "packed": {**site["packed"], "score_parts": parts._replace(score_function=score)}}


def _costs(model_trace: Any, guide_trace: Any, analytic_kl: bool) -> tuple[Costs, dict[str, frozenset[str]]]:
    """Collect log p of the model's sites and -log q of the guide's, by ordinal."""
    replaced = _replace_by_analytic_kl(model_trace, guide_trace) if analytic_kl else {}
    costs, factors, ordering, sum_dims, scale = _compute_model_factors(model_trace, guide_trace)
    if factors:
        for ordinal, terms in _marginalised(factors, sum_dims).items():
            costs.setdefault(ordinal, []).extend(packed.scale_and_mask(term, scale=scale) for term in terms)
    for name, site in guide_trace.nodes.items():
        if site["type"] == "sample":
            cost = replaced[name] if name in replaced else _guide_cost(site)
            if cost is not None:
                costs.setdefault(ordering[name], []).append(cost)
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


def _score_terms(
    elbo: Tensor, guide_trace: Any, sets: dict[str, SiteSet], baseline: bool, control: _Control | None
) -> Tensor:
    """Return the sum over set sites of w (f - b), held fixed, times log q; f is the cost less the control variate."""
    total = torch.zeros_like(elbo)
    if not sets or not elbo.requires_grad:
        return total
    perturbations = [drawn.perturbation for drawn in sets.values()]
    gradients = torch.autograd.grad(elbo, perturbations, retain_graph=True, allow_unused=True)
    for (name, drawn), weighted_cost in zip(sets.items(), gradients, strict=True):
        score = score_function(guide_trace.nodes[name])
        if weighted_cost is None or not isinstance(score, Tensor) or not score.requires_grad:
            continue
        controlled = None if control is None else control.weighted(guide_trace.nodes[name], weighted_cost)
        if controlled is not None:
            weighted_cost, total = weighted_cost - controlled[0], total + controlled[1]
        if baseline:
            weighted_cost = drawn.minus_baseline(weighted_cost)
        # an infinite cost has no gradient: its element of the plate is left out
        weighted_cost = weighted_cost.masked_fill(~weighted_cost.isfinite(), 0.0)
        # values of probability zero have log q = -inf, and weight zero
        score = torch.where(score.detach().isinf(), torch.zeros_like(score), score)
        total = total + (weighted_cost.detach() * score).sum()
    return total


def _replace_by_analytic_kl(model_trace: Any, guide_trace: Any) -> dict[str, Tensor | None]:
    r"""Put the expectation of log p - log q in the place of its sample at every latent site where it is known.

    The packed ``log_prob`` of the model's site becomes :math:`\mathbb{E}_q[\log p] = -KL(q, p) - H(q)` with the
    scale and mask of the model, and the guide's term :math:`-\mathbb{E}_q[\log q] = H(q)` with those of the guide.
    Where the two agree, the entropy cancels and need not be known.

    Args:
        model_trace: the packed trace of the model, changed in place.
        guide_trace: the packed trace of the guide.

    Returns:
        The packed terms of the guide by the names of the sites replaced, None where the model's term holds both;
        sites that are not named keep their sampled terms.

    Raises:
        ValueError: naming two sites that model and guide sample in different orders, where the divergence of one
            may depend on a value drawn later.
    """
    latent = [name for name, site in guide_trace.nodes.items() if _is_latent(site) and name in model_trace.nodes]
    _check_order(latent, [name for name in model_trace.nodes if name in set(latent)])
    summed = _summed_symbols(model_trace, guide_trace)
    replaced = {}
    for name in latent:
        model_site, guide_site = model_trace.nodes[name], guide_trace.nodes[name]
        if guide_site["infer"].get("enumerate") or model_site["is_observed"]:
            continue
        if not summed.isdisjoint(model_site["packed"]["log_prob"]._pyro_dims):
            continue  # log p is inside the logarithm of the sum
        try:
            of_model, of_guide = _expected_terms(model_site, guide_site)
        except NotImplementedError:
            continue
        guide_dims = guide_site["infer"]["_dim_to_symbol"]
        model_site["packed"]["log_prob"] = packed.pack(
            of_model, {**guide_dims, **model_site["infer"]["_dim_to_symbol"]}
        )
        replaced[name] = None if of_guide is None else packed.pack(of_guide, guide_dims)
    return replaced


def _summed_symbols(model_trace: Any, guide_trace: Any) -> set[str]:
    """Return the symbols of the sites that are summed out of the model."""
    return {
        site["infer"]["_enumerate_symbol"]
        for name, site in model_trace.nodes.items()
        if name not in guide_trace.nodes and site["type"] == "sample" and "_enumerate_symbol" in site["infer"]
    }


def _expected_terms(model_site: Any, guide_site: Any) -> tuple[Tensor, Tensor | None]:
    """Return the terms of model and guide, each scaled and masked; None in place of the second if the first is both.

    Raises:
        NotImplementedError: if divergence or entropy have no closed form.
    """
    q, p = guide_site["fn"], model_site["fn"]
    masked = bool(masks_of(q) or masks_of(p))
    if masked:
        (q, num_q), (p, num_p) = unwrap(q), unwrap(p)
        if num_q != num_p:
            raise NotImplementedError
    batch_shape = broadcast_shapes(q.batch_shape, p.batch_shape)
    # torch's divergence of two Bernoulli distributions does not broadcast
    divergence = kl_divergence(_expanded(q, batch_shape), _expanded(p, batch_shape))
    if not masked and _weighed_alike(model_site, guide_site):
        return _weighed(-divergence, model_site), None
    entropy = q.entropy()
    if not masked:
        return _weighed(-divergence - entropy, model_site), _weighed(entropy, guide_site)
    of_model = _summed_and_masked(-divergence - entropy, model_site["fn"])
    of_guide = _summed_and_masked(entropy, guide_site["fn"])
    return _weighed(of_model, model_site), _weighed(of_guide, guide_site)


def _expanded(fn: Any, batch_shape: torch.Size) -> Any:
    return fn if fn.batch_shape == batch_shape else fn.expand(batch_shape)


def _weighed_alike(model_site: Any, guide_site: Any) -> bool:
    """Return whether log p and log q of a site count alike: in the same plates, with one scale and one mask."""
    return (
        plates_of(model_site) == plates_of(guide_site)
        and _same(model_site["scale"], guide_site["scale"])
        and _same(model_site["mask"], guide_site["mask"])
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b  # tensors that are merely equal are not compared: that would wait for the device
    return bool(a == b)


def _weighed(term: Tensor, site: Any) -> Tensor:
    result: Tensor = scale_and_mask(term, site["scale"], site["mask"])
    return result


def _summed_and_masked(term: Tensor, fn: Any) -> Tensor:
    """Do to the terms of single elements what the ``.to_event`` and ``.mask`` of a distribution do to its log_prob."""
    if isinstance(fn, Independent):
        inner: Tensor = sum_rightmost(_summed_and_masked(term, fn.base_dist), fn.reinterpreted_batch_ndims)
        return inner
    if isinstance(fn, MaskedDistribution):
        inner = scale_and_mask(_summed_and_masked(term, fn.base_dist), mask=fn._mask)
        return inner
    return term


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
