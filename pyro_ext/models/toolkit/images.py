"""Plots of images: rows to compare with each other, and samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.inference import local_params
from pyro_ext.plotting import image_grid
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["image_rows", "sample_images"]


def image_rows(
    rows: Callable[[], Sequence[Tensor]],
    shape: tuple[int, ...],
    title: str = "",
    row_labels: Sequence[str] | Callable[[], Sequence[str]] = (),
    column_labels: Sequence[str] = (),
) -> Callable[..., Axes]:
    """Return a plot of rows of images above each other, such as images and their reconstructions.

    Args:
        rows: called when the plot is drawn, without gradients; returns tensors of pixels in [0, 1], each of shape
            ``(columns, height * width)`` or ``(columns, height, width)``.
        shape: height and width, followed by 3 if the pixels of each place are red, green and blue.
        title: what stands above.
        row_labels: what each row shows, written at its left; or a function that returns it when the plot is drawn.
        column_labels: what each column shows, written below it.

    Example:
        >>> draw = image_rows(lambda: [torch.zeros(5, 64), torch.ones(5, 64)], (8, 8))
        >>> draw().images[0].get_array().shape
        (19, 46)
    """

    @torch.no_grad()
    def draw(ax: Axes | None = None) -> Axes:
        with local_params():
            grid = torch.stack([row.reshape(-1, *shape) for row in rows()])
        labels = row_labels() if callable(row_labels) else row_labels
        return image_grid(grid, ax, title=title, row_labels=labels, column_labels=column_labels)

    return draw


def sample_images(
    sample: Callable[[int], Tensor],
    shape: tuple[int, int],
    number: int = 20,
    columns: int = 10,
    seed: int = 0,
    title: str = "",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Callable[..., Axes]:
    """Return a plot of samples, the same ones whenever parameters are the same.

    Args:
        sample: called with ``number`` when the plot is drawn, without gradients; returns pixels in [0, 1], of shape
            ``(number, height * width)`` or ``(number, height, width)``.
        shape: height and width.
        number: how many samples to draw.
        columns: how many of them go into a row.
        seed: the seed of the samples.
        title: what stands above.
        row_labels: what each row shows, written at its left.
        column_labels: what each column shows, written below it.
    """

    @torch.no_grad()
    def draw(ax: Axes | None = None) -> Axes:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # seeding touches both generators
        with isolated_random_state(seed, device), local_params():
            images = sample(number)
        images = images.reshape(-1, *shape)
        return image_grid(images, ax, columns=columns, title=title, row_labels=row_labels, column_labels=column_labels)

    return draw
