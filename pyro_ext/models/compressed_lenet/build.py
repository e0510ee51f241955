"""From a data set and options to a plan of training."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from pyro.infer import Trace_ELBO

from pyro_ext.datasets import Splits
from pyro_ext.inference import AnalyticKL, KLWarmUp, OptimizerSettings, TrainingPlan
from pyro_ext.models.compressed_lenet.compression import Compressor, Rule
from pyro_ext.models.compressed_lenet.plots import compression_plots
from pyro_ext.models.toolkit import Classifier, ImageClassifier, classifier, labelled_images, read_weights
from pyro_ext.nn import AutoGroupSparse, Horseshoe, NormalJeffreys, group_sparse
from pyro_ext.utils.checks import one_of, positive_int, positive_number
from pyro_ext.utils.files import replacing

__all__ = ["Prior", "build"]

Prior = Literal["normal_jeffreys", "horseshoe"]

_SCORES = {"normal_jeffreys": "log α of the scales", "horseshoe": "minus the log-mode of the scales"}
_REMARKS = (
    "`error`, `error_unpruned` and `error_rounded` are in per cent of the images: of the pruned network, of all "
    "posterior means, and of the pruned network rounded to the bits of each layer. `kept` is in per cent of the "
    "weights. Rates of compression are defined in pyro_ext.nn.sparsity_report; `size_1`, `size_2`, ... are the inputs "
    "used by linear layers and the outputs of convolutions, `bits_1`, ... the bits of a weight of each layer."
)


def build(
    data: Splits,
    architecture: Classifier = "lenet_300_100",
    prior: Prior = "normal_jeffreys",
    global_scale: float = 1e-5,
    learning_rate: float = 3e-3,
    log_variance_rate: float = 10.0,
    init_log_variance: float = -9.0,
    kl_warm_up: int = 1000,
    threshold: Rule = "error",
    tolerance: float = 0.2,
    threshold_images: int = 2000,
    weights: str = "",
) -> TrainingPlan:
    """Build a network with groups of weights that can be removed.

    Its ELBO is ``Trace_ELBO`` with closed divergences; ``with_elbo`` of the plan takes another one for
    reparameterised sites. Its optimiser is Adam.

    Args:
        data: images as rows of ``x``, with labels 0 .. C - 1.
        architecture: the network: ``lenet_300_100``, ``lenet_5``, or ``vgg_like`` for images of 32 x 32 pixels.
        prior: the prior of the scales: ``normal_jeffreys`` or ``horseshoe``.
        global_scale: the prior scale of the horseshoe that all groups of a layer share; small ones favour few groups.
        learning_rate: the learning rate of posterior means.
        log_variance_rate: the learning rate of posterior log-variances, as a multiple of that of means; they have far
            to go.
        init_log_variance: the log-variance of all posteriors at the beginning.
        kl_warm_up: the number of steps over which the weight of the divergences rises from 0 to 1; 0 for full weight
            from the beginning, as published.
        threshold: how groups are chosen for removal: ``error`` removes as many of each layer as the error on
            training images allows, ``gap`` cuts at the widest gap between scores, ``none`` removes none.
        tolerance: how far the error on training images may rise when groups are removed by ``threshold="error"``, in
            per cent of the images.
        threshold_images: the number of training images by which ``threshold="error"`` chooses groups.
        weights: a file to begin from, the ``weights.pt`` of a run of ``sparse_lenet`` or ``compressed_lenet`` with this
            architecture; random values if empty.

    Raises:
        ValueError: if an option is out of range, the data have no labels or image shape, or the file cannot be read.
    """
    one_of("prior", prior, _SCORES)
    positive_number("learning_rate", learning_rate)
    positive_number("log_variance_rate", log_variance_rate)
    positive_int("kl_warm_up", kl_warm_up, minimum=0)
    positive_int("threshold_images", threshold_images)
    image_shape, classes = labelled_images(data)
    scale = NormalJeffreys() if prior == "normal_jeffreys" else Horseshoe(global_scale)
    network = group_sparse(classifier(architecture, image_shape, classes, read_weights(weights)), scale)
    model = ImageClassifier(network, len(data.train), image_shape)
    guide = AutoGroupSparse(model, init_log_variance)
    images, labels = data.train.x[:threshold_images], data.train.y
    assert labels is not None
    compressor = Compressor(model, guide, images, labels[:threshold_images], threshold, tolerance)
    programs = AnalyticKL(strict=True).pair(model, guide)
    warm_up = KLWarmUp(0, kl_warm_up)
    if kl_warm_up:
        programs = (warm_up.scaled(programs[0]), warm_up.scaled(programs[1]))
    return TrainingPlan.of(
        *programs,
        Trace_ELBO(max_plate_nesting=1),
        optimizer=OptimizerSettings(
            "Adam", lr=learning_rate, groups={"*log_sigma2*": {"lr": log_variance_rate * learning_rate}}
        ),
        evaluate=compressor.metrics(),
        headline="error",
        plots=compression_plots(compressor, _SCORES[prior]),
        curves={"errors": ("error", "error_unpruned", "error_rounded"), "compression": _RATES},
        curve_labels={"errors": "held-out images classified wrongly (%)", "compression": "compression (factor)"},
        files=_files(compressor),
        schedules=[warm_up.set_num_steps] if kl_warm_up else [],
        diagnose=partial(_diagnose, classes),
        remarks=_REMARKS,
    )


_RATES = ("pruning_compression", "fast_compression", "maximum_compression")


def _files(compressor: Compressor) -> dict[str, Callable[[Path], None]]:
    def report(path: Path) -> None:
        with replacing(path) as partial_file:
            Path(partial_file).write_text(f"{compressor.compressed().report}\n", encoding="utf-8")

    def network(path: Path) -> None:
        """Write the ``state_dict`` of the pruned network, which ``classifier(architecture, ...)`` takes."""
        buffer = io.BytesIO()
        torch.save(compressor.compressed().network.state_dict(), buffer)
        with replacing(path) as partial_file:
            Path(partial_file).write_bytes(buffer.getvalue())

    return {"sparsity.md": report, "weights.pt": network}


def _diagnose(classes: int, metrics: Mapping[str, float]) -> list[str]:
    error = metrics.get("error", 0.0)
    chance = 100 * (1 - 1 / classes)
    if error > 0.9 * chance:
        return [
            f"only {100 - error:.0f} % of the images are classified correctly, about as many as by chance: all groups "
            "have become noise; train longer before the divergences have full weight (kl_warm_up), or with more data"
        ]
    if metrics.get("pruning_compression", 2.0) < 1.05:
        return [
            "hardly any group was removed: log-variances have not come far enough; train longer, or with a larger "
            "log_variance_rate or init_log_variance"
        ]
    return []
