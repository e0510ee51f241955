r"""Training on images of which a few have labels, as a Pyro program of weighted losses.

The program has no latent sites: a factor for each of the losses of :mod:`.losses`, times minus the number of data
points, makes minus any ELBO per data point

.. math::  w_H L_H + w_{RC} L_{RC} + w_E H(q) + w_{KL} KL(q \| \pi) + w_{NN} L_{NN}.

Labelled images are few, so each step takes some of them besides the batch: these serve :math:`L_H` alone, in the same
pass upwards, so that batch norm sees both kinds in training as in evaluation. Nothing is rendered where neither
:math:`L_{RC}` nor :math:`L_{NN}` counts.
"""

from __future__ import annotations

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_ext.datasets import IndexedDataset
from pyro_ext.models.drmm.losses import Weights, training_losses
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.programs import as_images
from pyro_ext.utils.checks import positive_int

__all__ = ["SemiSupervised", "choose_labelled", "no_guide"]


class SemiSupervised(PyroModule):
    """The losses of a batch and of some labelled images.

    Args:
        drmm: what to train.
        labelled: images, rows of pixels or ``image_shape``, and their labels.
        weights: of the losses.
        size: the number N of data points.
        labelled_batch_size: how many labelled images to draw per step, without replacement; all if there are fewer.

    Raises:
        ValueError: if a label is out of range, or the images are of another shape.

    Example:
        >>> from pyro_ext.models.drmm import Layer
        >>> drmm = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> labelled = IndexedDataset(torch.rand(6, 64), torch.arange(6) % 3)
        >>> model = SemiSupervised(drmm, labelled, Weights(), size=100)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.rand(20, 64))
        >>> list(trace.observation_nodes)
        ['label', 'entropy', 'kl', 'reconstruction', 'nonnegativity']
    """

    labelled_x: Tensor
    labelled_y: Tensor

    def __init__(
        self, drmm: DRMM, labelled: IndexedDataset, weights: Weights, size: int, labelled_batch_size: int = 50
    ) -> None:
        super().__init__()
        if labelled.y is None or len(labelled) == 0:
            raise ValueError("labelled must hold at least one image and its label, got none")
        drmm.check_labels(labelled.y)
        if (labelled.y < 0).any():
            raise ValueError("labelled must hold labels of all its images, got -1")
        self.drmm = drmm
        self.weights = weights
        self.size = positive_int("size", size)
        self.labelled_batch_size = positive_int("labelled_batch_size", labelled_batch_size)
        # Part of the data, not of what is learned: not saved.
        self.register_buffer("labelled_x", as_images(drmm, labelled.x), persistent=False)
        self.register_buffer("labelled_y", labelled.y, persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Score a batch of images, ``(B,) + image_shape`` or ``(B, D)``; its labels are not looked at."""
        images = as_images(self.drmm, x)
        known, labels = self.labelled_x, self.labelled_y
        if len(labels) > self.labelled_batch_size:
            rows = torch.randperm(len(labels), device=x.device)[: self.labelled_batch_size]
            known, labels = known[rows], labels[rows]
        every = torch.cat([images, known.to(images)])
        y_all = torch.cat([labels.new_full((len(x),), -1), labels])
        losses = training_losses(self.drmm, every, y_all, len(labels), self.weights.downwards)
        for name, loss in losses.items():
            pyro.factor(name, -self.size * getattr(self.weights, name) * loss)


def no_guide(x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
    """Do nothing: there are no latent sites."""


def choose_labelled(data: IndexedDataset, num_labels: int, classes: int, seed: int = 0) -> IndexedDataset:
    """Return some images with labels, as many of each class as of the others, or one more.

    Args:
        data: images and labels.
        num_labels: how many.
        classes: C.
        seed: of the choice.

    Raises:
        ValueError: if there are no or too few labels.

    Example:
        >>> data = IndexedDataset(torch.zeros(9, 4), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2]))
        >>> choose_labelled(data, num_labels=5, classes=3).y
        tensor([0, 0, 1, 1, 2])
    """
    if data.y is None:
        raise ValueError("data must hold labels to choose from, got none")
    if positive_int("num_labels", num_labels) > len(data):
        raise ValueError(f"num_labels must be at most {len(data)}, the number of images, got {num_labels}")
    if num_labels < classes:
        raise ValueError(f"num_labels must be at least {classes}, one of each class, got {num_labels}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator)
    chosen = []
    for label in range(classes):
        wanted = num_labels // classes + (label < num_labels % classes)
        own = order[data.y[order] == label]
        if len(own) < wanted:
            raise ValueError(f"num_labels={num_labels} needs {wanted} images of class {label}, got {len(own)}")
        chosen.append(own[:wanted])
    rows = torch.cat(chosen)
    return IndexedDataset(data.x[rows], data.y[rows])
