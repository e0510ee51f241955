"""Held-out metrics and pictures of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import Batch
from pyro_ext.models.drmm.losses import entropy_loss, label_loss
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.priors import estimate_priors
from pyro_ext.models.drmm.programs import as_images
from pyro_ext.plotting import image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Assessment"]

_ROWS = 500  # images passed upwards at once


class Assessment:
    """What there is to say about a model, on images of one's choice.

    Args:
        model: the model; pictures and metrics need it in evaluation mode.

    Example:
        >>> from pyro_ext.models.drmm import Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> batch = (torch.rand(5, 64), torch.tensor([0, 1, 2, 0, 1]), torch.arange(5))
        >>> sorted(Assessment(model).metrics([batch]))
        ['entropy', 'error', 'label_loss', 'reconstruction']
    """

    def __init__(self, model: DRMM) -> None:
        self.model = model

    @torch.no_grad()
    def metrics(self, loader: Iterable[Batch]) -> dict[str, float]:
        """Return means over all images: ``error`` in per cent, ``label_loss``, ``reconstruction`` and ``entropy``.

        The reconstruction is of the best class, not of the label; its error is the mean square per pixel.

        Raises:
            ValueError: if there are no images, or they have no labels.
        """
        model, number = self.model, 0
        totals = model.class_templates.new_zeros(4)
        with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed of its own
            for x, y, _ in loader:
                if y is None:
                    raise ValueError("loader must hold labels, got None")
                totals += len(x) * self._batch(as_images(model, x.to(totals)), y.to(totals.device))
                number += len(x)
        if number == 0:
            raise ValueError("loader must hold at least one image, got none")
        error, label, reconstruction, entropy = (totals / number).tolist()
        return {"error": 100 * error, "label_loss": label, "reconstruction": reconstruction, "entropy": entropy}

    def _batch(self, x: Tensor, y: Tensor) -> Tensor:
        model = self.model
        found = model.infer(x)
        logits = found.scores / model.noise**2
        rendered = model.rendering(model.chosen(found.scores), found.switches).image
        wrong = (logits.argmax(-1) != y).to(logits.dtype).mean()
        return torch.stack([wrong, label_loss(logits, y), F.mse_loss(rendered, x), entropy_loss(logits)])

    def plots(self, train: Tensor, held_out: Tensor, columns: int = 10) -> dict[str, Callable[..., Axes]]:
        """Return pictures by name.

        Args:
            train: images from which the probabilities of switches are estimated for samples.
            held_out: images to reconstruct.
            columns: how many images in a row.
        """
        model = self.model

        @torch.no_grad()
        def reconstruction(ax: Axes | None = None) -> Axes:
            """Draw held-out images above what the model renders of them."""
            x = as_images(model, held_out[:columns].to(model.class_templates))
            return image_grid(torch.stack([_grey(x), _grey(model.reconstruct(x))]), ax)

        @torch.no_grad()
        def samples(ax: Axes | None = None) -> Axes:
            """Draw samples, a column for each class."""
            like = model.class_templates
            drawn_from = deepcopy(model)  # the probabilities of switches belong to this picture alone
            estimate_priors(drawn_from, [as_images(model, part.to(like)) for part in train.split(_ROWS)])
            c = torch.arange(model.classes, device=like.device).repeat(4)
            with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
                torch.manual_seed(0)
                images, _ = drawn_from.sample(len(c), c, with_noise=False)
            return image_grid(_grey(images), ax, columns=model.classes)

        return {"reconstruction": reconstruction, "samples": samples}


def _grey(images: Tensor) -> Tensor:
    """Return grey values in [0, 1], ``(N, height, width)``."""
    return images.mean(-3).clamp(0, 1)
