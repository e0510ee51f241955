"""The training plan of the constrained autoencoder, and of what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from pyro.infer import ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_ext.datasets import Splits
from pyro_ext.inference import (
    Constraint,
    LikelihoodConstraint,
    OptimizerSettings,
    PatchCorrelationConstraint,
    ReconstructionConstraint,
    TraceGECO_ELBO,
    TrainingPlan,
)
from pyro_ext.models.geco_vae.model import Architecture, DivergenceWeight, Guide, Likelihood, Model
from pyro_ext.models.toolkit import check_image_data, image_rows, linear_ramp, mean_metrics, sample_images
from pyro_ext.utils.checks import one_of, positive_int, positive_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["build"]

_FIRST_WEIGHT = 1e-3  # of the divergence at the first step of its warm-up: Pyro wants positive scales
_FAR = 0.2  # of the constraint's size; further away, training has not converged
_COLLAPSED = 0.1  # nats; with less, the code says nothing of an image
_COLLAPSED_ADVICE = (
    "; the code has collapsed, so begin with a larger multiplier and keep it for a while, --model.multiplier_start 100 "
    "--model.multiplier_warm_up 300, say"
)


def build(
    data: Splits,
    constraint: Literal["reconstruction", "likelihood", "patches", "none"] = "reconstruction",
    tolerance: float = 1.0,
    multiplier_rate: float = 0.02,
    multiplier_look_ahead: float = 200.0,
    multiplier_decay: float = 0.95,
    multiplier_start: float = 1.0,
    multiplier_warm_up: int = 0,
    architecture: Architecture = "perceptron",
    num_latents: int = 10,
    hidden: tuple[int, ...] = (128,),
    likelihood: Likelihood = "normal",
    sigma: float = 1.0,
    beta: float = 1.0,
    divergence_warm_up: int = 0,
    input_noise: float = 0.0,
    evaluation_seed: int = 0,
) -> TrainingPlan:
    """Build the constrained autoencoder for a data set of images.

    Its ELBO is ``TraceGECO_ELBO`` around ``TraceMeanField_ELBO``; ``--elbo`` replaces the inner one. Without a
    constraint, it is ``TraceMeanField_ELBO`` alone. Its optimiser is Adam at 2e-3; with a rate that falls towards the
    end, as by ``--scheduler MultiStepLR``, the error that training ends with is closer to the one allowed.

    Args:
        data: images as rows of pixels in [0, 1], shape ``(N, pixels)``, of a known ``image_shape``.
        constraint: what is constrained: the squared error of an image, its negative log-likelihood under the decoder,
            the correlation of patches, or nothing, for the usual bound.
        tolerance: the root of the squared error allowed for an image; or the negative log-likelihood allowed, in nats;
            or the mean correlation of patches asked for, below 1.
        multiplier_rate: the rate at which the multiplier changes.
        multiplier_look_ahead: the number of steps by which the multiplier looks ahead, about as many as networks take
            to follow it; with 0 it overshoots where the tolerance is small.
        multiplier_decay: the weight of the past in the moving average of the constraint.
        multiplier_start: the multiplier at the first step. Where the mean image is hardly worse than the tolerance, as
            for faces, a small one lets the code collapse before the decoder has learnt to use it, for good: begin with
            100, say, and a warm-up.
        multiplier_warm_up: the number of steps in which the multiplier stays as it is.
        architecture: fully connected networks, or two convolutions next to the image.
        num_latents: the number of latent variables.
        hidden: the widths of the encoder's hidden layers, mirrored in the decoder.
        likelihood: the distribution of a pixel: ``"normal"`` with the standard deviation ``sigma``, ``"calibrated"``,
            the same with a standard deviation that is learnt, or ``"bernoulli"``.
        sigma: the standard deviation of normal pixels; its value at the first step where it is learnt.
        beta: the weight of the divergence from the prior.
        divergence_warm_up: the number of steps in which the weight of the divergence rises to ``beta``.
        input_noise: the standard deviation of noise on the encoder's images in training.
        evaluation_seed: the seed of the codes drawn in evaluation.

    Raises:
        ValueError: if an argument is out of range, or the data are no images.
    """
    image_shape = _image_shape(data)
    ramp = linear_ramp(_FIRST_WEIGHT, positive_int("divergence_warm_up", divergence_warm_up, minimum=0))
    weight = DivergenceWeight(positive_number("beta", beta) * ramp(0))
    size = len(data.train)
    model = Model(size, image_shape, num_latents, hidden, architecture, likelihood, sigma, weight)
    guide = Guide(size, image_shape, num_latents, hidden, architecture, input_noise, weight)
    elbo: ELBO = TraceMeanField_ELBO(max_plate_nesting=1)
    limit = _constraint(constraint, tolerance, image_shape)
    if limit is not None:
        elbo = TraceGECO_ELBO(
            elbo,
            {"x": limit},
            rate=multiplier_rate,
            look_ahead=multiplier_look_ahead,
            decay=multiplier_decay,
            start=multiplier_start,
            warm_up=multiplier_warm_up,
        )
    evaluate = mean_metrics(model, lambda x, *_: _metrics(model, guide, x), evaluation_seed)
    return TrainingPlan.of(
        model,
        guide,
        elbo,
        optimizer=OptimizerSettings("Adam", lr=2e-3),
        evaluate=lambda loader: _with_calibrated_bound(evaluate(loader), image_shape, likelihood),
        headline="neg_elbo" if likelihood == "bernoulli" else "calibrated_neg_elbo",
        plots=_plots(model, guide, data, evaluation_seed),
        curve_labels={"multiplier": "multiplier", "constraint": "constraint, 0 where it is just fulfilled"},
        curves={} if limit is None else {"multiplier": ("train_multiplier_x",), "constraint": ("train_constraint_x",)},
        schedules=[lambda step: _set(weight, beta * ramp(step))],
        diagnose=None if limit is None else lambda metrics: _diagnose(metrics, limit),
        remarks=_REMARKS,
    )


_REMARKS = (
    "`calibrated_neg_elbo` is the negative ELBO of a normal decoder whose variance is the mean squared error of these "
    "images, so that it compares models with different decoders and constraints."
)


def _constraint(kind: str, tolerance: float, image_shape: tuple[int, int]) -> Constraint | None:
    one_of("constraint", kind, ("reconstruction", "likelihood", "patches", "none"))
    if kind == "reconstruction":
        return ReconstructionConstraint(tolerance)
    if kind == "likelihood":
        return LikelihoodConstraint(tolerance, scale=max(1.0, abs(tolerance)))
    if kind == "patches":
        return PatchCorrelationConstraint(tolerance, image_shape, patch=min(4, *image_shape))
    return None


def _image_shape(data: Splits) -> tuple[int, int]:
    check_image_data(data, binary=False, held_out=True)
    if data.image_shape is None:
        return (1, data.train.x.shape[-1])
    height, width = data.image_shape
    return height, width


def _set(weight: DivergenceWeight, value: float) -> None:
    weight.value.fill_(value)


def _metrics(model: Model, guide: Guide, x: Tensor) -> dict[str, Tensor]:
    """Return metrics of each image, at one code drawn for it."""
    code = guide.encode(x)
    pixels = model.pixels(code.rsample())
    kl = torch.distributions.kl_divergence(code.base_dist, torch.distributions.Normal(model.zero, 1.0)).sum(-1)
    neg_log_likelihood = -pixels.log_prob(x)
    return {
        "kl": kl,
        "squared_error": (pixels.mean - x).square().sum(-1),
        "neg_log_likelihood": neg_log_likelihood,
        "neg_elbo": neg_log_likelihood + kl,
    }


def _with_calibrated_bound(
    metrics: dict[str, float], image_shape: tuple[int, int], likelihood: str
) -> dict[str, float]:
    if likelihood == "bernoulli":
        return metrics
    pixels = image_shape[0] * image_shape[1]
    variance = metrics["squared_error"] / pixels
    bound = 0.5 * pixels * math.log(2 * math.pi * math.e * max(variance, 1e-12)) + metrics["kl"]
    return metrics | {"calibrated_neg_elbo": bound}


def _diagnose(metrics: Mapping[str, float], limit: Constraint) -> list[str]:
    distance = metrics.get("train_constraint_x", 0.0) / limit.scale
    if abs(distance) <= _FAR:
        return []
    where = "violated" if distance > 0 else "more than fulfilled"
    return [
        f"the constraint is still {where} by {abs(distance):.0%} of its size, so the multiplier has not converged; "
        "train longer, or with a larger --model.multiplier_rate"
        + (_COLLAPSED_ADVICE if distance > 0 and metrics.get("kl", math.inf) < _COLLAPSED else "")
    ]


def _plots(model: Model, guide: Guide, data: Splits, seed: int, number: int = 10) -> dict[str, Callable[..., Axes]]:
    shape = model.image_shape

    def reconstruction() -> list[Tensor]:
        """Return held-out images and their reconstructions from the means of their codes."""
        x = data.valid.x[:number].to(model.zero)
        return [x, model.pixels(guide.encode(x).mean).mean]

    def samples(number: int) -> Tensor:
        """Return the means of pixels for codes drawn from the prior."""
        return model.pixels(torch.randn(number, model.num_latents).to(model.zero)).mean

    return {
        "reconstruction": image_rows(
            reconstruction, shape, "held-out images, and their reconstructions", ("image", "reconstruction")
        ),
        "samples": sample_images(samples, shape, seed=seed, title="means of pixels at codes drawn from the prior"),
    }
