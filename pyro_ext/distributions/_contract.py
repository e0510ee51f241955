"""The single checks behind ``check_distribution``: each takes a subject and raises AssertionError."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_ext.distributions._goodness_of_fit import chi_square_p_value, counts_of, largest_score_excess, mean_scores

__all__ = ["CHECKS", "Subject"]

# A law with more values than this is not compared with its samples value by value.
_MOST_VALUES = 2000


@dataclass
class Subject:
    """What a check looks at; ``x`` is ``(4,) + batch_shape + event_shape``."""

    d: Any
    parameters: list[Tensor]
    x: Tensor
    num_samples: int
    false_alarm: float

    @property
    def batch_shape(self) -> torch.Size:
        return torch.Size(self.d.batch_shape)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _require_equal(found: object, expected: object, what: str) -> None:
    _require(found == expected, f"{what} is {found}, expected {expected}")


def _require_close(found: Tensor, expected: Tensor, what: str) -> None:
    _require_equal(found.shape, expected.shape, f"the shape of {what}")
    tolerance = 100 * torch.finfo(found.dtype).eps
    close = torch.isclose(found, expected, rtol=tolerance, atol=tolerance)
    _require(close.all(), f"{what} is {found[~close][:3]}, expected {expected[~close][:3]}")


def _check_shapes(s: Subject) -> None:
    for sample_shape in (torch.Size(), torch.Size([2]), torch.Size([2, 3])):
        expected = sample_shape + s.batch_shape + s.d.event_shape
        _require_equal(s.d.sample(sample_shape).shape, expected, f"the shape of sample({tuple(sample_shape)})")
        _require_equal(s.d.shape(sample_shape), expected, f"shape({tuple(sample_shape)})")
    _require_equal(s.d.support.event_dim, len(s.d.event_shape), "support.event_dim")


def _check_support(s: Subject) -> None:
    inside = s.d.support.check(s.x)
    _require_equal(inside.shape, s.x.shape[:1] + s.batch_shape, "the shape of support.check(sample)")
    _require(inside.all(), f"{int((~inside).sum())} of {inside.numel()} samples lie outside the support")


def _check_log_prob(s: Subject) -> None:
    log_prob = s.d.log_prob(s.x)
    _require_equal(log_prob.shape, s.x.shape[:1] + s.batch_shape, "the shape of log_prob(sample)")
    _require(torch.isfinite(log_prob).all(), f"log_prob of the law's own samples is not finite: {log_prob}")
    _require_close(s.d.log_prob(s.x[0]), log_prob[0], "log_prob of one sample")


def _check_dtype(s: Subject) -> None:
    named = [getattr(s.d, name, None) for name in s.d.arg_constraints]
    floating = [p for p in [*s.parameters, *named] if isinstance(p, Tensor) and p.is_floating_point()]
    if not floating:
        return
    log_prob = s.d.log_prob(s.x)
    _require_equal((log_prob.dtype, log_prob.device), (floating[0].dtype, floating[0].device), "log_prob")
    _require_equal(s.x.device, floating[0].device, "the samples' device")
    if s.x.is_floating_point():
        _require_equal(s.x.dtype, floating[0].dtype, "the samples' dtype")


def _check_expand(s: Subject) -> None:
    wide = s.d.expand(s.x.shape[:1] + s.batch_shape)
    _require_equal(wide.batch_shape, s.x.shape[:1] + s.batch_shape, "expand(...).batch_shape")
    _require_equal(wide.event_shape, s.d.event_shape, "expand(...).event_shape")
    _require_equal(wide.sample((2,)).shape, (2, *s.x.shape), "the shape of expand(...).sample")
    _require_close(wide.log_prob(s.x), s.d.log_prob(s.x), "expand(...).log_prob")
    _require(wide.support.check(wide.sample()).all(), "samples of expand(...) lie outside its support")


def _check_to_event(s: Subject) -> None:
    wide = s.d.expand(s.x.shape[:1] + s.batch_shape)
    joint = wide.to_event()
    _require_equal(joint.batch_shape, torch.Size(), "to_event().batch_shape")
    _require_equal(joint.event_shape, s.x.shape, "to_event().event_shape")
    _require_close(joint.log_prob(s.x), s.d.log_prob(s.x).sum(), "to_event().log_prob")


def _check_mask(s: Subject) -> None:
    log_prob = s.d.log_prob(s.x)
    _require_close(s.d.mask(False).log_prob(s.x) + 0 * log_prob, 0 * log_prob, "mask(False).log_prob")
    mask = torch.arange(log_prob[0].numel(), device=s.x.device).reshape(s.batch_shape) % 2 == 0
    expected = torch.where(mask, log_prob, 0)
    _require_close(s.d.mask(mask).log_prob(s.x), expected, "mask(...).log_prob")


def _check_seed(s: Subject) -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append(s.d.sample((3,)))
    _require(torch.equal(*draws), "two samples from one seed differ")


def _check_state(s: Subject) -> None:
    log_prob = s.d.log_prob(s.x)
    _require_close(s.d.log_prob(s.x.clone()), log_prob, "log_prob of a cloned sample")
    _require_close(s.d.log_prob(s.x[1:]), log_prob[1:], "log_prob of an indexed sample")
    _require_close(copy.copy(s.d).log_prob(s.x), log_prob, "log_prob of a copied distribution")
    _require_close(pickle.loads(pickle.dumps(s.d)).log_prob(s.x), log_prob, "log_prob of a pickled distribution")


def _check_repr(s: Subject) -> None:
    _require(type(s.d).__name__ in repr(s.d), f"repr {s.d!r} does not name the class")


def _check_gradients(s: Subject) -> None:
    if not s.parameters:
        return
    outputs = {"log_prob": s.d.log_prob(s.x)}
    if s.d.has_rsample:
        outputs["rsample"] = s.d.rsample((4,))
    for name, output in outputs.items():
        loss = (output * torch.randn_like(output)).sum()
        _require(loss.requires_grad, f"{name} is not differentiable in the parameters")
        grads = torch.autograd.grad(loss, s.parameters, allow_unused=True, retain_graph=True)
        for i, grad in enumerate(grads):
            _require(grad is not None, f"{name} does not depend on parameters[{i}]")
            assert grad is not None
            _require(torch.isfinite(grad).all(), f"the gradient of {name} in parameters[{i}] is not finite: {grad}")
            _require(grad.any(), f"the gradient of {name} in parameters[{i}] is zero")


def _check_enumerate(s: Subject) -> None:
    if not s.d.has_enumerate_support:
        return
    values, narrow = s.d.enumerate_support(), s.d.enumerate_support(expand=False)
    num, ones = len(values), (1,) * len(s.batch_shape)
    _require_equal(values.shape, (num, *s.batch_shape, *s.d.event_shape), "the shape of enumerate_support()")
    _require_equal(narrow.shape, (num, *ones, *s.d.event_shape), "the shape of enumerate_support(expand=False)")
    _require(torch.equal(narrow.expand(values.shape), values), "enumerate_support depends on expand")
    _require_equal((values.dtype, values.device), (s.x.dtype, s.x.device), "the type of enumerate_support()")
    _require(s.d.support.check(values).all(), "enumerate_support lists values outside the support")
    _require_equal(len(narrow.reshape(num, -1).unique(dim=0)), num, "the number of distinct values")
    total = s.d.log_prob(values).exp().sum(0)
    _require_close(total, torch.ones_like(total), "the sum of all probabilities")


def _check_sample_law(s: Subject) -> None:
    if not s.d.has_enumerate_support or len(s.d.enumerate_support(expand=False)) > _MOST_VALUES:
        return
    values = s.d.enumerate_support(expand=False)
    with torch.no_grad():
        probs = s.d.log_prob(values).double().exp().reshape(len(values), -1)
    samples = s.d.sample((s.num_samples,)).reshape(s.num_samples, -1, *s.d.event_shape)
    counts = counts_of(samples, values.reshape(len(values), *s.d.event_shape))
    _require((counts[probs == 0] == 0).all(), "values of probability zero were drawn")
    worst = float(chi_square_p_value(counts, probs).min()) * probs.shape[1]
    _require(worst >= s.false_alarm, f"samples do not follow log_prob: p-value {worst:.2g} after {s.num_samples}")


def _check_score(s: Subject) -> None:
    if not s.parameters:
        return
    scores = mean_scores(s.d, s.parameters, s.num_samples)
    eps = max(torch.finfo(parameter.dtype).eps for parameter in s.parameters)
    excess = largest_score_excess(scores, eps, s.false_alarm)
    _require(excess <= 0, f"the mean of the score is not zero, by {excess:.2g} more than {s.num_samples} samples allow")


CHECKS: dict[str, Callable[[Subject], None]] = {
    "shapes": _check_shapes,
    "support": _check_support,
    "log_prob": _check_log_prob,
    "dtype": _check_dtype,
    "expand": _check_expand,
    "to_event": _check_to_event,
    "mask": _check_mask,
    "seed": _check_seed,
    "state": _check_state,
    "repr": _check_repr,
    "gradients": _check_gradients,
    "enumerate": _check_enumerate,
    "sample_law": _check_sample_law,
    "score": _check_score,
}
