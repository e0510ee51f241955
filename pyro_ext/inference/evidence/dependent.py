"""Latent sites whose support depends on the values of other sites: their bijections at the values of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ext.inference._traces import Site
from pyro_ext.inference.evidence.coordinates import bijection_to

__all__ = ["Constrain", "Unconstrain", "same_bijection"]

_PROBE = 0.3  # the unconstrained value at which bijections are compared


class Constrain(Messenger):
    """Gives sites the values that belong to unconstrained ones, by the bijections to the supports that they have then.

    Args:
        free: unconstrained values by the name of the site.

    Attributes:
        found: value and log-Jacobian by the name of the site.
    """

    def __init__(self, free: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._free = free
        self.found: dict[str, tuple[Tensor, Tensor]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self._free:
            return
        transform, free = bijection_to(msg["fn"]), self._free[name]
        value = transform(free)
        self.found[name] = value, transform.log_abs_det_jacobian(free, value)
        msg["value"], msg["is_observed"] = value, True


class Unconstrain(Messenger):
    """Notes the unconstrained values of sites, by the bijections to the supports that they have in a run.

    Args:
        names: the names of the sites.

    Attributes:
        found: unconstrained values by the name of the site.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names
        self.found: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._names:
            self.found[msg["name"]] = bijection_to(msg["fn"]).inv(msg["value"])


def same_bijection(a: Site, b: Site) -> bool:
    """Return whether a site has the same bijection from unconstrained vectors in two runs of a model.

    Args:
        a: the site in one run.
        b: the site in the other run.
    """
    if a["value"].shape != b["value"].shape:
        return False
    try:
        first, second = bijection_to(a["fn"]), bijection_to(b["fn"])
    except NotImplementedError:  # there is none in one of the runs: not a matter of dependence
        return True
    shape = first.inverse_shape(a["value"].shape)
    if shape != second.inverse_shape(a["value"].shape):
        return False
    probe = a["value"].new_full(shape, _PROBE)
    return torch.equal(first(probe), second(probe))
