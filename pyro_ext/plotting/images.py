"""Many small images in one plot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["image_grid"]


def image_grid(
    images: torch.Tensor | np.ndarray, ax: Axes | None = None, *, columns: int | None = None, padding: int = 1
) -> Axes:
    """Draw images in rows and columns, grey ones with black at 0 and white at 1.

    Args:
        images: pixels in [0, 1], shape ``(N, height, width)``, or ``(rows, columns, height, width)`` to say which
            goes where, or ``(rows, columns, height, width, 3)`` in red, green and blue.
        ax: the axes to draw on; new ones if ``None``.
        columns: the number of images in a row; about the square root of ``N`` if ``None``.
        padding: pixels between neighbours and around the whole.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if the shape is another one, there are no images, or ``columns`` is not positive.

    Example:
        >>> ax = image_grid(torch.rand(10, 8, 8), columns=5)
        >>> ax.images[0].get_array().shape
        (19, 46)
    """
    pixels = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    tiles = _tiles(pixels.astype(float), columns)
    rows, across, height, width, *colours = tiles.shape
    canvas = np.full((rows, across, height + padding, width + padding, *colours), 0.5)
    canvas[:, :, padding:, padding:] = tiles
    whole = canvas.swapaxes(1, 2).reshape(rows * (height + padding), across * (width + padding), *colours)
    whole = np.pad(whole, ((0, padding), (0, padding), *((0, 0) for _ in colours)), constant_values=0.5)
    across_inches = 0.7 * across
    title = 0.35  # inches for a title, which would make the images smaller otherwise
    ax = given_or_new(ax, width=across_inches, height=across_inches * whole.shape[0] / whole.shape[1] + title)
    ax.imshow(whole, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.set_axis_off()
    return ax


def _tiles(pixels: np.ndarray, columns: int | None) -> np.ndarray:
    """Return the images in rows and columns, the last row of those that came without filled up with grey."""
    if pixels.ndim not in (3, 4, 5) or pixels.size == 0 or (pixels.ndim == 5 and pixels.shape[-1] != 3):
        raise ValueError(
            "images must have shape (N, height, width) or (rows, columns, height, width), perhaps followed by 3 "
            f"colours, got {pixels.shape}"
        )
    if pixels.ndim > 3:
        return pixels
    number = len(pixels)
    columns = math.ceil(math.sqrt(number)) if columns is None else columns
    columns = min(positive_int("columns", columns), number)
    rows = math.ceil(number / columns)
    filled = np.full((rows * columns, *pixels.shape[1:]), 0.5)
    filled[:number] = pixels
    return filled.reshape(rows, columns, *pixels.shape[1:])
