"""What a model must be to have an evidence that can be estimated: checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._traces import Site

__all__ = ["PriorCheck", "check_finite", "check_sites"]


class PriorCheck(Messenger):
    """Raises ValueError where a latent site has no density that could be integrated.

    Attributes:
        problem: what is wrong, without what Pyro adds to the errors raised in a model; None while nothing is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        name, fn = msg["name"], unwrap(msg["fn"]).base
        if isinstance(fn, dist.ImproperUniform):
            self.problem = f"latent site {name!r} has an improper prior, so no evidence: give it a proper law"
        elif isinstance(fn, dist.Delta):
            self.problem = f"latent site {name!r} is a Delta, which has no density: use pyro.deterministic"
        elif getattr(fn.support, "is_discrete", False):
            self.problem = (
                f"latent site {name!r} is discrete, and evidence is estimated for continuous latents: sum it out "
                "in the model, for instance by a mixture"
            )
        if self.problem is not None:
            raise ValueError(self.problem)


def check_sites(sites: Mapping[str, Site]) -> None:
    """Raise ValueError if a model has no latent or no observed sites, subsamples its data, or alters a prior.

    Args:
        sites: the sample sites of a run of the model.
    """
    if all(site["is_observed"] for site in sites.values()):
        raise ValueError("the model has no latent sites: its evidence is its likelihood")
    if not any(site["is_observed"] for site in sites.values()):
        raise ValueError("the model has no observed sites: pass the data with obs=, or condition the model")
    for frame in {f for site in sites.values() for f in site["cond_indep_stack"]}:
        if frame.full_size not in (None, frame.size):
            raise ValueError(
                f"plate {frame.name!r} subsamples {frame.size} of {frame.full_size} data, but evidence is that of all: "
                "call the model without subsampling"
            )
    for name, site in sites.items():
        if not site["is_observed"]:
            _check_whole(name, site)


def _check_whole(name: str, site: Site) -> None:
    """Raise ValueError if the density of a latent site is masked or scaled, so that it does not integrate to 1."""
    masks, fn = [site["mask"]], site["fn"]
    while hasattr(fn, "base_dist"):
        masks.append(getattr(fn, "_mask", None))
        fn = fn.base_dist
    if any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks):
        raise ValueError(
            f"latent site {name!r} is masked, which leaves it an improper prior, so no evidence: mask observed sites "
            "only, and leave latents out of the model that nothing depends on"
        )
    if not bool((torch.as_tensor(site["scale"]) == 1).all()):
        raise ValueError(
            f"latent site {name!r} is scaled, so that its prior does not integrate to 1: scale observed sites only"
        )


def check_finite(log_likelihood: Tensor, log_prior: Tensor) -> None:
    """Raise ValueError unless log-densities are below infinity, and numbers."""
    for label, value in (("likelihood", log_likelihood), ("prior density", log_prior)):
        wrong = value.isnan() | (value == float("inf"))
        if wrong.any():
            raise ValueError(
                f"the log-{label} of the model is {value[wrong][0]:g} at a draw from its prior: "
                "check its data and the supports of its priors"
            )
