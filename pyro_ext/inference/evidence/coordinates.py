"""The latent sites of a model laid out as one vector, constrained or unconstrained."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

__all__ = ["Coordinates", "SiteCoordinates"]


class SiteCoordinates:
    """One latent site: how its values map to unconstrained vectors.

    Args:
        name: the name of the site.
        fn: its distribution, of which only the support counts.
        value: a value.
    """

    def __init__(self, name: str, fn: Any, value: Tensor) -> None:
        self.name, self.shape, self.dtype = name, value.shape, value.dtype
        self.support = fn.support
        self.transform = biject_to(self.support)
        self.free_shape = torch.Size(self.transform.inverse_shape(value.shape))
        self.is_positive = _is_positive(self.support)


class Coordinates:
    r"""All latent sites as one vector: z in :math:`R^D`, and x, the same values within their supports.

    Args:
        latents: site name -> traced site.

    Raises:
        ValueError: if a support has no bijection from unconstrained vectors.
    """

    def __init__(self, latents: Mapping[str, dict[str, Any]]) -> None:
        self.sites: list[SiteCoordinates] = []
        for name, site in latents.items():
            try:
                self.sites.append(SiteCoordinates(name, site["fn"], site["value"]))
            except NotImplementedError as error:
                raise ValueError(
                    f"the support of latent site {name!r}, {site['fn'].support}, has no bijection from unconstrained "
                    "vectors: register one with torch.distributions.biject_to, or choose another law"
                ) from error
        self.dtype = functools.reduce(torch.promote_types, [site.dtype for site in self.sites])
        self.device = next(iter(latents.values()))["value"].device
        self.dim = sum(site.free_shape.numel() for site in self.sites)

    def constrain(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the values of each site, ``(P,)`` + its shape, and log |dx/dz|, ``(P,)``.

        Args:
            z: unconstrained vectors, ``(P, D)``.
        """
        values, log_jacobian = {}, z.new_zeros(len(z))
        for site, part in zip(self.sites, self._split(z, [s.free_shape for s in self.sites]), strict=True):
            part = part.to(site.dtype)
            value = site.transform(part)
            log_jacobian = log_jacobian + site.transform.log_abs_det_jacobian(part, value).reshape(len(z), -1).sum(-1)
            values[site.name] = value
        return values, log_jacobian

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the unconstrained vectors ``(P, D)`` of values ``(P,)`` + the shape of each site."""
        parts = [site.transform.inv(values[site.name]) for site in self.sites]
        return torch.cat([part.reshape(len(part), -1).to(self.dtype) for part in parts], -1)

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the constrained vectors x, ``(P, number of elements)``."""
        parts = [values[site.name] for site in self.sites]
        return torch.cat([part.reshape(len(part), -1).to(self.dtype) for part in parts], -1)

    def unflatten(self, x: Tensor) -> dict[str, Tensor]:
        """Return the values of each site in constrained vectors x."""
        parts = self._split(x, [site.shape for site in self.sites])
        return {site.name: part.to(site.dtype) for site, part in zip(self.sites, parts, strict=True)}

    def positive(self) -> Tensor:
        """Return which unconstrained coordinates are logarithms of positive numbers, bool ``(D,)``."""
        return torch.cat([torch.full((site.free_shape.numel(),), site.is_positive) for site in self.sites])

    def name_of(self, index: int) -> str:
        """Return the name of the site to which an element of x belongs."""
        for site in self.sites:
            index -= site.shape.numel()
            if index < 0:
                return site.name
        raise IndexError(index)

    def _split(self, flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
        parts = flat.split([shape.numel() for shape in shapes], -1)
        return [part.reshape((len(flat), *shape)) for part, shape in zip(parts, shapes, strict=True)]


def _is_positive(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.positive or support is constraints.nonnegative:
        return True
    kinds = (type(constraints.positive), type(constraints.greater_than_eq(0)))
    return isinstance(support, kinds) and not isinstance(support.lower_bound, Tensor) and support.lower_bound == 0
