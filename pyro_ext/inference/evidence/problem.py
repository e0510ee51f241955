"""The interface of the estimators to a model: densities at unconstrained vectors, in batches, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.evidence.coordinates import Coordinates
from pyro_ext.inference.evidence.runs import ModelRuns

__all__ = ["Densities", "Problem"]

_REDRAWS = 100


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
        self.coordinates = Coordinates(self._runs.latents, self._runs.partial, self._runs.dependent, self._runs)
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
        z = self.coordinates.unconstrain(self.prior_draws(size))
        for _ in range(_REDRAWS):
            rounded = ~z.isfinite().all(-1)  # values that rounding has put on the boundary of their support
            if not rounded.any():
                return z
            z[rounded] = self.coordinates.unconstrain(self.prior_draws(int(rounded.sum())))
        raise ValueError("draws from the prior lie on the boundary of their support: use float64, or another prior")

    def guide_draws(self, guide: ModelOrGuide, size: int) -> tuple[dict[str, Tensor], Tensor]:
        """Return draws from a guide by site, and the log-density of each.

        Raises:
            ValueError: if the guide lacks a latent site, or only some elements of a site are latent.
        """
        for name in self._runs.partial:
            raise ValueError(
                f"a guide has a density for all elements of {name!r}, of which only those where obs_mask is false are "
                "latent: leave guide out, or choose a method without one, such as bridge or stepping_stone"
            )
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
        """Raise a ValueError if values of a site lie outside of the support that its distribution names."""
        values = self.prior_draws(32)
        back, _ = self.coordinates.constrain(self.coordinates.unconstrain(values))
        for site in self.coordinates.sites:
            name, value, back_value = site.name, site.gather(values[site.name]), site.gather(back[site.name])
            if not site.size:
                continue
            if not torch.allclose(back_value, value, rtol=1e-3, atol=1e-3 * float(value.abs().max())):
                raise ValueError(
                    f"values of latent site {name!r} are lost when they are mapped to unconstrained vectors and back "
                    f"({float(value.flatten()[0]):.6g} to {float(back_value.flatten()[0]):.6g}), so that the support "
                    "of its distribution does not hold its values: sample it within a fixed support, and transform "
                    "the value"
                )


def _join(parts: list[Densities]) -> Densities:
    return parts[0] if len(parts) == 1 else Densities(*(torch.cat(column) for column in zip(*parts, strict=True)))
