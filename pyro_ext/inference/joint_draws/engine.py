"""The ELBO whose discrete guide sites hold n joint draws along one dim, shared by all of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ext.inference._programs import ProgramWatch
from pyro_ext.inference._traces import (
    Plates,
    Site,
    Term,
    has_score,
    log_weight_terms,
    plate_nesting,
    plates_of,
    refuse_guide_messenger,
    sample_sites,
    sum_to,
    total,
)
from pyro_ext.inference.elbo import DifferentiableELBO, ModelOrGuide, checked_loss, value_with_gradient_of
from pyro_ext.utils.checks import positive_int

__all__ = ["Costs", "JointDrawsELBO", "Programs", "varies"]

_DRAWS = (
    "the joint draws, an extra dim on the left of every value",
    "Write it so that it does, or use TraceLeaveOneOut_ELBO(vectorize_samples=False), which runs it once per sample",
)


class JointDrawsELBO(DifferentiableELBO, Trace_ELBO):
    """An ELBO that evaluates n joint draws of all discrete guide sites in one run of guide and model.

    The draws lie along one dim to the left of all plates. Subclasses say how a site is drawn, and which gradient its
    parameters get from the n evaluations; everything else gets the mean of the n pathwise gradients.

    Args:
        num_samples: the number n of draws, at least 2.
        num_particles: the number of independent sets of n draws averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the particles are one outermost plate or repeated runs.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_samples`` is not an integer of at least 2, or ``num_particles`` not a positive integer.
    """

    _get_trace: Callable[..., Any]

    def __init__(
        self,
        num_samples: int,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles, **kwargs)
        self.num_samples = positive_int("num_samples", num_samples, minimum=2)

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative ELBO, averaged over the draws; its gradient is the estimator.

        Raises:
            NotImplementedError: naming a guide site that the estimator does not take, or a model site to be summed
                out; if the guide is a ``GuideMessenger``.
            ValueError: if a latent model site is absent from the guide, or a program does not broadcast over the draws.
        """
        refuse_guide_messenger(guide, self)
        nesting = plate_nesting(self, model, guide, args, kwargs)
        repeats, watch = self.num_particles, ProgramWatch(model, guide, *_DRAWS)
        model, guide = watch.model, watch.guide
        if self.vectorize_particles:
            model, guide = self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
            repeats = 1
        programs = Programs(model, guide, args, kwargs)
        drawing = _JointDraws(nesting, self._draw)(guide)
        with watch.explaining(args, kwargs):
            traces = [self._get_trace(self._seen(model), drawing, args, kwargs) for _ in range(repeats)]
        losses = [self._loss(model_trace, guide_trace, nesting, programs) for model_trace, guide_trace in traces]
        return checked_loss(total(losses) / self.num_particles, traces)

    def _loss(self, model_trace: Any, guide_trace: Any, nesting: int, programs: Programs) -> Tensor:
        """Return the negative ELBO of a pair of a model and a guide trace, summed over vectorised particles."""
        sites = {name: site for name, site in sample_sites(guide_trace).items() if has_score(site)}
        for site in sites.values():
            self._check(site)
        terms = log_weight_terms(model_trace, guide_trace)
        value = total(self._mean(term.value.detach(), nesting) for term in terms)
        if not torch.is_grad_enabled():
            return -value
        surrogates = [self._mean(term.surrogate, nesting) for term in terms if term.surrogate is not None]
        surrogates += self._surrogates(sites, Costs(terms, nesting, self.num_samples), guide_trace, programs)
        return value_with_gradient_of(-value, -total(surrogates))

    def _mean(self, x: Tensor, nesting: int) -> Tensor:
        """Sum over plates and average over the draws; what does not vary over the draws counts once."""
        return x.sum() / self.num_samples if varies(x, nesting, self.num_samples) else x.sum()

    def _check(self, site: Site) -> None:
        """Raise NotImplementedError for a guide site that needs a score and that the estimator does not take."""

    def _seen(self, model: ModelOrGuide) -> ModelOrGuide:
        """Return the model as it is run on the draws."""
        return model

    @abstractmethod
    def _draw(self, name: str, fn: Any, nesting: int) -> tuple[Any, Tensor] | None:
        """Return the distribution of a latent site and n draws, ``(n,) + batch_shape + event_shape``.

        None for a site that is not touched.
        """

    @abstractmethod
    def _surrogates(self, sites: dict[str, Site], costs: Costs, guide_trace: Any, programs: Programs) -> list[Tensor]:
        """Return scalars whose gradients are the estimates for the parameters of the sites that need a score."""


class Programs(NamedTuple):
    """A model and a guide as they are run, and their arguments."""

    model: ModelOrGuide
    guide: ModelOrGuide
    args: Any
    kwargs: Any


def varies(x: Tensor, nesting: int, num_samples: int) -> bool:
    """Return whether a tensor whose rightmost ``nesting`` dims are plates has the dim of the draws."""
    return x.dim() > nesting and x.shape[-1 - nesting] == num_samples


class Costs:
    """The summands of the log weight that vary over the n draws, in float64.

    Args:
        terms: the summands.
        nesting: the number of plate dims.
        num_samples: the number n of draws.
    """

    def __init__(self, terms: list[Term], nesting: int, num_samples: int) -> None:
        self.nesting = nesting
        self.num_samples = num_samples
        self.terms = [term for term in terms if varies(term.value, nesting, num_samples)]
        self._by_plates: dict[bool, dict[Plates, Tensor]] = {}

    def of(self, site: Site, compared: bool = True) -> Tensor | None:
        """Return the costs that the plates of a site allow it to influence, ``(n,) + plate dims``; None without any.

        Args:
            site: the site.
            compared: whether only differences between draws matter: what all have in common is then left out, so that
                values impossible in all draws make no difference.
        """
        plates = plates_of(site)
        costs = self._summed(compared)
        summed = [sum_to(cost, plates & of_cost, self.nesting) for of_cost, cost in costs.items()]
        return total(summed) if summed else None

    def _summed(self, compared: bool) -> dict[Plates, Tensor]:
        """Return the sum of the costs in each set of plates."""
        if compared not in self._by_plates:
            costs: dict[Plates, Tensor] = {}
            for term in self.terms:
                value = term.value.detach().double()
                if compared:
                    value = value.masked_fill((value == value[:1]).all(0), 0.0)
                costs[term.plates] = costs[term.plates] + value if term.plates in costs else value
            self._by_plates[compared] = costs
        return self._by_plates[compared]


class _JointDraws(Messenger):
    """Draws sites of a guide n times, along one dim left of all plates.

    Other sites are left alone: what is computed from the draws gets the dim by broadcasting, and what is not is drawn
    once and shared by all of them.

    Args:
        nesting: the number of plate dims; the dim of the draws is the next one to the left.
        draw: a function of name, distribution and ``nesting`` that returns distribution and draws of a site, or None.
    """

    def __init__(self, nesting: int, draw: Callable[[str, Any, int], tuple[Any, Tensor] | None]) -> None:
        super().__init__()
        self._nesting = nesting
        self._draw = draw

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or site_is_subsample(msg):
            return
        drawn = self._draw(msg["name"], msg["fn"], self._nesting)
        if drawn is None:
            return
        msg["fn"], value = drawn
        padding = (1,) * (self._nesting - len(msg["fn"].batch_shape))
        msg["value"], msg["done"] = value.reshape(value.shape[:1] + padding + value.shape[1:]), True
