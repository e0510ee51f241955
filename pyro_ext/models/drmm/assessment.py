"""Held-out metrics of a trained model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import Batch
from pyro_ext.models.drmm.losses import entropy_loss, label_loss
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.programs import as_images

__all__ = ["Assessment"]


class Assessment:
    """What there is to say about a model, on images of one's choice.

    Args:
        model: the model, in evaluation mode where there is batch norm.

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
