"""The interface of the estimators to a model: densities at unconstrained vectors, in batches, and their gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.evidence.runs import ModelRuns

__all__ = ["Coordinates", "Densities", "Problem"]

_PRIOR_DRAWS = 1000


class _SiteCoordinates:
    """The map between the values of one latent site and unconstrained vectors.

    Args:
        name: the name of the site.
        fn: the distribution of the site, of which only the support is used.
        value: a value of the site.
    """

    def __init__(self, name: str, fn: Any, value: Tensor) -> None:
        self.name, self.shape, self.dtype = name, value.shape, value.dtype
        self.support = fn.support
        self.transform = biject_to(self.support)
        self.free_shape = torch.Size(self.transform.inverse_shape(value.shape))
        self.is_positive = _is_positive(self.support)


class Coordinates:
    r"""All latent sites as one vector: unconstrained as z in :math:`R^D`, constrained to their supports as x.

    Args:
        latents: the latent sites of a trace by name.

    Raises:
        ValueError: if a support has no bijection from unconstrained vectors.
    """

    def __init__(self, latents: Mapping[str, dict[str, Any]]) -> None:
        self.sites: list[_SiteCoordinates] = []
        for name, site in latents.items():
            try:
                self.sites.append(_SiteCoordinates(name, site["fn"], site["value"]))
            except NotImplementedError as error:
                raise ValueError(
                    f"the support of latent site {name!r}, {site['fn'].support}, has no bijection from unconstrained "
                    "vectors: register one with torch.distributions.biject_to, or choose another distribution"
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
        """Return the constrained vectors x of values of each site, ``(P, number of elements)``."""
        parts = [values[site.name] for site in self.sites]
        return torch.cat([part.reshape(len(part), -1).to(self.dtype) for part in parts], -1)

    def unflatten(self, x: Tensor) -> dict[str, Tensor]:
        """Return the values of each site, given constrained vectors x."""
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


class Densities(NamedTuple):
    """Log-densities at P points, ``(P,)`` each.

    Attributes:
        log_likelihood: the log-likelihood of the data.
        log_prior: the log-density of the latent values under the prior.
        log_jacobian: log |dx/dz|; zero if the points are given as constrained values.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_jacobian: Tensor

    @property
    def log_joint(self) -> Tensor:
        """The log-density of data and unconstrained vector: its exponential integrates to the evidence."""
        return self.log_likelihood + self.log_prior + self.log_jacobian


Combine = Callable[[Densities, Tensor, slice], Tensor]


