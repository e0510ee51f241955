"""Linear surrogates of the cost on the digits autoencoder with two categorical variables: learned, and best."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.datasets import Splits
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceUnorderedSet_ELBO
from pyro_ext.inference.compare import Subject, compare_gradients
from pyro_ext.models.toolkit import data_plate
from support import vae
from support.timing import interleaved_times

__all__ = ["ESTIMATORS", "SURROGATES", "BestLinear", "measure"]

ESTIMATORS: dict[str, type[TraceLeaveOneOut_ELBO] | type[TraceUnorderedSet_ELBO]] = {
    "leave-one-out": TraceLeaveOneOut_ELBO,
    "unordered set": TraceUnorderedSet_ELBO,
}
SURROGATES = ("plain", "linear", "best linear")
K = 4


class BestLinear:
    r"""The linear function of one-hot values whose differences to the cost have the least variance, datum by datum.

    It is fitted to the costs of all joint values by least squares, weighted by their probabilities.

    Args:
        slopes: the coefficients, ``(B, D, C)``.
    """

    def __init__(self, slopes: Tensor) -> None:
        self.slopes = slopes

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, guide: Any, x: Tensor) -> BestLinear:
        """Fit to the costs of images ``x``, ``(B, D)``, under a categorical autoencoder of two variables."""
        log_q = guide.encode(x).log_softmax(-1)
        num_latents, num_categories = log_q.shape[-2:]
        if num_latents != 2:
            raise ValueError(f"guide must have two latent variables, whose values are enumerated, got {num_latents}")
        codes = torch.cartesian_prod(torch.arange(num_categories), torch.arange(num_categories))
        z = nn.functional.one_hot(codes, num_categories).to(x.dtype)
        of_codes = (z[:, None] * log_q.clamp_min(-1e4)).sum((-1, -2))
        pixels = model.decode(z)[:, None]
        log_p = -nn.functional.binary_cross_entropy_with_logits(
            pixels.expand(-1, len(x), -1), x.expand(len(z), -1, -1), reduction="none"
        ).sum(-1)
        weights, cost = of_codes.exp().double().T, (log_p - of_codes).double().T
        design = z.flatten(1).double()
        centred = design - weights[..., None, :].matmul(design)  # (B, codes, D C)
        left = centred.mT @ (weights[..., None] * centred)
        right = (centred.mT @ (weights * (cost - (weights * cost).sum(-1, keepdim=True)))[..., None]).squeeze(-1)
        slopes = torch.linalg.pinv(left, hermitian=True, rtol=1e-9) @ right[..., None]
        return cls(slopes.squeeze(-1).unflatten(-1, (num_latents, num_categories)).to(x.dtype))

    def __call__(self, fn: Any, value: Tensor) -> Tensor:
        """Return c at the values of a site."""
        return (self.slopes * value).sum((-1, -2))

    def expectation(self, fn: Any) -> Tensor:
        """Return the expectation of c, ``batch_shape``."""
        expected: Tensor = (self.slopes * fn.base_dist.probs).sum((-1, -2))
        return expected


class FixedLogits(PyroModule):
    """A guide whose parameters are the logits of a batch themselves: its gradient is the gradient in the logits.

    Args:
        guide: what computes the logits.
        x: the batch, ``(B, num_pixels)``.
    """

    def __init__(self, guide: Any, x: Tensor) -> None:
        super().__init__()
        self.size = guide.size
        self.logits = nn.Parameter(guide.encode(x).detach())

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample the codes of the batch."""
        with data_plate(self.size, x, index):
            pyro.sample("z", dist.OneHotCategorical(logits=self.logits).to_event(1))


def measure(data: Splits, epochs: int, learning: int, repeats: int, rounds: int) -> dict[str, list[float]]:
    """Train by leave-one-out, let linear surrogates learn at these weights, and measure all estimators.

    Args:
        data: the digits.
        epochs: the number of epochs of training.
        learning: the number of steps that ``"linear"`` learns for.
        repeats: the number of gradients of each estimator.
        rounds: the number of rounds of timed steps.

    Returns:
        Log-variances in the logits and in the weights of the encoder, each with its standard error, then the
        processor's milliseconds of a step, for each estimator and surrogate.
    """
    plan = vae.autoencoder(data, 2)
    vae.train(plan, TraceLeaveOneOut_ELBO(K, max_plate_nesting=1), data.train, epochs)
    model, guide = vae.bound(plan).model, vae.bound(plan).guide
    batch = (data.train.x[: vae.BATCH_SIZE], None, torch.arange(vae.BATCH_SIZE))
    given = {"plain": None, "linear": "linear", "best linear": {"z": BestLinear.of(model, guide, batch[0])}}
    elbos: dict[str, ELBO] = {
        f"{name}, {surrogate}": make(K, max_plate_nesting=1, control_variate=given[surrogate])
        for name, make in ESTIMATORS.items()
        for surrogate in SURROGATES
    }
    for name, elbo in elbos.items():
        if name.endswith(", linear"):
            vae.learn(plan, elbo, data.train, learning)
    figures = [
        compare_gradients(elbos, Subject(model, encoder, batch, size=len(data.train)), repeats=repeats)
        for encoder in (FixedLogits(guide, batch[0]), guide)
    ]
    times = interleaved_times({name: vae.step(plan, elbo, batch) for name, elbo in elbos.items()}, rounds)
    return {
        name: [
            *(x for of in figures for x in (of[name].log_variance["encoder"], of[name].log_variance_error["encoder"])),
            times[name].cpu,
        ]
        for name in elbos
    }
