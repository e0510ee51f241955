"""The interface that every ELBO of this package shares: one abstract loss, everything else derived."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_inf, warn_if_nan

from pyro_ext.utils.checks import positive_int

ModelOrGuide = Callable[..., Any]


class DifferentiableELBO(ELBO, torch.nn.Module):
    r"""An ELBO defined by a single method, :meth:`differentiable_loss`.

    The *value* of that method is the negative bound and its *gradient* is the estimator. ``loss`` and
    ``loss_and_grads`` follow from it, so one class serves :class:`pyro.infer.SVI`, ``elbo(model, guide)``
    modules, plain PyTorch optimisers and distributed training. It is also a :class:`torch.nn.Module`: whatever
    an estimator adapts (multipliers, moving averages) belongs to ``state_dict``, and changes in :meth:`after_step`
    alone, so that evaluating a loss changes nothing.

    Args:
        num_particles: the number of independent estimates averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the particles become one outermost plate instead of repeated runs.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_particles`` is not a positive integer, or ``max_plate_nesting`` is neither an integer of
            at least 0 nor infinity.
    """

    # set by pyro.infer.ELBO, which is untyped; torch.nn.Module would have every attribute a Tensor or a Module
    num_particles: int
    max_plate_nesting: float
    vectorize_particles: bool
    _guess_max_plate_nesting: Callable[..., None]
    _vectorized_num_particles: Callable[..., ModelOrGuide]

    def __init__(
        self,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **kwargs: Any,
    ) -> None:
        torch.nn.Module.__init__(self)
        super().__init__(
            num_particles=positive_int("num_particles", num_particles),
            max_plate_nesting=_nesting(max_plate_nesting),
            vectorize_particles=vectorize_particles,
            **kwargs,
        )

    @abstractmethod
    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the scalar negative bound; its ``backward()`` gives the gradient estimate."""

    def loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of the negative bound, without gradients."""
        with torch.no_grad():
            value = self.differentiable_loss(model, guide, *args, **kwargs)
        return float(torch_item(value))

    def loss_and_grads(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> float:
        """Return an estimate of the negative bound, add its gradient to every parameter's ``.grad``, and adapt."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        self.after_step()
        return float(torch_item(loss))

    def after_step(self) -> None:
        """Update what the ELBO itself adapts (multipliers, moving averages).

        Training calls it after each optimiser step.
        """

    def terms(self) -> dict[str, torch.Tensor]:
        """Return scalars of the last loss to note by name in ``metrics.csv``; by default there are none."""
        return {}


def _nesting(value: float) -> float:
    """Return a number of plate dims as an integer (command lines read it as a float), or infinity."""
    if value == math.inf:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ValueError(f"max_plate_nesting must be an integer of at least 0, or infinity to guess it, got {value!r}")
    return int(value)


class _ValueWithGradientOf(torch.autograd.Function):
    """Identity on ``value`` going forward, on ``surrogate`` going backward; exact even where both are infinite."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, grad


def value_with_gradient_of(value: torch.Tensor, surrogate: torch.Tensor) -> torch.Tensor:
    """Return a scalar that equals ``value`` and whose gradient is that of ``surrogate`` (both of shape ``()``)."""
    if not surrogate.requires_grad:
        return value.detach()
    return _ValueWithGradientOf.apply(value.detach(), surrogate)


def checked_loss(loss: torch.Tensor, traces: Iterable[tuple[Any, Any]] = ()) -> torch.Tensor:
    """Return ``loss``, with Pyro's warning where it is infinite or not a number.

    Args:
        loss: the loss, ``()``.
        traces: the pairs of model and guide traces it was computed from; the warning names the sites of theirs whose
            log-probability is not finite.
    """
    value = loss.detach()
    if not value.isfinite():  # the one look at the loss: each of the warnings takes one of its own
        message = "loss" + _blame(traces)
        warn_if_nan(value, message)
        warn_if_inf(value, message)
    return loss


def _blame(traces: Iterable[tuple[Any, Any]]) -> str:
    """Return which sites have a log-probability that is not finite; nothing if none has."""
    sites: dict[str, None] = {}
    for role, trace in ((role, trace) for pair in traces for role, trace in zip(("model", "guide"), pair, strict=True)):
        for name, site in trace.nodes.items():
            log_prob = site.get("log_prob") if site["type"] == "sample" else None
            if isinstance(log_prob, torch.Tensor) and not log_prob.isfinite().all():
                worst = "NaN" if log_prob.isnan().any() else "-inf" if (log_prob < 0).any() else "inf"
                sites[f"{role} site {name!r} ({worst})"] = None
    if not sites:
        return ""
    return f": the log-probability of {', '.join(sites)} is not finite at values that the guide drew"
