"""From a data set and options to a plan of training: networks by name, metrics, and ``build``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import Splits, choose_labelled
from pyro_ext.inference import OptimizerSettings, Player, TrainingPlan
from pyro_ext.models.drmm.cells import Switch
from pyro_ext.models.drmm.layers import BatchNorm, Layer
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.objective import LossWeights, SemiSupervisedObjective, entropies
from pyro_ext.models.drmm.plots import model_plots
from pyro_ext.models.toolkit import mean_metrics
from pyro_ext.utils.checks import one_of

__all__ = ["ARCHITECTURES", "Architecture", "build", "held_out_metrics"]

Architecture = Literal["digits", "mnist_small", "mnist", "cifar"]

ARCHITECTURES: Mapping[str, tuple[Layer, ...]] = MappingProxyType(
    {
        "digits": (Layer(16, 3, pool=2, padding=1), Layer(32, 3, pool=2, padding=1)),
        "mnist_small": (
            Layer(16, 5, pool=2, padding=4),
            Layer(32, 3),
            Layer(32, 3, pool=2, padding=2),
            Layer(64, 3, mean_pool=6),
        ),
        "mnist": (
            Layer(32, 5, pool=2, padding=4),
            Layer(64, 3),
            Layer(64, 3, pool=2, padding=2),
            Layer(128, 3, mean_pool=6),
        ),
        "cifar": (
            *(Layer(128, 3, pool=pool, padding=1, switch="leaky") for pool in (1, 1, 2)),
            *(Layer(256, 3, pool=pool, padding=1, switch="leaky") for pool in (1, 1, 2)),
            Layer(512, 3, switch="leaky"),
            Layer(256, 1, switch="leaky"),
            Layer(128, 1, mean_pool=6, switch="leaky"),
        ),
    }
)
"""Name -> layers: a small network for 8 x 8 digits, the published one for MNIST with half its channels, and those
published for MNIST and CIFAR-10."""

_SMALL = 16  # pixels; up to this height the network is the one for digits

_REMARKS = (
    "`error` is in per cent of the images, `label_loss` and `entropy` are in nats. `reconstruction` is the mean square "
    "error per pixel of the image rendered from the best class and switches; that of a blank image is {blank:.4f}. "
    "`train_loss` is the weighted sum of the losses `train_label` to `train_nonnegativity`, which are not weighted."
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
) -> TrainingPlan:
    """Build the model for images of which only a few labels are used.

    With all weights but ``label_weight`` at zero it is a supervised network of the same layers.

    Args:
        data: images as rows of ``x``, with labels 0 .. C - 1.
        num_labels: the number of labels of the training data to use, equally many of each class; all of them if None.
        architecture: the name of the network; by default the one for digits up to a height of 16 pixels, else the one
            for MNIST, or for CIFAR-10 where images are in colour.
        switch: the on/off values of the units; the network for CIFAR-10 has leaky ones.
        batch_norm: whether channels are normalised over the batch: not at all, on the way up, or on both ways.
        noise: the standard deviation of the pixels; the scores are divided by its square.
        label_weight: the weight of the negative log-probability of labels.
        reconstruction_weight: the weight of the mean squared error per pixel; a weight of about 5 halves that error on
            digits, and changes the classification error by no more than another seed does.
        entropy_weight: the weight of the entropy of the class given the image, which is minimised.
        kl_weight: the weight of the divergence of the class given the image from its prior, which is minimised as in
            the ELBO; it acts against ``entropy_weight``.
        nonnegativity_weight: the weight of the mean square of negative entries in rendered templates.
        labelled_batch_size: the number of labelled images that join each batch.
        label_seed: the seed by which the images that keep their labels are chosen.

    Raises:
        ValueError: if an option is out of range, or the data have no labels or image shape.
    """
    weights = LossWeights(label_weight, reconstruction_weight, entropy_weight, kl_weight, nonnegativity_weight)
    classes = _check(data)
    shape = data.image_shape
    assert shape is not None
    channels = data.train.x.shape[1] // (shape[0] * shape[1])
    if architecture is None:
        architecture = "digits" if shape[0] <= _SMALL else "mnist" if channels == 1 else "cifar"
    layers = ARCHITECTURES[one_of("architecture", architecture, ARCHITECTURES)]
    labelled = data.train if num_labels is None else choose_labelled(data.train, num_labels, classes, label_seed)
    model = DRMM(
        layers, classes, (channels, *shape), switch=switch, noise=noise, batch_norm=batch_norm, size=len(data.train)
    )
    objective = SemiSupervisedObjective(model, labelled, weights, labelled_batch_size)
    return TrainingPlan(
        [Player("model", objective, optimizer=OptimizerSettings("Adam", lr=4e-3))],
        evaluate=mean_metrics(model, partial(held_out_metrics, model)),
        headline="error",
        plots=model_plots(model, data.train.x, data.valid.x),
        remarks=_REMARKS.format(blank=data.valid.x.square().mean().item()),
    )


def held_out_metrics(model: DRMM, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> dict[str, Tensor]:
    """Return ``error`` in per cent, ``label_loss``, ``reconstruction`` and ``entropy`` of each image, all ``(B,)``.

    The reconstruction is that of the best class, not of the label; its error is the mean square per pixel.

    Args:
        model: the model, in evaluation mode where there is batch norm.
        x: images, ``(B,) + image_shape``, or flattened, ``(B, D)``.
        y: labels, ``(B,)``.
        index: the images' places in the data set, which are ignored.

    Raises:
        ValueError: if there are no labels.

    Example:
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> sorted(held_out_metrics(model, torch.rand(5, 64), torch.tensor([0, 1, 2, 0, 1])))
        ['entropy', 'error', 'label_loss', 'reconstruction']
    """
    if y is None:
        raise ValueError("loader must hold labels, got None")
    images = model.as_images(x)
    inferred = model.infer(images)
    logits = inferred.scores / model.noise**2
    rendered = model.rendering(model.choose_class(inferred.scores), inferred.switches).image
    return {
        "error": 100 * (logits.argmax(-1) != y).to(logits.dtype),
        "label_loss": F.cross_entropy(logits, y, reduction="none"),
        "reconstruction": (rendered - images).square().mean((-1, -2, -3)),
        "entropy": entropies(logits),
    }


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
