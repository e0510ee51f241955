"""The same gradient steps done by Storchastic, through its public interface.

Importing ``storch`` replaces four functions of torch by its own and switches the validation of distributions off. So
this module is imported after all others. It sets validation back to Pyro's default, and switches it off only while
Storchastic computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import storch
import torch
from storch.method import ScoreFunction, UnorderedSetEstimator
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_ext.inference import TrainingPlan
from pyro_ext.models import categorical_vae
from support import vae
from support.gradients import Step
from support.toy import P

__all__ = ["METHODS", "toy_step", "vae_step"]

METHODS: dict[str, Callable[[int], Any]] = {
    "unordered set": lambda k: UnorderedSetEstimator("z", k),
    "leave-one-out": lambda k: ScoreFunction("z", n_samples=k, baseline_factory="batch_average"),
}
"""Name -> a method of Storchastic, given the number k of samples."""

pyro.enable_validation(True)  # as before the import


@contextmanager
def _without_validation() -> Iterator[None]:
    """Storchastic cannot work with validated distributions; everything else keeps Pyro's default."""
    with pyro.validation_enabled(False):
        yield


def toy_step(logit: torch.nn.Parameter, name: str, k: int) -> Step:
    """Return a step that leaves the gradient of every replicate's cost in ``logit.grad``."""
    method = METHODS[name](k)

    def one_step() -> None:
        logit.grad = None
        with _without_validation():
            rows = storch.denote_independent(logit.unsqueeze(-1).expand(-1, 3), 0, "replicates")
            b = method(Bernoulli(logits=rows))
            storch.add_cost((b - P).square().sum(-1), "cost")
            storch.backward()
        assert logit.grad is not None
        logit.grad *= len(logit)  # Storchastic takes the mean over a plate, Pyro the sum

    return one_step


def vae_step(plan: TrainingPlan, x: Tensor, name: str, k: int) -> Step:
    """Return a step that leaves the gradient of the mean loss per image in ``.grad``; the KL term is in closed form."""
    method = METHODS[name](k)
    model, guide = vae.bound(plan).model, vae.bound(plan).guide
    assert isinstance(model, categorical_vae.Model)
    assert isinstance(guide, categorical_vae.Guide)

    @storch.deterministic
    def reconstruction(z: Tensor, images: Tensor) -> Tensor:
        pixels = model.decoder(z.flatten(-2))
        targets = images.flatten(-2).expand_as(pixels)  # Storchastic gives it as many event dims as z has
        return binary_cross_entropy_with_logits(pixels, targets, reduction="none").sum(-1)

    @storch.deterministic
    def divergence(logits: Tensor) -> Tensor:
        log_q = logits.log_softmax(-1)
        return (log_q.exp() * log_q).sum((-2, -1)) + log_q.shape[-2] * math.log(log_q.shape[-1])

    def one_step() -> None:
        model.zero_grad(set_to_none=True)
        guide.zero_grad(set_to_none=True)
        with _without_validation():
            images = storch.denote_independent(x, 0, "data")
            logits = storch.denote_independent(guide.encode(x), 0, "data")
            z = method(OneHotCategorical(logits=logits))
            storch.add_cost(reconstruction(z, images), "reconstruction")
            storch.add_cost(divergence(logits), "divergence")
            storch.backward()

    return one_step
