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
        name, fn = msg["name"], unwrap(msg["fn"]).base
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
        if self.problem is not None:
            raise ValueError(self.problem)


def check_sites(sites: Mapping[str, Site]) -> None:
    """Raise a ValueError if a model has no latent or no observed sites, subsamples its data, or alters a prior.

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
                f"plate {frame.name!r} subsamples {frame.size} of {frame.full_size} data, but the evidence is "
                "that of all data: call the model without subsampling"
            )
    for name, site in sites.items():
        if not site["is_observed"]:
            _check_whole(name, site)


def _check_whole(name: str, site: Site) -> None:
    """Raise a ValueError if the density of a latent site is masked or scaled, so that it does not integrate to 1."""
    masks = [site["mask"], *masks_of(site["fn"])]
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