class Problem:
    r"""The evidence :math:`\int p(D \mid x) \, p(x) \, dx` of a Pyro model, with :math:`x = T(z)` unconstrained.

    Args:
        model: a Pyro model with continuous latents under proper priors; all observed sites, ``pyro.factor`` included,
            belong to the likelihood.
        args: positional arguments of the model.
        kwargs: keyword arguments of the model.
        vectorize: whether to run many particles at once; None tries, and compares the results with single runs.
        batch_size: the largest number of particles in one run of the model.

    Raises:
        ValueError: as in :class:`~pyro_ext.inference.evidence.runs.ModelRuns`.
    """

    def __init__(
        self,
        model: ModelOrGuide,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        vectorize: bool | None = None,
        batch_size: int = 512,
    ) -> None:
        self._runs = ModelRuns(model, args, kwargs or {}, vectorize)
        self.coordinates = Coordinates(self._runs.latents)
        self._batch_size = batch_size
        self.evaluations = 0
        self._check_supports()

    @property
    def dim(self) -> int:
        """The number D of unconstrained coordinates."""
        return self.coordinates.dim

    @property
    def device(self) -> torch.device:
        """The device of the latent values."""
        return self.coordinates.device

    @property
    def vectorized(self) -> bool:
        """Whether the model runs many particles at once."""
        return self._runs.vectorized

    def prior_draws(self, size: int) -> dict[str, Tensor]:
        """Return draws from the prior by site."""
        parts = [self._runs.prior_draws(s.stop - s.start) for s in self._slices(size)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def prior_points(self, size: int) -> Tensor:
        """Return draws from the prior, unconstrained, ``(size, D)``."""
        return self.coordinates.unconstrain(self.prior_draws(size))

    def prior_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and standard deviation of z under the prior, and a draw of large likelihood, ``(D,)`` each."""
        z = self.prior_points(_PRIOR_DRAWS)
        z = z[z.isfinite().all(-1)]
        densities = self.at(z[: _PRIOR_DRAWS // 4])
        best = densities.log_likelihood.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax()
        return z.mean(0), z.std(0), z[best]

    def guide_draws(self, guide: ModelOrGuide, size: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return draws from a guide by site, and the log-density of each."""
        parts = [self._runs.guide_draws(guide, s.stop - s.start) for s in self._slices(size)]
        return {n: torch.cat([p[0][n] for p in parts]) for n in parts[0][0]}, torch.cat([p[1] for p in parts])

    def at(self, z: Tensor) -> Densities:
        """Return the densities at unconstrained vectors ``(P, D)``, without gradients."""
        with torch.no_grad():
            return _join([self._densities(z[rows], self.coordinates.constrain) for rows in self._slices(len(z))])

    def at_values(self, values: Mapping[str, Tensor]) -> Densities:
        """Return the densities at P values of each site, without gradients; the Jacobian is left out."""
        x = self.coordinates.flatten(values)
        with torch.no_grad():
            return _join([self._densities(x[rows], self._without_jacobian) for rows in self._slices(len(x))])

    def units(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of each data unit, ``(P, U)``, and how often each occurs, ``(U,)``."""
        with torch.no_grad():
            parts = [self._runs.evaluate(self.coordinates.constrain(z[s])[0], units=True) for s in self._slices(len(z))]
        self.evaluations += len(z)
        weights = parts[0].unit_weights
        assert weights is not None
        return torch.cat([part.units for part in parts if part.units is not None]), weights

    def differentiate(self, z: Tensor, combine: Combine) -> tuple[Tensor, Tensor, Densities]:
        """Return a function of the densities at each of P points, ``(P,)``, its gradient ``(P, D)``, the densities.

        Args:
            z: unconstrained vectors, ``(P, D)``.
            combine: a function of densities, of the points that they belong to, and of the slice of ``z`` that these
                points are; it returns one number per point.
        """
        return self._differentiate(z, self.coordinates.constrain, combine)

    def differentiate_constrained(self, x: Tensor, combine: Combine) -> tuple[Tensor, Tensor, Densities]:
        """Return what :meth:`differentiate` does, for constrained vectors x and without the Jacobian term."""
        return self._differentiate(x, self._without_jacobian, combine)

    def _differentiate(self, points: Tensor, unpack: Any, combine: Combine) -> tuple[Tensor, Tensor, Densities]:
        values, gradients, densities = [], [], []
        for rows in self._slices(len(points)):
            leaf = points[rows].detach().requires_grad_()
            with torch.enable_grad():
                at_leaf = self._densities(leaf, unpack)
                value = combine(at_leaf, leaf, rows)
                gradients.append(torch.autograd.grad(value.sum(), leaf)[0])
            values.append(value.detach())
            densities.append(Densities(*(part.detach() for part in at_leaf)))
        return torch.cat(values), torch.cat(gradients), _join(densities)

    def _densities(self, points: Tensor, unpack: Any) -> Densities:
        values, log_jacobian = unpack(points)
        sites = self._runs.evaluate(values)
        self.evaluations += len(points)
        return Densities(sites.log_likelihood, sites.log_prior, log_jacobian)

    def _without_jacobian(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return self.coordinates.unflatten(x), x.new_zeros(len(x))

    def _slices(self, size: int) -> Iterator[slice]:
        return (slice(i, min(i + self._batch_size, size)) for i in range(0, size, self._batch_size))

    def _check_supports(self) -> None:
        """Raise a ValueError if the support of a site depends on the values of other sites."""
        values = self.prior_draws(32)
        back, _ = self.coordinates.constrain(self.coordinates.unconstrain(values))
        for name, value in values.items():
            if not torch.allclose(back[name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max())):
                raise ValueError(
                    f"the support of latent site {name!r} depends on other sites: "
                    "sample it within a fixed support, and transform the value"
                )


def _join(parts: list[Densities]) -> Densities:
    return parts[0] if len(parts) == 1 else Densities(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _is_positive(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.positive or support is constraints.nonnegative:
        return True
    kinds = (type(constraints.positive), type(constraints.greater_than_eq(0)))
    return isinstance(support, kinds) and not isinstance(support.lower_bound, Tensor) and support.lower_bound == 0
