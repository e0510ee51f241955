"""What a model must be to have an evidence that can be estimated: checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ext.inference._traces import Site, unwrapped

__all__ = ["PriorCheck", "check_finite", "check_sites"]


class PriorCheck(Messenger):
    """Raises ValueError where a latent site has no density that could be integrated."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        name, fn = msg["name"], unwrapped(msg["fn"])
        if isinstance(fn, dist.ImproperUniform):
            raise ValueError(f"latent site {name!r} has an improper prior, so no evidence: give it a proper law")
        if isinstance(fn, dist.Delta):
            raise ValueError(f"latent site {name!r} is a Delta, which has no density: use pyro.deterministic")
        if getattr(fn.support, "is_discrete", False):
            raise ValueError(
                f"latent site {name!r} is discrete, and evidence is estimated for continuous latents: sum it out "
                "in the model, for instance by a mixture"
            )


def check_sites(sites: Mapping[str, Site]) -> None:
    """Raise ValueError if a model has no latent or no observed sites, or subsamples its data.

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


def check_finite(log_likelihood: Tensor, log_prior: Tensor) -> None:
    """Raise ValueError unless log-densities are below infinity, and numbers."""
    for label, value in (("likelihood", log_likelihood), ("prior density", log_prior)):
        wrong = value.isnan() | (value == float("inf"))
        if wrong.any():
            raise ValueError(
                f"the log-{label} of the model is {value[wrong][0]:g} at a draw from its prior: "
                "check its data and the supports of its priors"
            )
