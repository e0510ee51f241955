"""Checks that relate one sample, its shape and its log-probability: nothing here is random but the sample itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

__all__ = ["SHAPE_CHECKS", "Coordinates", "Subject", "require", "require_close", "require_equal"]

Coordinates = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From values to free real coordinates and the log-determinant of the map from coordinates to values."""


@dataclass
class Subject:
    """What a check looks at: a distribution and how to test it.

    Attributes:
        d: the distribution.
        parameters: the leaf tensors that it was built from.
        x: four samples, ``(4,) + batch_shape + event_shape``.
        num_samples: how many samples a statistical check draws.
        false_alarm: the probability that a statistical check fails for a right distribution.
        has_density: whether ``log_prob`` is implemented.
        coordinates: free coordinates of values; None if those of the support will do.
    """

    d: Any
    parameters: list[Tensor]
    x: Tensor
    num_samples: int
    false_alarm: float
    has_density: bool = True
    coordinates: Coordinates | None = None

    @property
    def batch_shape(self) -> torch.Size:
        """The distribution's batch shape."""
        return torch.Size(self.d.batch_shape)

    @property
    def is_discrete(self) -> bool:
        """Whether the support is finite or countable."""
        return bool(self.d.support.is_discrete)


def require(condition: object, message: str) -> None:
    """Raise an AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def require_equal(actual: object, expected: object, what: str) -> None:
    """Raise an AssertionError unless both are equal."""
    require(actual == expected, f"{what} is {actual}, expected {expected}")


def require_close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Raise an AssertionError unless both have one shape and agree to a hundred roundings."""
    require_equal(actual.shape, expected.shape, f"the shape of {what}")
    tolerance = 100 * torch.finfo(actual.dtype).eps
    close = torch.isclose(actual, expected, rtol=tolerance, atol=tolerance)
    require(close.all(), f"{what} is {actual[~close][:3]}, expected {expected[~close][:3]}")


def _check_shapes(s: Subject) -> None:
    for sample_shape in (torch.Size(), torch.Size([2]), torch.Size([2, 3])):
        expected = sample_shape + s.batch_shape + s.d.event_shape
        require_equal(s.d.sample(sample_shape).shape, expected, f"the shape of sample({tuple(sample_shape)})")
        require_equal(s.d.shape(sample_shape), expected, f"shape({tuple(sample_shape)})")
    require_equal(s.d.support.event_dim, len(s.d.event_shape), "support.event_dim")


def _check_infer_shapes(s: Subject) -> None:
    given = {name: vars(s.d)[name] for name in s.d.arg_constraints if name in vars(s.d)}
    if {"logits", "probs"} <= given.keys():
        del given["probs"]  # one parameter in two forms
    shapes = {name: value.shape for name, value in given.items() if isinstance(value, Tensor)}
    if not shapes:
        return
    try:
        shapes_inferred = type(s.d).infer_shapes(**shapes)
    except NotImplementedError:  # a distribution whose shapes depend on more than those of its tensors
        return
    require_equal(shapes_inferred, (s.batch_shape, s.d.event_shape), "infer_shapes(...)")


def _check_support(s: Subject) -> None:
    inside = s.d.support.check(s.x)
    require_equal(inside.shape, s.x.shape[:1] + s.batch_shape, "the shape of support.check(sample)")
    require(inside.all(), f"{int((~inside).sum())} of {inside.numel()} samples lie outside the support")


def _check_log_prob(s: Subject) -> None:
    log_prob = s.d.log_prob(s.x)
    require_equal(log_prob.shape, s.x.shape[:1] + s.batch_shape, "the shape of log_prob(sample)")
    require(torch.isfinite(log_prob).all(), f"log_prob of the distribution's own samples is not finite: {log_prob}")
    require_close(s.d.log_prob(s.x[0]), log_prob[0], "log_prob of one sample")
    parts = s.d.score_parts(s.x)
    require_close(parts.log_prob, log_prob, "score_parts(sample).log_prob")
    if s.d.has_rsample:
        require_equal(parts.score_function, 0, "score_parts(sample).score_function of a reparameterised distribution")
    else:
        require_close(parts.score_function, log_prob, "score_parts(sample).score_function")


