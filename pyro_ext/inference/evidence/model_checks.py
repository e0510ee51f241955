"""Checks that the evidence of a model can be estimated: proper continuous priors, observed data, no subsampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ext.distributions.structure import masks_of, unwrap
from pyro_ext.inference._traces import Site

__all__ = ["PriorCheck", "check_finite", "check_sites"]

_UNOBSERVED = "_unobserved"  # what Pyro adds to the name of a site with obs_mask


class PriorCheck(Messenger):
    """Raises a ValueError if a latent site is discrete, or its prior improper or degenerate.

    Attributes:
        problem: the message of the error, without the lines that Pyro adds to errors in a model; None if there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        name, fn, mask = msg["name"], unwrap(msg["fn"]).base, msg["mask"]
        if name.endswith(_UNOBSERVED) and isinstance(mask, Tensor) and not mask.any():
            return  # no value is missing
        if isinstance(fn, dist.ImproperUniform):
            self.problem = (
                f"latent site {name!r} has an improper prior, so that there is no evidence: give it a proper one"
            )
        elif isinstance(fn, dist.Delta):
            self.problem = f"latent site {name!r} is a Delta, which has no density: use pyro.deterministic"
        elif getattr(fn.support, "is_discrete", False):
            self.problem = (
                f"latent site {name!r} is discrete, and evidence is estimated for continuous latents: sum it out "
                "in the model, for instance by a mixture distribution"
            )
            if name.endswith(_UNOBSERVED):
                self.problem += "; if nothing depends on missing values, leave them out by .mask instead of obs_mask"
        if self.problem is not None:
            raise ValueError(self.problem)


def check_sites(sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """Raise a ValueError if a model has no latent or no observed sites, subsamples its data, or alters a prior.

    Args:
        sites: the sample sites of a run of the model.

    Returns:
        By the name of each site that holds the missing values of a site with ``obs_mask``, which elements of its batch
        shape are missing.
    """
    if all(site["is_observed"] for site in sites.values()):
        raise ValueError("the model has no latent sites: its evidence is its likelihood")
    if not any(site["is_observed"] for site in sites.values()):
        raise ValueError("the model has no observed sites: pass the data with obs=, or condition the model")
    for frame in {f for site in sites.values() for f in site["cond_indep_stack"]}:
        if frame.full_size not in (None, frame.size):
            raise ValueError(
                f"plate {frame.name!r} subsamples {frame.size} of {frame.full_size} data, but the evidence is "
                "that of all data: call the model without subsampling"
            )
    partial = {}
    for name, site in sites.items():
        if not site["is_observed"]:
            missing = _missing_values(name, sites)
            if missing is not None:
                partial[name] = missing
            _check_whole(name, site, [] if missing is not None else [site["mask"]])
    return partial


def _missing_values(name: str, sites: Mapping[str, Site]) -> Tensor | None:
    """Return which elements of a latent site are missing values of a site with ``obs_mask``; None if it has none.

    Pyro makes three sites of such a site: one of the observed values, one of the missing values, each masked, and their
    combination, which takes no masked element of either. So nothing depends on the masked elements.
    """
    other = sites.get(name.removesuffix(_UNOBSERVED) + "_observed") if name.endswith(_UNOBSERVED) else None
    if other is None or not other["is_observed"]:
        return None
    mask, known = sites[name]["mask"], other["mask"]
    if not isinstance(mask, Tensor) or not isinstance(known, Tensor) or not (mask ^ known).all():
        return None
    return mask.expand(sites[name]["fn"].batch_shape)


def _check_whole(name: str, site: Site, masks: list[Any]) -> None:
    """Raise a ValueError if the density of a latent site is masked or scaled, so that it does not integrate to 1."""
    masks = [*masks, *masks_of(site["fn"])]
    if any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks):
        raise ValueError(
            f"latent site {name!r} is masked, which leaves it an improper prior, so that there is no evidence: mask "
            "observed sites only, and remove latent sites that nothing depends on"
        )
    if not bool((torch.as_tensor(site["scale"]) == 1).all()):
        raise ValueError(
            f"latent site {name!r} is scaled, so that its prior does not integrate to 1: scale observed sites only"
        )


def check_finite(log_likelihood: Tensor, log_prior: Tensor) -> None:
    """Raise a ValueError if a log-density is plus infinity or not a number."""
    for label, value in (("likelihood", log_likelihood), ("prior density", log_prior)):
        wrong = value.isnan() | (value == float("inf"))
        if wrong.any():
            raise ValueError(
                f"the log-{label} of the model is {value[wrong][0]:g} at a draw from its prior: "
                "check its data and the supports of its priors"
            )
