r"""REINFORCE with a learned baseline, as an objective whose baseline is a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.enum import get_importance_trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_ext.inference import Losses, Objective, local_params
from pyro_ext.inference.elbo import value_with_gradient_of
from pyro_ext.inference.training.local import give_local_store
from pyro_ext.models.toolkit.moments import RunningMoments
from pyro_ext.utils.checks import optional_positive_int

__all__ = ["LearnedBaselineObjective"]


class LearnedBaselineObjective(Objective):
    r"""Minus the evidence lower bound, its score-function terms with a baseline that is predicted from the input.

    For a data point x with bound :math:`f(x, z) = \log p(x, z) - \log q(z)`, one draw of z and its discrete sites d,

    .. math::

        \big(f(x, z) - c - b(x)\big) \nabla \log q(d) + \nabla f(x, z),
        \qquad \min_b \big(f(x, z) - c - b(x)\big)^2,

    where c is a moving average of f, which spares b to learn the level, and :math:`\nabla f` runs through
    reparameterised sites. The first step of training measures c and leaves the score-function terms out. The baseline's
    parameters get the gradient of the squared error alone, all others that of the bound alone.

    All sites must lie in one plate of data points, the rightmost one. All discrete sites share one cost and one
    baseline; for several layers of discrete sites alone, each with the costs and the baseline of its own,
    ``structured_output.LearnedBaselineELBO`` has less variance.

    Args:
        model: a PyroModule, called as ``model(*batch)``.
        guide: a PyroModule, called like the model.
        baseline: maps the first part of a batch, ``(B, ...)``, to b in nats, ``(B,)`` or ``(B, 1)``.
        size: the number N of data points by which the bound is divided; that of the plate if None.
        decay: the weight of the past in the moving average, in [0, 1).

    Raises:
        ValueError: if the baseline is no module, or ``size`` or ``decay`` is out of range; when called, naming a site
            outside the plate of data points, or if the baseline has another shape.

    References:
        | Neural variational inference and learning in belief networks (Mnih and Gregor, 2014), section 2.3
        | https://arxiv.org/abs/1402.0030

    Example:
        >>> class Program(pyro.nn.PyroModule):
        ...     def __init__(self, observed):
        ...         super().__init__()
        ...         self.observed, self.logits = observed, torch.nn.Parameter(torch.zeros(2))
        ...     def forward(self, x):
        ...         with pyro.plate("data", len(x)):
        ...             z = pyro.sample("z", dist.Categorical(logits=self.logits))
        ...             if self.observed:
        ...                 pyro.sample("x", dist.Normal(z.to(x.dtype), 1.0), obs=x[:, 0])
        >>> objective = LearnedBaselineObjective(Program(True), Program(False), torch.nn.Linear(1, 1))
        >>> total, terms = objective(torch.zeros(5, 1))
        >>> total.shape, [*terms]
        (torch.Size([]), ['baseline_error'])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        baseline: nn.Module,
        *,
        size: int | None = None,
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        if not isinstance(baseline, nn.Module):
            raise ValueError(f"baseline must be a torch.nn.Module, got {baseline!r}")
        self.model, self.guide, self.baseline = model, guide, baseline
        self.size = optional_positive_int("size", size)
        self.moments = RunningMoments(torch.zeros(()), decay)
        for module in self.modules():
            give_local_store(module)

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit."""
        return "−ELBO per data point (nats)"

    def forward(self, *batch: Any) -> Losses:
        """Return minus the bound per data point, and the mean squared error of the baseline."""
        with local_params():
            model_trace, guide_trace = get_importance_trace("flat", 1, self.model, self.guide, batch, {})
            predicted = self.baseline(batch[0])
        bound, score, scale, size = _per_data_point(model_trace, guide_trace)
        if predicted.shape not in (bound.shape, (*bound.shape, 1)):
            raise ValueError(
                f"baseline must return shape ({len(bound)},) or ({len(bound)}, 1), got {tuple(predicted.shape)}"
            )
        signal = bound.detach() / scale  # of a single data point
        error = signal - self.moments.mean - predicted.reshape(bound.shape)
        surrogate = bound.sum() + self.moments.started * (scale * error.detach() * score).sum()
        number = self.size or size
        squared = error.square().mean()
        total = value_with_gradient_of(-bound.sum() / number, -surrogate / number + squared)
        self.moments.note(signal, total)
        return Losses(total, {"baseline_error": squared.detach()})

    def after_step(self) -> None:
        """Move the level c towards the mean bound of the last batches."""
        self.moments.after_step()
        super().after_step()


def _per_data_point(model_trace: Any, guide_trace: Any) -> tuple[Tensor, Tensor, float, int]:
    """Return the bound and the score of each data point, ``(B,)``, the scale of the plate, and its size."""
    bound: Any = 0.0
    score: Any = 0.0
    scale, size = 1.0, 1
    for trace, sign in ((model_trace, 1), (guide_trace, -1)):
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site):
                continue
            plate = next((frame for frame in site["cond_indep_stack"] if frame.dim == -1), None)
            if plate is None or isinstance(site["scale"], Tensor):
                raise ValueError(
                    f"site {name!r} must lie in the rightmost plate of data points, with a number as its scale, for a "
                    "baseline predicted for each of them; use TraceLeaveOneOut_ELBO instead"
                )
            size, rows = plate.full_size or plate.size, plate.size
            if sign == 1:
                bound = bound + _rows(site["log_prob"], rows)
                continue
            parts = site["score_parts"]
            of_guide = site["log_prob"].detach()  # log q of a discrete site has a gradient of mean zero
            if isinstance(parts.entropy_term, Tensor):
                of_guide = of_guide + parts.entropy_term - parts.entropy_term.detach()
            bound = bound - _rows(of_guide, rows)
            if isinstance(parts.score_function, Tensor):
                score, scale = score + _rows(parts.score_function, rows), site["scale"]
    return bound, score, scale, size


def _rows(log_prob: Tensor, rows: int) -> Tensor:
    """Sum everything but the rightmost dim, that of the data points."""
    full = log_prob if log_prob.dim() and log_prob.shape[-1] == rows else log_prob.expand(*log_prob.shape[:-1], rows)
    return full.reshape(-1, rows).sum(0)