def _check_refusal(s: Subject) -> None:
    if not s.d._validate_args or isinstance(s.d, Independent):  # which leaves it to its base, of other event dims
        return
    shape = s.d.shape()
    wrong = [(*shape, 1)] if s.d.event_shape[-1:] not in ((), (1,)) else []
    if shape[:1] not in ((), (1,)):  # where the first size is 1, another broadcasts
        wrong.append((shape[0] + 1, *shape[1:]))
    for other in wrong:
        try:
            s.d.log_prob(s.x.new_ones(other))
        except (ValueError, RuntimeError):
            continue
        raise AssertionError(f"log_prob takes a value of shape {other}, its own have {tuple(shape)}")


def _check_dtype(s: Subject) -> None:
    named = [getattr(s.d, name, None) for name in s.d.arg_constraints]
    floating = [p for p in [*s.parameters, *named] if isinstance(p, Tensor) and p.is_floating_point()]
    if not floating:
        return
    require_equal(s.x.device, floating[0].device, "the samples' device")
    if s.x.is_floating_point():
        require_equal(s.x.dtype, floating[0].dtype, "the samples' dtype")
    if s.has_density:
        log_prob = s.d.log_prob(s.x)
        require_equal((log_prob.dtype, log_prob.device), (floating[0].dtype, floating[0].device), "log_prob")


def _check_expand(s: Subject) -> None:
    wide_shape = s.x.shape[:1] + s.batch_shape
    _check_expansion(s, s.d.expand(wide_shape), s.x, "expand")
    _check_expansion(s, s.d.expand(list(wide_shape)), s.x, "expand of a list")
    _check_expansion(s, TorchDistribution.expand(s.d, wide_shape), s.x, "the default expand")
    thin = s.d.expand((1, *s.batch_shape))
    _check_expansion(s, thin.expand(wide_shape), s.x, "expand of a dim of size 1")
    twice = s.d.expand_by([1]).expand((2, *wide_shape))
    _check_expansion(s, twice, s.x.expand(2, *s.x.shape), "expand twice")
    for refused in (s.batch_shape, (3, *s.batch_shape)):
        try:
            s.d.expand(wide_shape).expand(torch.Size(refused))
        except (ValueError, RuntimeError):
            continue
        raise AssertionError(f"expand goes from the batch shape {tuple(wide_shape)} to {tuple(refused)}")


def _check_expansion(s: Subject, wide: Any, x: Tensor, what: str) -> None:
    batch_shape = x.shape[: x.dim() - len(s.d.event_shape)]
    require_equal(wide.batch_shape, batch_shape, f"{what}(...).batch_shape")
    require_equal(wide.event_shape, s.d.event_shape, f"{what}(...).event_shape")
    own = wide.sample()
    require_equal(own.shape, x.shape, f"the shape of {what}(...).sample")
    require_equal(wide.sample((2,)).shape, (2, *x.shape), f"the shape of {what}(...).sample((2,))")
    require(wide.support.check(own).all(), f"samples of {what}(...) lie outside its support")
    if s.has_density:
        require_close(wide.log_prob(x), s.d.log_prob(x), f"{what}(...).log_prob")
        require_close(wide.log_prob(own), s.d.log_prob(own), f"{what}(...).log_prob of its own sample")


def _check_to_event(s: Subject) -> None:
    wide = s.d.expand(s.x.shape[:1] + s.batch_shape)
    joint = wide.to_event()
    require_equal(joint.batch_shape, torch.Size(), "to_event().batch_shape")
    require_equal(joint.event_shape, s.x.shape, "to_event().event_shape")
    require_equal(joint.sample((2,)).shape, (2, *s.x.shape), "the shape of to_event().sample((2,))")
    if s.has_density:
        require_close(joint.log_prob(s.x), s.d.log_prob(s.x).sum(), "to_event().log_prob")


def _check_mask(s: Subject) -> None:
    require_equal(s.d.mask(True).sample().shape, s.d.shape(), "the shape of mask(True).sample()")
    nothing = s.d.mask(False)
    require(not torch.as_tensor(nothing.log_prob(s.x)).any(), "mask(False).log_prob is not 0")
    if not s.has_density:
        return
    log_prob = s.d.log_prob(s.x)
    require_close(s.d.mask(True).log_prob(s.x), log_prob, "mask(True).log_prob")
    mask = torch.arange(log_prob[0].numel(), device=s.x.device).reshape(s.batch_shape) % 2 == 0
    require_close(s.d.mask(mask).log_prob(s.x), torch.where(mask, log_prob, 0), "mask(...).log_prob")
    outer = torch.tensor([True, False, True, False], device=s.x.device).reshape(4, *(1,) * len(s.batch_shape))
    wide = s.d.mask(outer)
    require_equal(wide.batch_shape, log_prob.shape, "mask(...).batch_shape under a larger mask")
    require_close(wide.log_prob(s.x), torch.where(outer, log_prob, 0), "log_prob under a larger mask")


