"""What is measured on held-out images, and the plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import Splits
from pyro_ext.inference.training.metrics import evaluation_mode
from pyro_ext.models.semi_supervised_vae.model import Guide, Model
from pyro_ext.models.toolkit import image_rows, sample_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["diagnose", "held_out_metrics", "label_bounds", "model_plots"]

_POOR = 0.5  # accuracy


def label_bounds(model: Model, guide: Guide, x: Tensor, num_samples: int = 1) -> Tensor:
    r"""Return the bound :math:`L(x, y)` of each class, ``(C, B)``; the divergence of the style is exact.

    Args:
        model: the model.
        guide: the guide.
        x: images, ``(B, D)``.
        num_samples: the number of styles drawn for each image and class.

    Example:
        >>> model, guide = (kind(1400, 100, num_pixels=64) for kind in (Model, Guide))
        >>> label_bounds(model, guide, torch.zeros(20, 64)).shape
        torch.Size([10, 20])
    """
    classes = len(model.prior_logits)
    y = torch.eye(classes, dtype=x.dtype, device=x.device).unsqueeze(-2)
    style = guide.style(x, y)
    likelihood = x.new_zeros(())
    for _ in range(num_samples):  # one by one: C samples of each image are large enough a tensor
        logits = model.decoder(style.rsample(), y)
        losses = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        likelihood = likelihood - losses.sum(-1) / num_samples
    divergence = torch.distributions.kl_divergence(style.to_event(1), model.style_prior())
    return likelihood - divergence - math.log(classes)


def held_out_metrics(
    model: Model, guide: Guide, num_samples: int, x: Tensor, y: Tensor | None = None, index: Tensor | None = None
) -> dict[str, Tensor]:
    """Return ``accuracy``, ``label_loss``, ``neg_elbo`` and ``label_entropy`` of each image, all ``(B,)``.

    The bound is that of images without labels, summed over all classes.

    Args:
        model: the model.
        guide: the guide.
        num_samples: the number of styles drawn for each image and class.
        x: images, ``(B, D)``.
        y: labels, ``(B,)``.
        index: the images' places in the data set, which are ignored.

    Raises:
        ValueError: if there are no labels.
    """
    if y is None:
        raise ValueError("loader must hold labels, got None")
    with evaluation_mode(guide):  # whoever calls it: the classifier drops features in training
        log_q = guide.classify(x).log_softmax(-1)
        bounds = label_bounds(model, guide, x, num_samples)
    entropy = -(log_q.exp() * log_q).sum(-1)
    return {
        "accuracy": (log_q.argmax(-1) == y).to(x.dtype),
        "label_loss": F.nll_loss(log_q, y, reduction="none"),
        "neg_elbo": -(log_q.exp() * bounds.transpose(0, 1)).sum(-1) - entropy,
        "label_entropy": entropy,
    }


def diagnose(metrics: Mapping[str, float]) -> list[str]:
    """Return a warning if most images are misclassified."""
    accuracy = metrics.get("accuracy", 1.0)
    if accuracy >= _POOR:
        return []
    return [
        f"only {accuracy:.1%} of the held-out images are classified correctly; train longer, begin with more steps on "
        "labelled images alone (--model.warm_start), raise --model.alpha, or give more labels"
    ]


def model_plots(model: Model, guide: Guide, data: Splits, seed: int) -> dict[str, Callable[..., Axes]]:
    """Return the plots: held-out images with their reconstructions, and styles in every class."""
    shape = data.image_shape or (1, model.num_pixels)
    classes = len(model.prior_logits)

    def reconstruction() -> list[Tensor]:
        """Return held-out images and the decoder's means at their best class and mean style."""
        x = data.valid.x[:10].to(model.prior_logits)
        with evaluation_mode(guide):
            y = F.one_hot(guide.classify(x).argmax(-1), classes).to(x.dtype)
        return [x, model.decoder(guide.style(x, y).mean, y).sigmoid()]

    def analogies(number: int) -> Tensor:
        """Return the decoder's means at styles drawn from the prior, each of them in every class."""
        z = model.style_prior().sample(torch.Size([number // classes, 1]))
        y = torch.eye(classes, dtype=z.dtype, device=z.device)
        return model.decoder(z, y).sigmoid().flatten(0, 1)

    return {
        "reconstruction": image_rows(
            reconstruction, shape, "held-out images, and their reconstructions", ("image", "reconstruction")
        ),
        "analogies": sample_images(
            analogies,
            shape,
            number=5 * classes,
            columns=classes,
            seed=seed,
            title="decoded images: styles from the prior in rows, classes in columns",
            row_labels=[f"style {row}" for row in range(1, 6)],
            column_labels=[str(k) for k in range(classes)],
        ),
    }
