"""A network of images as a Pyro program: its output are the logits of classes."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.datasets import Splits
from pyro_ext.models.toolkit.data import data_plate
from pyro_ext.utils.checks import positive_int

__all__ = ["ImageClassifier", "labelled_images"]


class ImageClassifier(PyroModule):
    r"""Classes of images, :math:`y_n \sim \mathrm{Categorical}(\mathrm{softmax}\, f_w(x_n))`.

    Sites among the weights of the network lie outside of the plate of images.

    Args:
        net: f, from images ``(..., B, channels, height, width)`` to logits ``(..., B, C)``.
        size: the number N of images that the plate stands for; a batch of b is scaled by N / b.
        image_shape: channels, height and width.

    Raises:
        ValueError: if ``size`` is not a positive integer; when called, if images have another size.

    Example:
        >>> model = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), size=1500, image_shape=(1, 8, 8))
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(100, 64), torch.zeros(100))
        >>> trace.nodes["y"]["scale"], model(torch.zeros(5, 64)).shape
        (15.0, torch.Size([5, 10]))
    """

    def __init__(self, net: nn.Module, size: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.net = net
        self.size = positive_int("size", size)
        self.image_shape = image_shape

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Observe labels ``(B,)``, or draw them if there are none; return the logits, ``(..., B, C)``.

        Args:
            x: images, ``(B, channels, height, width)`` or as rows ``(B, D)``.
            y: their classes.
            index: their places in the data set.
        """
        logits: Tensor = self.net(self.as_images(x))
        with data_plate(self.size, x, index):
            pyro.sample("y", dist.Categorical(logits=logits, validate_args=False), obs=y)
        return logits

    def as_images(self, x: Tensor) -> Tensor:
        """Return rows of pixels as images, ``(B, channels, height, width)``."""
        if x[0].numel() != torch.Size(self.image_shape).numel():
            raise ValueError(f"x must hold images of shape {self.image_shape}, got {tuple(x.shape[1:])}")
        return x.reshape(len(x), *self.image_shape)


def labelled_images(data: Splits) -> tuple[tuple[int, int, int], int]:
    """Return channels, height and width of the images of a data set, and the number of its classes.

    Args:
        data: images as rows of ``x``, with labels 0 .. C - 1.

    Raises:
        ValueError: if they have no image shape or no labels.

    Example:
        >>> from pyro_ext.datasets import load
        >>> labelled_images(load("digits"))
        ((1, 8, 8), 10)
    """
    if data.image_shape is None or data.train.x.dim() != 2:
        raise ValueError(
            f"data must be rows of pixels with an image_shape, got x of shape {tuple(data.train.x.shape)} and "
            f"image_shape={data.image_shape}; give Splits the shape"
        )
    for name, part in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        if part is not None and (part.y is None or part.y.is_floating_point()):
            raise ValueError(f"data.{name} must have classes as integers y, got none; load a data set with labels")
    height, width = data.image_shape
    channels, rest = divmod(data.train.x.shape[-1], height * width)
    if rest or not channels:
        raise ValueError(
            f"rows of data.train.x must hold a multiple of {height} x {width} pixels, got {data.train.x.shape[-1]}"
        )
    return (channels, height, width), int(data.train.y.max()) + 1
