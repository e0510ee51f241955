"""Many small images in one plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.style import finish
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["image_grid"]


def image_grid(
    images: torch.Tensor | np.ndarray,
    ax: Axes | None = None,
    *,
    columns: int | None = None,
    padding: int = 1,
    title: str = "",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Axes:
    """Draw images in rows and columns, grey ones with black at 0 and white at 1.

    Args:
        images: pixels in [0, 1], shape ``(N, height, width)``, or ``(rows, columns, height, width)`` to say which
            goes where, or ``(rows, columns, height, width, 3)`` in red, green and blue.
        ax: the axes to draw on; new ones if ``None``.
        columns: the number of images in a row; about the square root of ``N`` if ``None``.
        padding: pixels between neighbours and around the whole.
        title: what stands above; nothing if empty.
        row_labels: what the rows show, written at their left, from the first row on.
        column_labels: what the columns show, written below them, from the first column on.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if the shape is another one, there are no images, ``columns`` is not positive, or there are more
            labels than rows or columns.

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
    if len(row_labels) > rows or len(column_labels) > across:
        raise ValueError(
            f"there are {rows} rows and {across} columns of images, got {len(row_labels)} row_labels and "
            f"{len(column_labels)} column_labels"
        )
    across_inches = min(max(0.7 * across, 4.0), 1.4 * across)
    beside = 0.08 * max(map(len, row_labels), default=0)  # inches of labels, which would make images smaller otherwise
    above = 0.45 if title or ax is None else 0.0
    below = 0.3 if column_labels else 0.0
    high = across_inches * whole.shape[0] / whole.shape[1]
    ax = given_or_new(ax, width=max(across_inches + beside, 2.5), height=high + above + below)
    ax.imshow(whole, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    middles = [padding + 0.5 * (size - 1) for size in (height, width)]
    ax.set_yticks([middles[0] + at * (height + padding) for at in range(len(row_labels))], list(row_labels))
    ax.set_xticks([middles[1] + at * (width + padding) for at in range(len(column_labels))], list(column_labels))
    return finish(ax, title=title, legend=False)


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
