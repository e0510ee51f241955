"""The slopes of costs at the means of discrete sites, by a run of guide and model at these means."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._traces import Site, has_score, plates_of, sample_sites, subsampling_scale, total
from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.linear_one_hots import LinearOneHots, linear_one_hot

__all__ = ["slopes_at_means"]


def slopes_at_means(
    wanted: dict[str, Any],
    model: ModelOrGuide,
    guide: ModelOrGuide,
    guide_trace: Any,
    args: Any,
    kwargs: Any,
    nesting: int,
    reached: set[str],
) -> dict[str, Tensor]:
    """Return the derivatives of the costs at the means of some sites, by one more run of guide and model.

    Args:
        wanted: the distributions of these sites by name.
        model: the model.
        guide: the guide.
        guide_trace: the trace of the guide with the draws.
        args: the positional arguments of model and guide.
        kwargs: the keyword arguments of model and guide.
        nesting: the number of plate dims.
        reached: the sites on whose values other costs than their own depend.

    Raises:
        ValueError: naming the site, if a cost that it reaches has no derivative.
    """
    at_means = _AtMeans(wanted, guide_trace, nesting)
    with torch.enable_grad(), pyro.validation_enabled(False):
        relaxed = poutine.trace(at_means(guide)).get_trace(*args, **kwargs)
        replayed = poutine.trace(poutine.replay(LinearOneHots()(model), trace=relaxed)).get_trace(*args, **kwargs)
        leaves = at_means.leaves
        costs: dict[tuple[str, str], Tensor] = {}
        for role, sign, trace in (("model", 1, replayed), ("guide", -1, relaxed)):
            trace.compute_log_prob()
            costs |= {(role, name): sign * site["log_prob"].sum() for name, site in sample_sites(trace).items()}
        slopes = {}
        for name, leaf in leaves.items():
            own = _slope(leaf, [cost for (_, site), cost in costs.items() if site == name])
            others = _slope(leaf, [cost for (_, site), cost in costs.items() if site != name])
            if others is None and name in reached:
                raise ValueError(
                    f"control_variate='mean' of site {name!r}: no cost but its own has a derivative in its values, "
                    "which a program that indexes by them does not give; compute with the values themselves, or use "
                    "control_variate='linear'"
                )
            slope = total([torch.zeros_like(leaf), *(g for g in (own, others) if g is not None)])
            scale = subsampling_scale(plates_of(guide_trace.nodes[name]))
            slopes[name] = torch.where(slope.isfinite(), slope, 0.0).detach() / scale
    return slopes


def _slope(leaf: Tensor, costs: list[Tensor]) -> Tensor | None:
    summed = total(costs)
    if not summed.requires_grad:
        return None
    (slope,) = torch.autograd.grad(summed, leaf, retain_graph=True, allow_unused=True)
    result: Tensor | None = slope
    return result


class _AtMeans(Messenger):
    """Runs a guide at the means of some sites, with reparameterised sites that depend on no draw as they were.

    Where a site has one plain draw, without a dim of its own, nothing shows what depends on it: all is drawn anew.
    """

    def __init__(self, wanted: dict[str, Any], guide_trace: Any, nesting: int) -> None:
        super().__init__()
        self._wanted, self._trace, self._nesting = wanted, guide_trace, nesting
        self._keep = not any(self._plain(site) for site in sample_sites(guide_trace).values() if has_score(site))
        self.leaves: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if msg["done"] or msg["is_observed"]:
            return
        if name in self._wanted:
            msg["fn"] = linear_one_hot(fn)
            self.leaves[name] = unwrap(fn).base.probs.detach().clone().requires_grad_()
            msg["value"], msg["done"] = self.leaves[name], True
        elif self._keep and msg["value"] is None and name in self._trace.nodes and getattr(fn, "has_rsample", False):
            if self._plain(self._trace.nodes[name]):
                msg["value"], msg["done"] = self._trace.nodes[name]["value"].detach(), True

    def _plain(self, site: Site) -> bool:
        """Return whether the value of a site has no dims on the left of the plates."""
        return bool(site["value"].dim() - site["fn"].event_dim <= self._nesting)
