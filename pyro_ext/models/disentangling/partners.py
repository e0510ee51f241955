"""For each image of a batch, another one of its class and one of another class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_ext.datasets import IndexedDataset

__all__ = ["ClassPartners", "Partners"]


class Partners(NamedTuple):
    """The images that complete a batch of B images to triples.

    Args:
        same: for each image another one of its class, ``(B, D)``.
        other: for each image one of another class, ``(B, D)``.
        other_y: the classes of ``other``, ``(B,)``.

    Example:
        >>> Partners(torch.zeros(2, 64), torch.ones(2, 64), torch.tensor([1, 0])).other_y
        tensor([1, 0])
    """

    same: Tensor
    other: Tensor
    other_y: Tensor


class ClassPartners(nn.Module):
    """The training images sorted by class, so that partners are drawn for a whole batch at once.

    Both partners are uniform: over the other images of the class, and over all images of all other classes.

    Args:
        data: the training images with their labels.

    Raises:
        ValueError: if there are no labels, only one class, or a class with only one image.

    Example:
        >>> partners = ClassPartners(IndexedDataset(torch.arange(6.0)[:, None], torch.tensor([0, 1, 2, 0, 1, 2])))
        >>> drawn = partners.draw(torch.tensor([0, 1]))
        >>> drawn.same.flatten(), (drawn.other_y != torch.tensor([0, 1])).all()
        (tensor([3., 4.]), tensor(True))
    """

    x: Tensor
    y: Tensor
    order: Tensor
    place: Tensor
    start: Tensor
    count: Tensor

    def __init__(self, data: IndexedDataset) -> None:
        super().__init__()
        if data.y is None or data.y.dim() != 1 or len(data) == 0:
            raise ValueError("data.train must hold a class for each of its images, got no labels")
        classes, own, counts = data.y.unique(return_inverse=True, return_counts=True)
        if len(classes) < 2:
            raise ValueError(f"data.train must hold at least two classes, got class {int(classes[0])} alone")
        if int(counts.min()) < 2:
            raise ValueError(
                f"class {int(classes[counts.argmin()])} has a single image in data.train; give each class at least two "
                "images, or leave that class out"
            )
        order = own.argsort(stable=True)
        # These are data, not parameters: they are not saved.
        for name, value in {
            "x": data.x,
            "y": data.y,
            "order": order,
            "place": order.argsort(),
            "start": (counts.cumsum(0) - counts)[own],
            "count": counts[own],
        }.items():
            self.register_buffer(name, value, persistent=False)

    def draw(self, index: Tensor) -> Partners:
        """Draw the partners of training images.

        Args:
            index: the places of the images in the training data, ``(B,)``.
        """
        start, count, place = self.start[index], self.count[index], self.place[index]
        steps = 1 + _below(count - 1)  # to another image of the class, round and round
        same = self.order[start + (place - start + steps) % count]
        other = self.order[(start + count + _below(len(self.order) - count)) % len(self.order)]
        return Partners(self.x[same], self.x[other], self.y[other])


def _below(limit: Tensor) -> Tensor:
    """Draw uniform integers from 0 to ``limit - 1``."""
    drawn = (torch.rand(limit.shape, dtype=torch.float64, device=limit.device) * limit).long()
    return torch.minimum(drawn, limit - 1)
