"""From a data set and options to a model ready to fit."""

from __future__ import annotations

from typing import Literal

import pyro
from pyro.infer import Trace_ELBO

from pyro_ext.datasets import Splits
from pyro_ext.inference.fit.built import Built
from pyro_ext.models.drmm.architectures import ARCHITECTURES
from pyro_ext.models.drmm.assessment import Assessment
from pyro_ext.models.drmm.cells import Switch
from pyro_ext.models.drmm.losses import Weights
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.pictures import pictures
from pyro_ext.models.drmm.rendering_layer import BatchNorm
from pyro_ext.models.drmm.semi_supervised import SemiSupervised, choose_labelled, no_guide

__all__ = ["Architecture", "build"]

Architecture = Literal["digits", "mnist_small", "mnist", "cifar"]

_SMALL = 16  # pixels; up to this height the network is the one for digits

_REMARKS = (
    "`error` is in per cent of the images, `label_loss` and `entropy` are in nats. `reconstruction` is the mean square "
    "error per pixel of what the best class and switches render; that of a blank image is {blank:.4f}."
)


def build(
    data: Splits,
    num_labels: int | None = 50,
    architecture: Architecture | None = None,
    switch: Switch = "relu",
    batch_norm: BatchNorm = "both",
    noise: float = 1.0,
    label_weight: float = 1.0,
    reconstruction_weight: float = 0.5,
    entropy_weight: float = 0.5,
    kl_weight: float = 0.0,
    nonnegativity_weight: float = 0.5,
    labelled_batch_size: int = 50,
    label_seed: int = 0,
) -> Built:
    """Build the model for images of which only a few labels are used.

    With all weights but ``label_weight`` at zero it is a supervised network of the same shape and budget.

    Args:
        data: images as rows of ``x``, with labels 0 .. C - 1.
        num_labels: how many labels of the training data to use, equally many of each class; all of them if None.
        architecture: the layers; by default those for digits up to 16 pixels of height, else those for MNIST, or
            CIFAR-10 in colour.
        switch: on/off values of the units; the network for CIFAR-10 has leaky ones.
        batch_norm: normalises channels on the way up, or on both ways.
        noise: the standard deviation of pixels, which also divides the scores.
        label_weight: of the negative log-probability of labels.
        reconstruction_weight: of the mean squared error per pixel; about 5 halves that error on digits, while the
            error of the classifier stays within the differences between seeds.
        entropy_weight: of the entropy of q(c), which a positive weight minimises.
        kl_weight: of its divergence from the prior, with the opposite sign, that of the ELBO.
        nonnegativity_weight: of the squares of negative entries in rendered templates.
        labelled_batch_size: how many labelled images join each batch.
        label_seed: which images keep their labels.

    Raises:
        ValueError: if an option is out of range, or the data have no labels or image shape.
    """
    weights = Weights(label_weight, reconstruction_weight, entropy_weight, kl_weight, nonnegativity_weight)
    classes = _check(data)
    shape = data.image_shape
    assert shape is not None
    channels = data.train.x.shape[1] // (shape[0] * shape[1])
    if architecture is None:
        architecture = "digits" if shape[0] <= _SMALL else "mnist" if channels == 1 else "cifar"
    elif architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}; got {architecture!r}")
    labelled = data.train if num_labels is None else choose_labelled(data.train, num_labels, classes, label_seed)
    # Modules made under local parameters serve engines that use them and users who do not.
    with pyro.settings.context(module_local_params=True):
        drmm = DRMM(
            ARCHITECTURES[architecture],
            classes,
            (channels, *shape),
            switch=switch,
            noise=noise,
            batch_norm=batch_norm,
            size=len(data.train),
        )
        model = SemiSupervised(drmm, labelled, weights, len(data.train), labelled_batch_size)
    return Built(
        model=model,
        guide=no_guide,
        elbo=Trace_ELBO(),
        evaluate=Assessment(drmm).metrics,
        plots=pictures(drmm, data.train.x, data.valid.x),
        remarks=_REMARKS.format(blank=data.valid.x.square().mean().item()),
    )


def _check(data: Splits) -> int:
    """Return the number of classes."""
    if data.image_shape is None or data.train.x.dim() != 2:
        raise ValueError(f"data must be images as rows of x with an image_shape, got {data.train}")
    height, width = data.image_shape
    if data.train.x.shape[1] % (height * width):
        raise ValueError(f"data.train.x must have rows of {height} x {width} pixels, got {data.train.x.shape[1]}")
    if data.train.y is None:
        raise ValueError("data.train must have labels, got none")
    classes = int(data.train.y.max()) + 1
    for name, part in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if part is None:
            continue
        if part.y is None:
            raise ValueError(f"data.{name} must have labels, got none")
        wrong = part.y[(part.y < 0) | (part.y >= classes)]
        if len(wrong):
            raise ValueError(f"data.{name}.y must hold classes 0 .. {classes - 1}, got {int(wrong[0])}")
    return classes
