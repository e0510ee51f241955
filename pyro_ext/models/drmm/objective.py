r"""Training on images of which a few have labels: five losses and their weighted sum.

With :math:`q = \mathrm{softmax}(z / \sigma^2)`, the class c of the label or else the best one, and switches from the
network,

.. math::
    L_H = -\tfrac{1}{|D_L|} \sum_{n \in D_L} \ln q(y_n \mid I_n), \quad
    L_{RC} = \tfrac{1}{N D} \sum_n |I_n - h^0(c_n, \hat g_n)|^2, \quad
    L_{NN} = \sum_l \mathrm{mean} \max(0, -h^l)^2.

The other two act in opposite directions: :math:`KL(q \| \pi)`, as in minus the ELBO, spreads q over the classes; the
entropy :math:`H(q) = \ln C - KL(q \| \mathrm{uniform})`, which the authors' program minimises, makes q decide for one
class. Only the entropy helps a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import IndexedDataset
from pyro_ext.inference import Losses, Objective, local_params
from pyro_ext.inference.training.local import give_local_store
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.utils.checks import nonnegative_number, positive_int

__all__ = [
    "LossWeights",
    "SemiSupervisedObjective",
    "entropies",
    "entropy_loss",
    "kl_loss",
    "label_loss",
    "nonnegativity_loss",
    "reconstruction_loss",
    "training_losses",
]


@dataclass(frozen=True)
class LossWeights:
    """The weight of each loss in the total.

    Args:
        label: the weight of :func:`label_loss`.
        reconstruction: the weight of :func:`reconstruction_loss`.
        entropy: the weight of :func:`entropy_loss`; a positive weight minimises entropy.
        kl: the weight of :func:`kl_loss`, which is minimised as in minus the ELBO.
        nonnegativity: the weight of :func:`nonnegativity_loss`.

    Raises:
        ValueError: if a weight is negative or not finite.
    """

    label: float = 1.0
    reconstruction: float = 0.5
    entropy: float = 0.5
    kl: float = 0.0
    nonnegativity: float = 0.5

    @property
    def need_rendering(self) -> bool:
        """Whether a loss of rendered images or templates has a positive weight."""
        return self.reconstruction > 0 or self.nonnegativity > 0

    def __post_init__(self) -> None:
        for field in fields(self):
            nonnegative_number(f"{field.name}_weight", getattr(self, field.name))


class SemiSupervisedObjective(Objective):
    r"""The weighted sum of the losses of a batch of images and of some labelled images.

    .. math::  w_H L_H + w_{RC} L_{RC} + w_E H(q) + w_{KL} KL(q \| \pi) + w_{NN} L_{NN}.

    Labelled images are few, so each step takes some of them besides the batch. These serve :math:`L_H` alone, but pass
    upwards together with the batch, so that batch norm sees both kinds of images in training as in evaluation. If
    neither :math:`L_{RC}` nor :math:`L_{NN}` has a positive weight, nothing is rendered and these two are left out.

    Args:
        model: the model to train.
        labelled: labelled images, as rows of pixels or of ``image_shape``.
        weights: the weights of the losses.
        labelled_batch_size: the number of labelled images in a step, drawn without replacement; all of them if there
            are fewer.

    Raises:
        ValueError: if a label is out of range, or the images are of another shape.

    References:
        | Semi-supervised learning with the deep rendering mixture model (Nguyen et al., 2016)
        | https://arxiv.org/abs/1612.01942

    Example:
        >>> from pyro_ext.models.drmm import Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> labelled = IndexedDataset(torch.rand(6, 64), torch.arange(6) % 3)
        >>> objective = SemiSupervisedObjective(model, labelled, LossWeights())
        >>> total, terms = objective(torch.rand(20, 64))
        >>> [*terms]
        ['label', 'entropy', 'kl', 'reconstruction', 'nonnegativity']
    """

    labelled_x: Tensor
    labelled_y: Tensor

    def __init__(
        self, model: DRMM, labelled: IndexedDataset, weights: LossWeights, labelled_batch_size: int = 50
    ) -> None:
        super().__init__()
        if labelled.y is None or len(labelled) == 0:
            raise ValueError("labelled must hold at least one image and its label, got none")
        model.check_labels(labelled.y)
        if (labelled.y < 0).any():
            raise ValueError("labelled must hold labels of all its images, got -1")
        self.model = model
        self.weights = weights
        self.labelled_batch_size = positive_int("labelled_batch_size", labelled_batch_size)
        # These are data, not parameters: they are not saved.
        self.register_buffer("labelled_x", model.as_images(labelled.x), persistent=False)
        self.register_buffer("labelled_y", labelled.y, persistent=False)
        for module in self.modules():
            give_local_store(module)

    @property
    def loss_label(self) -> str:
        """What the loss is, and its unit."""
        return "weighted sum of the losses of labels, code and pixels"

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Losses:
        """Return the weighted sum, and each loss without its weight.

        Args:
            x: a batch of images, ``(B,) + image_shape`` or ``(B, D)``.
            y: the labels of the batch, which are ignored.
            index: the images' places in the data set, which are ignored.
        """
        images = self.model.as_images(x)
        known, labels = self.labelled_x, self.labelled_y
        if len(labels) > self.labelled_batch_size:
            rows = torch.randperm(len(labels), device=x.device)[: self.labelled_batch_size]
            known, labels = known[rows], labels[rows]
        every = torch.cat([images, known.to(images)])
        y_all = torch.cat([labels.new_full((len(x),), -1), labels])
        with local_params():
            losses = training_losses(self.model, every, y_all, len(labels), self.weights.need_rendering)
        weights = asdict(self.weights)
        total = images.new_zeros(())
        for name, loss in losses.items():
            total = total + weights[name] * loss
        return Losses(total, losses)


def training_losses(
    model: DRMM, x: Tensor, y: Tensor, num_with_label: int = 0, with_rendering: bool = True
) -> dict[str, Tensor]:
    r"""Return the losses by the names of :class:`LossWeights`, from one pass upwards and one downwards.

    Args:
        model: the model.
        x: images, ``(B,) + image_shape``.
        y: labels, ``(B,)``, -1 for none.
        num_with_label: the number of rows, at the end, that serve :math:`L_H` and batch norm alone.
        with_rendering: whether to render, which the losses of reconstruction and nonnegativity need.
    """
    inferred = model.infer(x)
    logits = inferred.scores / model.noise**2
    part = slice(0, len(x) - num_with_label)
    losses = {
        "label": label_loss(logits, y),
        "entropy": entropy_loss(logits[part]),
        "kl": kl_loss(logits[part], model.class_logits.log_softmax(-1)),
    }
    if with_rendering:
        c = model.choose_class(inferred.scores, y)[part]
        rendering = model.rendering(c, [switches.rows(part) for switches in inferred.switches])
        losses["reconstruction"] = reconstruction_loss(x[part], rendering.image)
        losses["nonnegativity"] = nonnegativity_loss(rendering.levels)
    return losses


def label_loss(logits: Tensor, y: Tensor) -> Tensor:
    r"""Return :math:`L_H`, the mean over labelled rows; zero if there are none.

    Args:
        logits: the logits of q, ``(B, C)``.
        y: labels, ``(B,)``, -1 for none.

    Example:
        >>> label_loss(torch.zeros(3, 2), torch.tensor([1, -1, 0]))
        tensor(0.6931)
    """
    each = F.cross_entropy(logits, y, ignore_index=-1, reduction="sum")
    return each / (y >= 0).sum().clamp_min(1)


def reconstruction_loss(x: Tensor, rendered: Tensor) -> Tensor:
    r"""Return :math:`L_{RC}` of images ``(B,) + image_shape``: zero only if they are rendered exactly."""
    return (x - rendered).square().mean()


def kl_loss(logits: Tensor, log_prior: Tensor) -> Tensor:
    r"""Return the mean of :math:`KL(q \| \pi)`, which is part of minus the ELBO.

    Args:
        logits: the logits of q, ``(B, C)``.
        log_prior: the normalised log-probabilities :math:`\ln \pi`, ``(C,)``.

    Example:
        >>> logits = torch.tensor([[4.0, -4.0]])
        >>> kl_loss(logits, torch.tensor([0.5, 0.5]).log()), entropy_loss(logits)
        (tensor(0.6901), tensor(0.0030))
    """
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * (log_q - log_prior)).sum(-1).mean()


def entropy_loss(logits: Tensor) -> Tensor:
    """Return the mean entropy of q, given its logits ``(B, C)``; the ELBO would maximise it rather than minimise it."""
    return entropies(logits).mean()


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of q of each image, ``(B,)``, given its logits ``(B, C)``."""
    log_q = logits.log_softmax(-1)
    return -(log_q.exp() * log_q).sum(-1)


def nonnegativity_loss(levels: Sequence[Tensor]) -> Tensor:
    r"""Return :math:`L_{NN}` of the rendered levels :math:`h^0, \dots, h^L`; the image may have any sign.

    Example:
        >>> nonnegativity_loss([torch.tensor([-5.0]), torch.tensor([-1.0, 2.0, 3.0, 4.0])])
        tensor(0.2500)
    """
    return torch.stack([(-h).relu().square().mean() for h in levels[1:]]).sum()
