"""The map between the values of all latent sites and unconstrained vectors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import (
    ComposeTransform,
    Independent,
    IndependentTransform,
    Transform,
    TransformedDistribution,
    biject_to,
    constraints,
)

from pyro_ext.inference._traces import Site

__all__ = ["Coordinates", "DependentSites", "bijection_to"]


class DependentSites(Protocol):
    """Runs of a model at which the supports of some sites are known only when other sites have their values."""

    def constrain(self, values: Mapping[str, Tensor], free: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return value and log-Jacobian of each site of ``free``, given the values of all other sites."""

    def unconstrain(self, values: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """Return the unconstrained vectors of some sites, given the values of all sites."""


def bijection_to(fn: Any) -> Transform:
    """Return the bijection from unconstrained vectors to the values of a distribution.

    It is that of :func:`torch.distributions.biject_to` to the support. A transformed distribution names the codomain
    of its last transform as its support, which may be too large, such as all real numbers for a shifted exponential
    distribution; its bijection is composed of that of its base and its transforms.

    Args:
        fn: a distribution.

    Raises:
        NotImplementedError: if there is no bijection to the support.

    Example:
        >>> shifted = dist.TransformedDistribution(dist.Exponential(1.0), [dist.transforms.AffineTransform(3.0, 1.0)])
        >>> bijection_to(shifted)(torch.tensor(0.0))
        tensor(4.)
    """
    if isinstance(fn, Independent):
        return IndependentTransform(bijection_to(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return bijection_to(fn.base_dist)
    own_support = getattr(type(fn), "support", None) is not TransformedDistribution.support
    if own_support or not isinstance(fn, TransformedDistribution) or _is_real(fn.base_dist.support):
        return biject_to(fn.support)
    return ComposeTransform([bijection_to(fn.base_dist), *fn.transforms])


class _SiteCoordinates:
    """The map between the values of one latent site and unconstrained vectors.

    Args:
        name: the name of the site.
        fn: the distribution of the site, of which only the support is used.
        value: a value of the site.
        kept: which elements of the batch shape are latent; None for all. The others keep their values.
    """

    def __init__(self, name: str, fn: Any, value: Tensor, kept: Tensor | None) -> None:
        self.name, self.shape, self.dtype, self.support = name, value.shape, value.dtype, fn.support
        batch = value.shape[: value.dim() - fn.event_dim]
        self._batch, self._event = batch.numel(), value.shape[len(batch) :].numel()
        self._index = None if kept is None else kept.expand(batch).flatten().nonzero().squeeze(-1)
        self._fill = value.detach()
        elements = self._batch if self._index is None else len(self._index)
        self.num_elements = elements * self._event
        self.size, self.is_positive, self.transform = 0, False, biject_to(constraints.real)
        self.free_shape = value.shape
        if elements:
            self.transform = bijection_to(fn)
            self.free_shape = torch.Size(self.transform.inverse_shape(value.shape))
            self.size = elements * self.free_shape[len(batch) :].numel()
            self.is_positive = _is_positive(self.support) and _is_exp(self.transform)

    def spread(self, part: Tensor) -> Tensor:
        """Return the unconstrained values ``(P,)`` + ``free_shape``, given the coordinates ``(P, size)``."""
        full = self._spread(part.to(self.dtype), part.new_zeros((), dtype=self.dtype).expand(self.free_shape))
        return full.reshape((len(part), *self.free_shape))

    def gather(self, free: Tensor) -> Tensor:
        """Return the coordinates ``(P, size)`` of unconstrained values, or the latent elements of values."""
        flat = free.reshape(len(free), self._batch, -1)
        return (flat if self._index is None else flat[:, self._index]).flatten(1)

    def total(self, log_jacobian: Tensor) -> Tensor:
        """Return the sum over latent elements of log-Jacobians with leading dim P, ``(P,)``."""
        return self.gather(log_jacobian).sum(-1)

    def fill(self, part: Tensor) -> Tensor:
        """Return values ``(P,)`` + ``shape``, given the latent elements ``(P, num_elements)``."""
        return self._spread(part.to(self.dtype), self._fill).reshape((len(part), *self.shape))

    def _spread(self, part: Tensor, rest: Tensor) -> Tensor:
        if self._index is None:
            return part
        full = rest.reshape(1, self._batch, -1).expand(len(part), -1, -1)
        if not len(self._index):
            return full
        return full.index_copy(1, self._index, part.reshape(len(part), len(self._index), -1))


class Coordinates:
    r"""All latent sites as one vector: unconstrained as z in :math:`R^D`, constrained to their supports as x.

    Args:
        latents: the latent sites of a trace by name.
        partial: for sites of which only some elements are latent, these elements of their batch shape.
        dependent: the names of the sites whose support depends on the values of other sites.
        runs: the model, which gives the supports of dependent sites.

    Raises:
        ValueError: if a support has no bijection from unconstrained vectors, or nothing is latent.
    """

    def __init__(
        self,
        latents: Mapping[str, Site],
        partial: Mapping[str, Tensor] | None = None,
        dependent: list[str] | None = None,
        runs: DependentSites | None = None,
    ) -> None:
        self.sites: list[_SiteCoordinates] = []
        self._dependent, self._runs = dependent or [], runs
        for name, site in latents.items():
            try:
                kept = (partial or {}).get(name)
                self.sites.append(_SiteCoordinates(name, site["fn"], site["value"], kept))
            except NotImplementedError as error:
                raise ValueError(
                    f"the support of latent site {name!r}, {site['fn'].support}, has no bijection from unconstrained "
                    "vectors: register one with torch.distributions.biject_to, or choose another distribution"
                ) from error
        self.dtype = functools.reduce(torch.promote_types, [site.dtype for site in self.sites])
        self.device = next(iter(latents.values()))["value"].device
        self.dim = sum(site.size for site in self.sites)
        if not self.dim:
            raise ValueError("the model has no latent values: its evidence is its likelihood")

    def constrain(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the values of each site, ``(P,)`` + its shape, and log |dx/dz|, ``(P,)``.

        Args:
            z: unconstrained vectors, ``(P, D)``.
        """
        values, free, log_jacobian = {}, {}, z.new_zeros(len(z))
        for site, part in zip(self.sites, z.split([s.size for s in self.sites], -1), strict=True):
            if not site.size:
                values[site.name] = site.fill(part)
            elif site.name in self._dependent:
                free[site.name] = site.spread(part)
            else:
                full = site.spread(part)
                values[site.name] = site.transform(full)
                own = site.transform.log_abs_det_jacobian(full, values[site.name])
                log_jacobian = log_jacobian + site.total(own)
        if free:
            assert self._runs is not None
            found = self._runs.constrain(values, free)
            for site in self.sites:
                if site.name in found:
                    values[site.name], own = found[site.name]
                    log_jacobian = log_jacobian + site.total(own)
        return values, log_jacobian

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the unconstrained vectors ``(P, D)`` of values ``(P,)`` + the shape of each site."""
        found: Mapping[str, Tensor] = {}
        if self._dependent:
            assert self._runs is not None
            found = self._runs.unconstrain(values, self._dependent)
        parts = []
        for site in self.sites:
            if site.size:
                free = found[site.name] if site.name in found else site.transform.inv(values[site.name])
                parts.append(site.gather(free).to(self.dtype))
        return torch.cat(parts, -1)

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the constrained vectors x of values of each site, ``(P, number of elements)``."""
        return torch.cat([site.gather(values[site.name]).to(self.dtype) for site in self.sites], -1)

    def unflatten(self, x: Tensor) -> dict[str, Tensor]:
        """Return the values of each site, given constrained vectors x."""
        parts = x.split([site.num_elements for site in self.sites], -1)
        return {site.name: site.fill(part) for site, part in zip(self.sites, parts, strict=True)}

    def positive(self) -> Tensor:
        """Return which unconstrained coordinates are logarithms of positive numbers, bool ``(D,)``."""
        return torch.cat([torch.full((site.size,), site.is_positive) for site in self.sites])

    def name_of(self, index: int) -> str:
        """Return the name of the site to which an element of x belongs."""
        for site in self.sites:
            index -= site.num_elements
            if index < 0:
                return site.name
        raise IndexError(index)


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real))


def _is_exp(transform: Transform) -> bool:
    """Return whether a bijection from real to positive numbers is the exponential function."""
    z = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, device="cpu")
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    try:
        return bool(torch.allclose(transform(z).to(z), z.exp(), rtol=1e-5))
    except RuntimeError:  # parameters of other shapes or on another device
        return False


def _is_positive(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.positive or support is constraints.nonnegative:
        return True
    kinds = (type(constraints.positive), type(constraints.greater_than_eq(0)))
    return isinstance(support, kinds) and not isinstance(support.lower_bound, Tensor) and support.lower_bound == 0
