r"""The four losses of semi-supervised training, and the module that adds them up.

With :math:`q = \mathrm{softmax}(z / \sigma^2)`, the class c of the label or else the best one, and switches from the
network,

.. math::
    L_H = -\tfrac{1}{|D_L|} \sum_{n \in D_L} \ln q(y_n \mid I_n), \quad
    L_{RC} = \tfrac{1}{N D} \sum_n |I_n - h^0(c_n, \hat g_n)|^2, \quad
    L_{NN} = \sum_l \mathrm{mean} \max(0, -h^l)^2.

The fourth exists with two opposite signs: :math:`KL(q \| \pi)`, as in the ELBO, spreads q over the classes;
:math:`H(q) = \ln C - KL(q \| \mathrm{uniform})`, which the authors' program minimises, makes q decide. Only the latter
helps a classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.model import DRMM

__all__ = [
    "Weights",
    "entropy_loss",
    "kl_loss",
    "label_loss",
    "nonnegativity_loss",
    "reconstruction_loss",
    "training_losses",
]


@dataclass(frozen=True)
class Weights:
    """What each loss is multiplied with.

    Args:
        label: of :func:`label_loss`.
        reconstruction: of :func:`reconstruction_loss`.
        entropy: of :func:`entropy_loss`; a positive weight minimises entropy.
        kl: of :func:`kl_loss`, with the sign that it has in the ELBO.
        nonnegativity: of :func:`nonnegativity_loss`.

    Raises:
        ValueError: if a weight is negative or not finite.
    """

    label: float = 1.0
    reconstruction: float = 0.5
    entropy: float = 0.5
    kl: float = 0.0
    nonnegativity: float = 0.5

    @property
    def downwards(self) -> bool:
        """Whether a loss of what is rendered counts."""
        return self.reconstruction > 0 or self.nonnegativity > 0

    def __post_init__(self) -> None:
        for field in fields(self):
            weight = getattr(self, field.name)
            if not 0 <= weight < math.inf:
                raise ValueError(f"{field.name}_weight must be a finite number of at least 0, got {weight!r}")


def label_loss(logits: Tensor, y: Tensor) -> Tensor:
    r"""Return :math:`L_H`, the mean over labelled rows; zero if there are none.

    Args:
        logits: of q, ``(B, C)``.
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
    r"""Return the mean of :math:`KL(q \| \pi)`, as minus the ELBO holds it.

    Args:
        logits: of q, ``(B, C)``.
        log_prior: normalised, ``(C,)``.

    Example:
        >>> logits = torch.tensor([[4.0, -4.0]])
        >>> kl_loss(logits, torch.tensor([0.5, 0.5]).log()), entropy_loss(logits)
        (tensor(0.6901), tensor(0.0030))
    """
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * (log_q - log_prior)).sum(-1).mean()


def entropy_loss(logits: Tensor) -> Tensor:
    """Return the mean entropy of q, ``(B, C)`` logits; minimising it is not what the ELBO does, but the opposite."""
    log_q = logits.log_softmax(-1)
    return -(log_q.exp() * log_q).sum(-1).mean()


def nonnegativity_loss(levels: Sequence[Tensor]) -> Tensor:
    r"""Return :math:`L_{NN}` of the rendered levels :math:`h^0, \dots, h^L`; the image may have any sign.

    Example:
        >>> nonnegativity_loss([torch.tensor([-5.0]), torch.tensor([-1.0, 2.0, 3.0, 4.0])])
        tensor(0.2500)
    """
    return torch.stack([(-h).relu().square().mean() for h in levels[1:]]).sum()


def training_losses(
    model: DRMM, x: Tensor, y: Tensor, num_with_label: int = 0, downwards: bool = True
) -> dict[str, Tensor]:
    r"""Return the losses by the names of :class:`Weights`, from one pass up and one down.

    Args:
        model: with classes' logits scaled by :math:`1 / \sigma^2`.
        x: images, ``(B,) + image_shape``.
        y: labels, ``(B,)``, -1 for none.
        num_with_label: how many of the last rows serve :math:`L_H` and batch norm alone.
        downwards: whether to render at all; without, there is no loss of reconstruction or nonnegativity.
    """
    found = model.infer(x)
    logits = found.scores / model.noise**2
    part = slice(0, len(x) - num_with_label)
    losses = {
        "label": label_loss(logits, y),
        "entropy": entropy_loss(logits[part]),
        "kl": kl_loss(logits[part], model.class_logits.log_softmax(-1)),
    }
    if downwards:
        rendering = model.rendering(model.chosen(found.scores, y)[part], [s.rows(part) for s in found.switches])
        losses["reconstruction"] = reconstruction_loss(x[part], rendering.image)
        losses["nonnegativity"] = nonnegativity_loss(rendering.levels)
    return losses