def _check_seed(s: Subject) -> None:
    require(torch.equal(*(_seeded_sample(s.d) for _ in range(2))), "two samples from one seed differ")


def _check_state(s: Subject) -> None:
    copies = {
        "copied": copy.copy(s.d),
        "pickled": pickle.loads(pickle.dumps(s.d)),
    }
    for name, d in copies.items():
        require(torch.equal(_seeded_sample(d), _seeded_sample(s.d)), f"a {name} distribution samples otherwise")
    if not s.has_density:
        return
    log_prob = s.d.log_prob(s.x)
    require_close(s.d.log_prob(s.x.clone()), log_prob, "log_prob of a cloned sample")
    require_close(s.d.log_prob(s.x[1:]), log_prob[1:], "log_prob of an indexed sample")
    for name, d in copies.items():
        require_close(d.log_prob(s.x), log_prob, f"log_prob of a {name} distribution")


def _seeded_sample(d: Any) -> Tensor:
    torch.manual_seed(1)
    value: Tensor = d.sample((3,))
    return value


def _check_repr(s: Subject) -> None:
    require(type(s.d).__name__ in repr(s.d), f"repr {s.d!r} does not name the class")


def _check_gradients(s: Subject) -> None:
    if not s.parameters:
        return
    outputs = {"log_prob": s.d.log_prob(s.x)} if s.has_density else {}
    if s.d.has_rsample:
        outputs["rsample"] = s.d.rsample((4,))
    for name, output in outputs.items():
        # entries that are always infinite, such as log-weights of the impossible, are no part of any loss
        loss = (torch.where(output.isinf(), 0, output) * torch.randn_like(output)).sum()
        require(loss.requires_grad, f"{name} is not differentiable in the parameters")
        grads = torch.autograd.grad(loss, s.parameters, allow_unused=True, retain_graph=True)
        for i, grad in enumerate(grads):
            require(grad is not None, f"{name} does not depend on parameters[{i}]")
            assert grad is not None
            require(torch.isfinite(grad).all(), f"the gradient of {name} in parameters[{i}] is not finite: {grad}")
            require(grad.any(), f"the gradient of {name} in parameters[{i}] is zero")


def _check_enumerate(s: Subject) -> None:
    if not s.d.has_enumerate_support:
        return
    values, narrow = s.d.enumerate_support(), s.d.enumerate_support(expand=False)
    num, ones = len(values), (1,) * len(s.batch_shape)
    require_equal(values.shape, (num, *s.batch_shape, *s.d.event_shape), "the shape of enumerate_support()")
    require_equal(narrow.shape, (num, *ones, *s.d.event_shape), "the shape of enumerate_support(expand=False)")
    require(torch.equal(narrow.expand(values.shape), values), "enumerate_support depends on expand")
    require_equal((values.dtype, values.device), (s.x.dtype, s.x.device), "the type of enumerate_support()")
    require(s.d.support.check(values).all(), "enumerate_support lists values outside the support")
    require_equal(len(narrow.reshape(num, -1).unique(dim=0)), num, "the number of distinct values")
    total = s.d.log_prob(values).exp().sum(0)
    require_close(total, torch.ones_like(total), "the sum of all probabilities")


SHAPE_CHECKS: dict[str, Callable[[Subject], None]] = {
    "shapes": _check_shapes,
    "infer_shapes": _check_infer_shapes,
    "support": _check_support,
    "log_prob": _check_log_prob,
    "refusal": _check_refusal,
    "dtype": _check_dtype,
    "expand": _check_expand,
    "to_event": _check_to_event,
    "mask": _check_mask,
    "seed": _check_seed,
    "state": _check_state,
    "repr": _check_repr,
    "gradients": _check_gradients,
    "enumerate": _check_enumerate,
}
