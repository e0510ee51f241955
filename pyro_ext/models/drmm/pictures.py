"""Pictures of a trained model: reconstructions, samples, templates of every level, and which switches are on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import unpool
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.models.drmm.programs import as_images
from pyro_ext.models.drmm.rendered_units import class_templates, unit_templates
from pyro_ext.models.drmm.switch_styles import estimate_switch_law
from pyro_ext.plotting import image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pictures"]

_MOST = 2000  # training images looked at for samples and templates
_CELL = 0.3  # grey value of a cell that is on; its position is white


def pictures(model: DRMM, train: Tensor, held_out: Tensor, columns: int = 10) -> dict[str, Callable[..., Axes]]:
    """Return functions that draw, by name; each takes ``ax=None`` and returns the axes it drew on.

    Args:
        model: in evaluation mode when they are called, where there is batch norm.
        train: images from which the law of switches and the most active units are taken.
        held_out: images to reconstruct.
        columns: how many held-out images, or channels, in a row.

    Example:
        >>> from pyro_ext.models.drmm import Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> sorted(pictures(model, torch.rand(20, 64), torch.rand(5, 64)))
        ['class_templates', 'reconstruction', 'samples', 'switches_1', 'templates_1']
    """
    shown = held_out[:columns]
    drawn: dict[str, Callable[..., Axes]] = {
        "reconstruction": partial(_reconstruction, model, shown),
        "samples": partial(_samples, model, train),
        "class_templates": partial(_class_templates, model, train),
    }
    for level in range(1, len(model.layers) + 1):
        drawn[f"templates_{level}"] = partial(_templates, model, train, level)
        drawn[f"switches_{level}"] = partial(_switches, model, shown[:6], level, columns)
    return drawn


@torch.no_grad()
def _reconstruction(model: DRMM, images: Tensor, ax: Axes | None = None) -> Axes:
    """Draw images above what the model renders of them."""
    x = _on_device(model, images)
    ax = image_grid(torch.stack([_grey(x), _grey(model.reconstruct(x))]), ax)
    return _titled(ax, "held-out images (top) and what is rendered of them")


@torch.no_grad()
def _samples(model: DRMM, train: Tensor, ax: Axes | None = None, rows: int = 6) -> Axes:
    """Draw samples, a column for each class, with switches from their law given the class."""
    law = estimate_switch_law(model, _on_device(model, train[:_MOST]))
    device = model.class_templates.device
    c = torch.arange(model.classes, device=device).repeat(rows)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        images, _ = model.sample(len(c), c, with_noise=False, law=law)
    return _titled(image_grid(_grey(images), ax, columns=model.classes), "samples, a column for each class")


@torch.no_grad()
def _class_templates(model: DRMM, train: Tensor, ax: Axes | None = None) -> Axes:
    """Draw each class through the switches of the images that score best in it, a column for each class."""
    images = class_templates(model, _on_device(model, train[:_MOST]), 3)
    grid = _grey(images).flatten(0, 1)
    return _titled(image_grid(grid, ax, columns=model.classes), "class templates, by the switches of their best images")


@torch.no_grad()
def _templates(model: DRMM, train: Tensor, level: int, ax: Axes | None = None) -> Axes:
    """Draw what one unit of each channel renders, through the switches of the image in which it is largest."""
    images = unit_templates(model, _on_device(model, train[:_MOST]), level).mean(-3)
    largest = images.abs().amax((-1, -2), keepdim=True).clamp_min(1e-12)
    framed = F.pad(0.5 + images / (2 * largest), (1, 1, 1, 1))
    ax = image_grid(framed, ax, columns=min(len(images), 8 if len(images) <= 64 else 16))
    return _titled(ax, f"templates of level {level}, a unit of each channel; grey is zero")


@torch.no_grad()
def _switches(model: DRMM, images: Tensor, level: int, channels: int, ax: Axes | None = None) -> Axes:
    """Draw images, and for some channels which cells are on (grey) and where (white)."""
    x = _on_device(model, images)
    layer, found = model.layers[level - 1], model.switches(x)[level - 1]
    spread = found.on.var(0, correction=0).mean((1, 2))  # over the images, of each channel
    telling = spread.topk(min(channels, len(spread))).indices.sort().values
    on, position, pool = found.on[:, telling], found.position[:, telling], layer.layer.pool
    cells = on.repeat_interleave(pool, -1).repeat_interleave(pool, -2)
    where = unpool(on, position, pool, (cells.shape[-2], cells.shape[-1]))
    maps = torch.maximum(_CELL * cells, where)
    tiles = torch.cat([_grey(x)[:, None], F.interpolate(maps, x.shape[-2:], mode="nearest")], 1)
    return _titled(
        image_grid(tiles, ax), f"images, and which units of level {level} are on (white), in channels that differ most"
    )


def _on_device(model: DRMM, images: Tensor) -> Tensor:
    return as_images(model, images.to(model.class_templates))


def _grey(images: Tensor) -> Tensor:
    """Return grey values in [0, 1], ``(..., height, width)``."""
    return images.mean(-3).clamp(0, 1)


def _titled(ax: Axes, title: str) -> Axes:
    ax.set_title(title, fontsize=9)
    return ax
