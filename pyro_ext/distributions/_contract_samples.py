"""Checks that samples follow the distribution that the other methods state: tests with a stated false-alarm rate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_ext.distributions._contract_shapes import Subject, require, require_equal
from pyro_ext.distributions.goodness_of_fit import (
    chi_square_p_value,
    counts_of,
    free_coordinates,
    grouped_mean,
    largest_excess,
    mean_scores,
    two_sample_p_values,
    volume_ratios,
)

__all__ = ["SAMPLE_CHECKS"]

# A distribution with more values than this is not compared with its samples value by value.
_MOST_VALUES = 2000


def _check_frequencies(s: Subject) -> None:
    if not s.d.has_enumerate_support or len(s.d.enumerate_support(expand=False)) > _MOST_VALUES:
        return
    values = s.d.enumerate_support(expand=False)
    with torch.no_grad():
        probs = s.d.log_prob(values).double().exp().reshape(len(values), -1)
    samples = s.d.sample((s.num_samples,)).reshape(s.num_samples, -1, *s.d.event_shape)
    counts = counts_of(samples, values.reshape(len(values), *s.d.event_shape))
    require((counts[probs == 0] == 0).all(), "values of probability zero were drawn")
    worst = float(chi_square_p_value(counts, probs).min()) * probs.shape[1]
    require(worst >= s.false_alarm, f"samples do not follow log_prob: p-value {worst:.2g} after {s.num_samples}")


def _check_rsample(s: Subject) -> None:
    if not s.d.has_rsample:
        return
    plain, pathwise = s.d.sample((s.num_samples,)), s.d.rsample((s.num_samples,)).detach()
    require(not plain.requires_grad, "sample() carries a gradient")
    require_equal((plain.shape, plain.dtype), (pathwise.shape, pathwise.dtype), "the shape and type of sample()")
    worst = float(two_sample_p_values(*(_with_projection(s, x) for x in (plain, pathwise))).min())
    require(worst >= s.false_alarm, f"sample and rsample draw from different distributions: p-value {worst:.2g}")


def _with_projection(s: Subject, x: Tensor) -> Tensor:
    """Return every entry of samples, and of each event one fixed linear form for what they have in common."""
    events = x.double().reshape(len(x), -1, s.d.event_shape.numel()).nan_to_num(neginf=0)
    weights = torch.linspace(-1, 1.3, events.shape[-1], dtype=events.dtype, device=x.device)
    return torch.cat([events.flatten(1), events @ weights], -1)


def _check_moments(s: Subject) -> None:
    mean, variance = _stated(s, "mean"), _stated(s, "variance")
    if mean is None:
        return
    deviation = s.d.sample((s.num_samples,)).double() - mean
    _require_mean(s, deviation.masked_fill(~mean.isfinite(), 0), mean, "mean")
    if variance is not None:
        deviation = (deviation.square() - variance).masked_fill(~(mean + variance).isfinite(), 0)
        _require_mean(s, deviation, variance, "variance")


def _stated(s: Subject, name: str) -> Tensor | None:
    """Return a moment in float64, or None where the distribution does not know it."""
    try:
        moment: Tensor = getattr(s.d, name).detach()
    except (NotImplementedError, AttributeError):
        return None
    require_equal(moment.shape, s.d.shape(), f"the shape of {name}")
    return moment.double()


def _check_entropy(s: Subject) -> None:
    try:
        entropy = s.d.entropy().detach()
    except NotImplementedError:
        return
    require_equal(entropy.shape, s.batch_shape, "the shape of entropy()")
    with torch.no_grad():
        _require_mean(s, -s.d.log_prob(s.d.sample((s.num_samples,))) - entropy, entropy, "entropy")


def _require_mean(s: Subject, deviations: Tensor, stated: Tensor, what: str) -> None:
    """Raise an AssertionError unless deviations ``(n, ...)`` from what is stated have mean zero."""
    eps = max(torch.finfo(dtype).eps for dtype in (deviations.dtype, s.x.dtype) if dtype.is_floating_point)
    scale = float(stated.nan_to_num(posinf=0, neginf=0).abs().max())
    excess = largest_excess(grouped_mean(deviations.double().reshape(len(deviations), -1)), eps, s.false_alarm, scale)
    require(excess <= 0, f"the {what} is off by {excess:.2g} more than {s.num_samples} samples allow")


def _check_goodness_of_fit(s: Subject) -> None:
    if s.is_discrete or s.x.dtype != torch.float64:  # in narrower types samples near a bound coincide
        return
    with torch.no_grad():
        x = s.d.sample((s.num_samples,))
        coordinates = s.coordinates or (lambda value: free_coordinates(s.d.support, value))
        y, log_volume = coordinates(x)
        log_density = (s.d.log_prob(x) + log_volume).reshape(len(x), -1)
        ratios = volume_ratios(y.reshape(*log_density.shape, -1), log_density)
    excess = largest_excess(ratios - 1, torch.finfo(y.dtype).eps, s.false_alarm)
    require(excess <= 0, f"cells of samples have volumes that are off by {excess:.2g} more than chance allows")


def _check_score(s: Subject) -> None:
    if not s.parameters:
        return
    scores = mean_scores(s.d, s.parameters, s.num_samples)
    eps = max(torch.finfo(parameter.dtype).eps for parameter in s.parameters)
    excess = largest_excess(scores, eps, s.false_alarm)
    require(excess <= 0, f"the mean of the score is not zero, by {excess:.2g} more than {s.num_samples} samples allow")


SAMPLE_CHECKS: dict[str, Callable[[Subject], None]] = {
    "frequencies": _check_frequencies,
    "rsample": _check_rsample,
    "moments": _check_moments,
    "entropy": _check_entropy,
    "goodness_of_fit": _check_goodness_of_fit,
    "score": _check_score,
}
