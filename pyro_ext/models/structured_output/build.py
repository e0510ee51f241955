"""From a data set and options to a training plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from pyro.infer import ELBO
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_ext.datasets import Splits
from pyro_ext.inference import OptimizerSettings, TraceVIMCO_ELBO, TrainingPlan
from pyro_ext.models.structured_output.baselines import LearnedBaselineELBO
from pyro_ext.models.structured_output.density import DensityGuide, DensityModel
from pyro_ext.models.structured_output.evaluation import density_plots, importance_bounds, lower_half_plots
from pyro_ext.models.structured_output.layers import Coding, Units
from pyro_ext.models.structured_output.lower_half import LowerHalfGuide, LowerHalfModel, UpperHalfLayers
from pyro_ext.models.toolkit import Relaxation, base_rate_logits, check_image_data, mean_metrics
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["Task", "build"]

Task = Literal["lower_half", "density"]

_NO_BOUND = (
    "With the divergence in closed form, which is the same for all samples, `train_loss` of more than one sample is "
    "not minus a lower bound, and can fall below the negative log-likelihood: straight-through, "
    "`--model.relaxation.objective relaxed_categorical` gives the bound of the discrete model."
)
_SMALL_IMAGE = 256  # pixels; up to here learning rates are those for 8 x 8 digits


def build(
    data: Splits,
    task: Task = "lower_half",
    layers: int = 2,
    units: int = 200,
    categories: int = 2,
    coding: Coding = "corners",
    nonlinear: bool = False,
    samples: int = 5,
    evaluation_samples: int = 100,
    evaluation_seed: int = 0,
    relaxation: Relaxation | None = None,
) -> TrainingPlan:
    """Build a network of discrete layers for a data set of binary images.

    Its ELBO is ``TraceVIMCO_ELBO`` of ``samples`` samples, or of one sample the score function with learned baselines;
    ``with_elbo`` of the plan takes another one. With a relaxation, for example ``pyro-ext fit structured_output
    --model.relaxation.objective relaxed_density --model.relaxation.straight_through false
    --model.relaxation.temperature .67``, it is the same bound of relaxed samples. Its optimiser is Adam, at 3e-3 for
    images of up to 256 pixels and at 1e-3 for larger ones.

    Args:
        data: images as rows of ``x``, ``(N, D)``, of zeros and ones; for ``"lower_half"`` with an ``image_shape``.
        task: ``"lower_half"``, to predict the lower half of an image from its upper half, or ``"density"``, to model
            whole images.
        layers: the number of discrete layers.
        units: the width of a layer: how many numbers it passes on.
        categories: the number of states of each discrete variable.
        coding: what a state stands for: with ``"corners"`` a corner of the cube of -1 and 1, with ``"one_hot"`` a
            one-hot vector.
        nonlinear: whether there are two layers of tanh units between discrete layers.
        samples: the number of samples in the bound that is maximised, unless another ELBO is given, which has options
            of its own. With 1 it is the ELBO.
        evaluation_samples: the number of samples in the bound by which held-out images are evaluated.
        evaluation_seed: the seed of the samples by which held-out images are evaluated, and of those in the plots; they
            are the same at each epoch.
        relaxation: how to train through relaxed units, instead of an estimator for discrete ones. For densities with
            more than one sample choose the objective ``"relaxed_density"`` or ``"relaxed_categorical"``: the default
            one, ``"categorical"``, is no lower bound then.

    Raises:
        ValueError: if an option is out of range, the images are not rows of zeros and ones, or their height is odd
            where halves are asked for.
    """
    one_of("task", task, ("lower_half", "density"))
    positive_int("layers", layers)
    positive_int("samples", samples)
    positive_int("evaluation_samples", evaluation_samples)
    check_image_data(data)
    hidden = Units(units, categories, coding)
    if task == "density":
        parts = _density(data, hidden, layers, nonlinear, evaluation_seed)
    else:
        if relaxation is not None and relaxation.model_temperature is not None:
            raise ValueError(
                "relaxation.model_temperature must be None with task='lower_half', whose model and guide share their "
                f"hidden layers, got {relaxation.model_temperature}"
            )
        parts = _lower_half(data, hidden, layers, nonlinear, evaluation_seed, scored=relaxation is None)
    multi_sample = TraceVIMCO_ELBO(num_particles=samples, vectorize_particles=True, max_plate_nesting=1)
    width = max(data.train.x.shape[-1], hidden.num_logits)
    plan = TrainingPlan.of(
        parts.model,
        parts.guide,
        parts.score_function if samples == 1 else multi_sample,
        optimizer=OptimizerSettings("Adam", lr=3e-3 if data.train.x.shape[-1] <= _SMALL_IMAGE else 1e-3),
        evaluate=mean_metrics(parts.model, _metrics(parts, evaluation_samples, width), evaluation_seed),
        headline="neg_log_likelihood",
        plots=parts.plots,
        curves={"bounds": ("neg_log_likelihood", "neg_elbo")},
        diagnose=_diagnose,
    )
    if relaxation is None:
        return plan
    if task == "density" and samples > 1 and relaxation.objective == "categorical":
        plan = replace(plan, remarks=_NO_BOUND)
    return relaxation.of(plan, multi_sample)


class _Parts(NamedTuple):
    """What differs between the tasks.

    Attributes:
        model: the model.
        guide: its guide.
        score_function: the ELBO of one sample.
        plots: the plots.
        observed: which pixels the model is to predict.
        base_rates: the log-odds of those in the training data.
    """

    model: Any
    guide: Any
    score_function: ELBO
    plots: dict[str, Callable[..., Any]]
    observed: slice
    base_rates: Tensor


def _density(data: Splits, units: Units, layers: int, nonlinear: bool, seed: int) -> _Parts:
    x, size = data.train.x, len(data.train)
    model = DensityModel(size, x.shape[-1], units, layers, nonlinear)
    model.start_at_base_rates(x)
    guide = DensityGuide(size, x.mean(0), units, layers, nonlinear)
    elbo = LearnedBaselineELBO(model.parents, _sizes(units, guide.sites), x.mean(0))
    return _Parts(model, guide, elbo, density_plots(model, data, seed), slice(None), base_rate_logits(x))


def _lower_half(data: Splits, units: Units, layers: int, nonlinear: bool, seed: int, scored: bool) -> _Parts:
    x, size, half = data.train.x, len(data.train), _half(data)
    hidden = UpperHalfLayers(x[:, :half].mean(0), units, layers, nonlinear, scored)
    model = LowerHalfModel(size, hidden, x.shape[-1] - half, nonlinear)
    model.start_at_base_rates(x[:, half:])
    elbo = LearnedBaselineELBO(model.parents, _sizes(units, hidden.sites), x.mean(0), shared=True)
    guide = LowerHalfGuide(size, hidden)
    rates = base_rate_logits(x[:, half:])
    return _Parts(model, guide, elbo, lower_half_plots(model, data, seed), slice(half, None), rates)


def _sizes(units: Units, sites: tuple[str, ...]) -> dict[str, int]:
    return dict.fromkeys(sites, units.num_logits)


def _half(data: Splits) -> int:
    """Return the number of pixels in the upper half."""
    if data.image_shape is None:
        raise ValueError(
            "data.image_shape must be (height, width) with task='lower_half', got None; give Splits the shape"
        )
    height, width = data.image_shape
    if height % 2 or height * width != data.train.x.shape[-1]:
        raise ValueError(
            "data.image_shape must have an even height, and as many pixels as a row of data.train.x has "
            f"({data.train.x.shape[-1]}), with task='lower_half', got {data.image_shape}; cut or pad the images"
        )
    return height // 2 * width


def _metrics(parts: _Parts, num_samples: int, width: int) -> Callable[..., dict[str, Tensor]]:
    def metrics(x: Tensor, *_: Any) -> dict[str, Tensor]:
        bound, elbo = importance_bounds(parts.model, parts.guide, num_samples, width, x)
        observed = x[:, parts.observed]
        rates = parts.base_rates.to(x).expand_as(observed)
        base = binary_cross_entropy_with_logits(rates, observed, reduction="none").sum(-1)
        return {"neg_log_likelihood": bound, "neg_elbo": elbo, "base_rate": base}

    return metrics


def _diagnose(metrics: Mapping[str, float]) -> list[str]:
    bound, base = metrics.get("neg_log_likelihood", -math.inf), metrics.get("base_rate", math.inf)
    if bound < base:
        return []
    return [
        f"images cost {bound:.2f} nats, and {base:.2f} by the frequencies of single pixels: the hidden layers say "
        "nothing; train longer, with another learning rate, or with more samples"
    ]
