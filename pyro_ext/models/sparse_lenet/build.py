"""From a data set and options to a training plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pyro.infer import Trace_ELBO

from pyro_ext.datasets import Splits
from pyro_ext.inference import (
    AnalyticKL,
    ELBOObjective,
    KLWarmUp,
    Objective,
    OptimizerSettings,
    Player,
    PruningObjective,
    SchedulerSettings,
    TrainingPlan,
)
from pyro_ext.models.sparse_lenet.evaluation import diagnose, evaluation, model_files, model_plots
from pyro_ext.models.sparse_lenet.model import NoGuide, SparseClassifier
from pyro_ext.models.toolkit import Classifier, labelled_images, read_weights
from pyro_ext.nn import AutoAdditiveNormal, AutoMultiplicativeNormal, GradualMagnitudePruning, log_uniform_prior
from pyro_ext.ops.log_uniform import KL_FORMS, KLForm
from pyro_ext.utils.checks import finite_number, nonnegative_number, one_of, positive_int, positive_number

__all__ = ["Estimator", "build"]

Estimator = Literal["sparse", "multiplicative", "dense", "magnitude"]
_ESTIMATORS = ("sparse", "multiplicative", "dense", "magnitude")


def build(
    data: Splits,
    architecture: Classifier = "lenet_300_100",
    estimator: Estimator = "sparse",
    epochs: int = 200,
    batch_size: int = 100,
    lr: float = 1e-3,
    warm_up_start: float = 5.0,
    warm_up_end: float = 20.0,
    kl: KLForm = "approx",
    init_log_variance: float = -10.0,
    threshold: float = 3.0,
    sparsity: float = 0.98,
    weights: str = "",
) -> TrainingPlan:
    """Build a classifier whose weights are pruned in training, or one that it is compared with.

    Its ELBO is :class:`pyro.infer.Trace_ELBO` with closed divergences, which ``with_elbo`` of the plan replaces by any
    other linear one. Its optimiser is Adam, whose learning rate stays for the first half of the epochs and then falls
    linearly to zero. Epochs, those of the warm-up too, are counted in batches of ``batch_size``: train with that.

    Args:
        data: images as rows of ``x``, ``(N, pixels)``, with classes ``y`` and an ``image_shape``.
        architecture: the network: ``"lenet_300_100"``, ``"lenet_5"``, or ``"vgg_like"`` for images of 32 x 32.
        estimator: ``"sparse"`` for sparse variational dropout, ``"multiplicative"`` for Kingma's variational dropout,
            ``"magnitude"`` for gradual pruning by magnitude, or ``"dense"`` for the network as it is.
        epochs: the number of epochs that training will take, by which learning rate and pruning are planned.
        batch_size: the number of images in a batch, by which epochs are counted.
        lr: the learning rate at the beginning.
        warm_up_start: the epoch at which the factor of the divergence begins to rise from 0.
        warm_up_end: the epoch from which on that factor is 1; 0 for no warm-up.
        kl: the form of the divergence, ``"approx"`` or ``"exact"``.
        init_log_variance: the log-variance of weights at the beginning.
        threshold: the ``log_alpha`` from which on a weight is removed.
        sparsity: the fraction of weights that ``estimator="magnitude"`` has removed in the end.
        weights: a file to begin from, the ``weights.pt`` of a run with this architecture; random values if empty.

    Raises:
        ValueError: if an option is out of range, the data are no labelled images of the right size, or the file
            cannot be read.
    """
    one_of("estimator", estimator, _ESTIMATORS)
    one_of("kl", kl, KL_FORMS)
    positive_int("epochs", epochs)
    positive_number("lr", lr)
    finite_number("init_log_variance", init_log_variance)
    start, end = nonnegative_number("warm_up_start", warm_up_start), nonnegative_number("warm_up_end", warm_up_end)
    if 0 < end < start:
        raise ValueError(
            f"warm_up_end={end:g} lies before warm_up_start={start:g}: give a later warm_up_end, or 0 for no warm-up"
        )
    shape, classes = labelled_images(data)
    steps = math.ceil(len(data.train) / positive_int("batch_size", batch_size))
    has_prior = estimator in ("sparse", "multiplicative")
    prior = partial(log_uniform_prior, kl=kl) if has_prior else None
    model = SparseClassifier(len(data.train), shape, classes, architecture, prior, read_weights(weights))
    guide = _guide(estimator, model, init_log_variance, threshold)
    warm_up = KLWarmUp(min(start, end) * steps, end * steps, every=steps)
    programs = AnalyticKL(strict=True).pair(model, guide) if has_prior else (model, guide)
    scaled = [warm_up.scaled(program) for program in programs]
    objective: Objective = ELBOObjective(scaled[0], scaled[1], Trace_ELBO(), size=len(data.train))
    schedules: list[Callable[[int], None]] = [warm_up.set_num_steps]
    if estimator == "magnitude":
        pruning = _pruning(model, sparsity, epochs, steps)
        objective = PruningObjective(objective, pruning)
        schedules.append(pruning.set_num_steps)
    decay = SchedulerSettings(_DECAY, start=epochs / 2, end=epochs)
    return TrainingPlan(
        [Player("model", objective, optimizer=OptimizerSettings("Adam", lr=lr, scheduler=decay))],
        evaluate=evaluation(model, guide),
        headline="error",
        plots=model_plots(model, guide, data),
        curves={"error": ("error",), "sparsity": ("sparsity",)},
        curve_labels={"error": "held-out images classified wrongly (%)", "sparsity": "weights removed (%)"},
        files=model_files(model, guide),
        schedules=schedules,
        diagnose=diagnose,
    )


_DECAY = "pyro_ext.models.toolkit.schedules.ConstantThenLinear"


def _guide(estimator: Estimator, model: SparseClassifier, init_log_variance: float, threshold: float) -> Any:
    if estimator == "sparse":
        return AutoAdditiveNormal(model, init_log_variance, threshold=threshold)
    if estimator == "multiplicative":
        return AutoMultiplicativeNormal(model, threshold=threshold)
    return NoGuide()


def _pruning(model: SparseClassifier, sparsity: float, epochs: int, steps: int) -> GradualMagnitudePruning:
    """Prune from a tenth of the epochs to six tenths; the rest is for the weights left to recover."""
    total = epochs * steps
    begin, end = total // 10, max(total // 10 + 1, 6 * total // 10)
    return GradualMagnitudePruning(model.net, sparsity, begin=begin, end=end, every=max(1, (end - begin) // 100))
