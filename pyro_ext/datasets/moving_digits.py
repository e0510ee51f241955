"""A digit at an unknown place on an empty canvas, in the style of moving MNIST."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets.base import IndexedDataset, Splits
from pyro_ext.datasets.bundled import digits
from pyro_ext.datasets.mnist_files import mnist
from pyro_ext.ops.windows import place_windows
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["moving_digits"]

_SOURCES: Mapping[str, Callable[[], Splits]] = MappingProxyType(
    {"digits": lambda: digits(binarize=None), "mnist": lambda: mnist(binarize=None)}
)


def moving_digits(
    source: str = "digits",
    canvas: int = 68,
    digit_size: int = 28,
    num_train: int = 1500,
    num_valid: int = 297,
    seed: int = 0,
) -> Splits:
    """Place each digit of a data set at a random position of an empty canvas, wholly inside of it.

    The digits are scaled to ``digit_size`` by bilinear interpolation, and pixels above .5 become 1, the others 0.

    Args:
        source: the data set the digits come from, with its default options: ``"digits"`` or ``"mnist"``.
        canvas: the height and width of the canvas in pixels.
        digit_size: the height and width of a digit in pixels.
        num_train: the number of canvases to train on; the first images of the source.
        num_valid: the number of canvases to validate on.
        seed: the seed of the positions.

    Returns:
        ``x`` of shape ``(N, canvas * canvas)``, float32, and ``y`` of shape ``(N,)``, int64: the position as row times
        ``canvas`` plus column of the pixel at place ``(digit_size // 2, digit_size // 2)`` of the digit.

    Raises:
        ValueError: if an argument is out of range, or the source has too few images.
        MissingDataError: if files of MNIST are neither at hand nor to be fetched.

    References:
        | Rao-Blackwellized stochastic gradients for discrete distributions (Liu et al., 2019), on moving MNIST
        | https://arxiv.org/abs/1810.04777

    Example:
        >>> data = moving_digits(canvas=40, digit_size=16, num_train=50)
        >>> data.train, data.image_shape
        (IndexedDataset(x (50, 1600), labels (50,)), (40, 40))
        >>> divmod(int(data.train.y[0]), 40)
        (27, 23)
    """
    one_of("source", source, _SOURCES)
    positive_int("digit_size", digit_size)
    positive_int("canvas", canvas, minimum=digit_size)
    positive_int("num_train", num_train)
    positive_int("num_valid", num_valid)
    splits = _SOURCES[source]()
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for name, part, number in (("num_train", splits.train, num_train), ("num_valid", splits.valid, num_valid)):
        positive_int(name, number, maximum=len(part))
        parts.append(_placed(part.x[:number], splits.image_shape, canvas, digit_size, generator))
    return Splits(f"moving-{splits.name}", train=parts[0], valid=parts[1], image_shape=(canvas, canvas))


def _placed(
    images: Tensor, shape: tuple[int, int] | None, canvas: int, digit_size: int, generator: torch.Generator
) -> IndexedDataset:
    assert shape is not None
    grey = images.reshape(-1, 1, *shape)
    if shape != (digit_size, digit_size):
        grey = F.interpolate(grey, size=(digit_size, digit_size), mode="bilinear", align_corners=False)
    places = canvas - digit_size + 1
    row, column = torch.randint(places, (2, len(images)), generator=generator, device="cpu") + digit_size // 2
    position = row * canvas + column
    canvases = place_windows((grey.squeeze(1) > 0.5).to(images.dtype), position, (canvas, canvas))
    return IndexedDataset(canvases.flatten(1), position)
