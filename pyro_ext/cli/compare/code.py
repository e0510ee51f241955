"""Whether the discrete sites of a guide say anything about the data: at a collapsed code no estimator is better."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference import local_params
from pyro_ext.inference.compare import Subject
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["CodeUse", "code_use"]

_ENOUGH, _SHARE = 1.0, 0.1  # nats per data point; of what the sites can hold, where that is less
_NOTHING = 0.1  # of what is enough; below, the code has collapsed


@dataclass(frozen=True)
class CodeUse:
    """How much the discrete sites of a guide say about a data point.

    Args:
        nats: the Kullback-Leibler divergence of their distributions in the guide from those in the model, per data
            point.
        enough: from how many nats on the code counts as used.
    """

    nats: float
    enough: float

    @property
    def used(self) -> bool:
        """Whether there is enough."""
        return self.nats >= self.enough

    def fact(self) -> str:
        """Return what there is, in a line."""
        return f"{self.nats:.2f} nats per data point in the discrete sites (KL); in use from {self.enough:.2g}"

    def complaint(self, remedy: str) -> str:
        """Return what is wrong; empty if nothing is.

        Args:
            remedy: what to do about it.
        """
        if self.used:
            return ""
        what = "has collapsed" if self.nats < _NOTHING * self.enough else "is hardly used yet"
        return (
            f"the code {what} at these weights: its KL is {self.nats:.3f} nats per data point, less than "
            f"{self.enough:.2g}, so the cost hardly depends on the draws, and estimators that differ in use may not "
            f"differ here; {remedy}"
        )


def code_use(subject: Subject, draws: int = 20, seed: int = 0) -> CodeUse | None:
    """Estimate how much the discrete sites say about the data points of a batch; None if that cannot be told.

    It cannot where the guide has no such site, or gives each the distribution that the model has: a network that
    predicts, without an inference network of its own, uses its code at a divergence of 0.

    It is enough if it is a nat, or a tenth of the logarithm of the number of joint values, whichever is less.

    Args:
        subject: the model, its guide and the batch.
        draws: the number of runs that the divergence is averaged over.
        seed: the seed of the noise.
    """
    with isolated_random_state(seed, subject.device), torch.no_grad(), local_params():
        runs = [_log_ratio_and_capacity(subject) for _ in range(draws)]
    if any(run is None for run in runs):
        return None
    log_ratios, capacities = zip(*(run for run in runs if run is not None), strict=True)
    nats = sum(log_ratios) / draws / subject.size
    return CodeUse(nats, min(_ENOUGH, _SHARE * max(capacities) / subject.size))


def _log_ratio_and_capacity(subject: Subject) -> tuple[float, float] | None:
    """Return log q - log p of the discrete sites of one run, and what they can hold at most; or None."""
    guide_trace = poutine.trace(subject.guide).get_trace(*subject.batch)
    model_trace = poutine.trace(poutine.replay(subject.model, trace=guide_trace)).get_trace(*subject.batch)
    names = [*_discrete_sites(guide_trace, model_trace)]
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob(lambda name, site: name in names)
    pairs = [(guide_trace.nodes[name], model_trace.nodes[name]) for name in names]
    if all(torch.equal(own["log_prob"], prior["log_prob"]) for own, prior in pairs):
        return None
    log_ratio = sum(float(own["log_prob_sum"] - prior["log_prob_sum"]) for own, prior in pairs)
    return log_ratio, sum(_capacity(own) for own, _ in pairs)


def _discrete_sites(guide_trace: Any, model_trace: Any) -> Iterator[str]:
    """Yield the names of latent sites that model and guide share and whose values carry no gradient."""
    for name, site in guide_trace.nodes.items():
        latent = site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
        if latent and name in model_trace.nodes and not getattr(site["fn"], "has_rsample", True):
            yield name


def _capacity(site: Any) -> float:
    """Return the logarithm of the number of joint values of a site, scaled like its log-probability."""
    base, num_coordinates = unwrap(site["fn"])
    try:
        values = len(base.enumerate_support(expand=False))
    except NotImplementedError:
        return math.inf
    coordinates = base.batch_shape[len(base.batch_shape) - num_coordinates :].numel()
    scale = site["scale"]
    mean_scale = float(scale.double().mean()) if isinstance(scale, torch.Tensor) else float(scale)
    return mean_scale * float(site["log_prob"].numel()) * coordinates * math.log(values)
