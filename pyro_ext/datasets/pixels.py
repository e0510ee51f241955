"""Binary images from shades of grey: by a threshold, or drawn anew each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pyro_ext.datasets.base import Batch, IndexedDataset, Splits
from pyro_ext.utils.checks import number_between, one_of, positive_int
from pyro_ext.utils.random_state import mixed_seed

__all__ = ["Binarization", "RedrawnPixels", "image_splits"]

Binarization = Literal["threshold", "dynamic"]


class RedrawnPixels(IndexedDataset):
    r"""Binary images whose pixels are drawn anew each time a batch is fetched (dynamic binarisation).

    .. math::  x_d \sim \mathrm{Bernoulli}(p_d), \qquad p_d \in [0, 1] \text{ the shade of the pixel.}

    A draw depends only on the seed, the epoch and the rows of the batch. So several workers draw what one process does,
    and a run that is resumed sees the images that it would have seen. ``fit`` calls :meth:`set_epoch`; call it
    yourself before each epoch of another loader, which shows the same images again otherwise if its order is fixed.

    Args:
        shades: the probabilities of pixels, shape ``(N, ...)``.
        y: the labels, shape ``(N, ...)``, or ``None`` where there are none.
        seed: the seed of the draws.

    Attributes:
        x: one draw, which stays the same, for those who look at all images at once.

    Raises:
        ValueError: if a shade lies outside [0, 1], ``y`` has another length, or ``seed`` is no integer of at least 0.

    References:
        | On the quantitative analysis of deep belief networks (Salakhutdinov and Murray, 2008)
        | https://doi.org/10.1145/1390156.1390266
        | Importance weighted autoencoders (Burda et al., 2016), section 5.1, https://arxiv.org/abs/1509.00519

    Example:
        >>> data = RedrawnPixels(torch.full((2, 8), 0.5))
        >>> first = data.__getitems__([0, 1])[0]
        >>> data.set_epoch(1)
        >>> torch.equal(data.__getitems__([0, 1])[0], first)
        False
        >>> data.set_epoch(0)
        >>> torch.equal(data.__getitems__([0, 1])[0], first)
        True
    """

    def __init__(self, shades: Tensor, y: Tensor | None = None, seed: int = 0) -> None:
        positive_int("seed", seed, 0)
        check_shades(shades)
        super().__init__(_drawn(shades, seed, 0), y)
        self.shades = shades
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of an epoch, counted from 0."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Batch:
        _, y, position = super().__getitem__(index)
        return self._fetched(self.shades[index], [int(position)]), y, position

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the rows ``indices`` as one batch ``(x, y, index)``, with pixels of their own."""
        index = torch.as_tensor(indices, dtype=torch.long, device=self.shades.device)
        return self._fetched(self.shades[index], index.tolist()), None if self.y is None else self.y[index], index

    def subset(self, rows: Tensor, labels: bool = True) -> RedrawnPixels:
        """Return some of the images, redrawn like these, as a data set of their own."""
        return RedrawnPixels(self.shades[rows], self.y[rows] if labels and self.y is not None else None, self.seed)

    def _fetched(self, shades: Tensor, rows: list[int]) -> Tensor:
        return _drawn(shades, self.seed, 1, self.epoch, *rows)


def image_splits(
    name: str,
    parts: Mapping[str, tuple[Tensor, Tensor | None]],
    image_shape: tuple[int, int],
    binarize: Binarization | None,
    threshold: float,
    seed: int,
) -> Splits:
    """Return images as the splits of a data set.

    Args:
        name: the name of the data set.
        parts: the shades in [0, 1], ``(N, pixels)``, and labels of ``"train"`` and perhaps ``"valid"`` and ``"test"``.
        image_shape: the height and the width of the images in pixels.
        binarize: ``"threshold"`` for zeros and ones by the threshold, ``"dynamic"`` for training images whose pixels
            are drawn each time and held-out images drawn once, None for shades.
        threshold: the shade above which pixels become 1.
        seed: the seed of dynamic draws.

    """
    made: dict[str, IndexedDataset] = {}
    for place, (part, (shades, labels)) in enumerate(parts.items()):
        if binarize == "dynamic" and part == "train":
            made[part] = RedrawnPixels(shades, labels, seed)
        elif binarize == "dynamic":
            made[part] = IndexedDataset(_drawn(shades, seed, 2, place), labels)
        elif binarize == "threshold":
            made[part] = IndexedDataset((shades > threshold).to(shades.dtype), labels)
        else:
            made[part] = IndexedDataset(shades, labels)
    return Splits(name=name, image_shape=image_shape, **made)


def check_binarization(binarize: Any, threshold: Any, seed: Any, white: float = 1.0) -> None:
    """Raise a ValueError if an option of binarisation is out of range, before any file is read.

    Args:
        binarize: ``"threshold"``, ``"dynamic"`` or None.
        threshold: a number from 0 to less than ``white``.
        seed: an integer of at least 0.
        white: the brightest shade.
    """
    if binarize is not None:
        one_of("binarize", binarize, get_args(Binarization))
    number_between("threshold", threshold, 0, white, "[)")
    positive_int("seed", seed, 0)


def check_shades(shades: Tensor) -> None:
    """Raise a ValueError unless all shades lie in [0, 1]."""
    if not bool(((shades >= 0) & (shades <= 1)).all()):
        raise ValueError(
            f"shades must lie in [0, 1], got values in [{shades.min():g}, {shades.max():g}]; divide by the largest one"
        )


def _drawn(shades: Tensor, *stream: int) -> Tensor:
    """Draw pixels; on the CPU and in one type, so that a seed gives the same ones on every device and in every type."""
    generator = torch.Generator().manual_seed(mixed_seed(*stream))
    noise = torch.rand(shades.shape, generator=generator, dtype=torch.float32, device="cpu").to(shades.device)
    return (noise < shades).to(shades.dtype)
