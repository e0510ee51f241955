"""Plots of a trained model: reconstructions, samples, templates of every level, and which switches are on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches, unpool
from pyro_ext.models.drmm.estimation import estimate_switch_distribution
from pyro_ext.models.drmm.model import DRMM
from pyro_ext.plotting import image_grid
from pyro_ext.utils.random_state import isolated_random_state

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["class_template_images", "model_plots", "unit_template_images"]

_MOST = 2000  # the number of training images that are used for samples and templates
_CELL = 0.3  # grey value of a cell that is on; its position is white


def model_plots(model: DRMM, train: Tensor, held_out: Tensor, columns: int = 10) -> dict[str, Callable[..., Axes]]:
    """Return functions that draw, by name; each takes ``ax=None`` and returns the axes it drew on.

    Args:
        model: the model, in evaluation mode when they are called where there is batch norm.
        train: images from which the distribution of switches and the most active units are taken.
        held_out: images to reconstruct.
        columns: the number of held-out images, or of channels, in a row.

    Example:
        >>> from pyro_ext.models.drmm import Layer
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> sorted(model_plots(model, torch.rand(20, 64), torch.rand(5, 64)))
        ['class_templates', 'reconstruction', 'samples', 'switches_1', 'templates_1']
    """
    shown = held_out[:columns]
    plots: dict[str, Callable[..., Axes]] = {
        "reconstruction": partial(_reconstruction, model, shown),
        "samples": partial(_samples, model, train),
        "class_templates": partial(_class_templates, model, train),
    }
    for level in range(1, len(model.layers) + 1):
        plots[f"templates_{level}"] = partial(_templates, model, train, level)
        plots[f"switches_{level}"] = partial(_switches, model, shown[:6], level, columns)
    return plots


@torch.no_grad()
def unit_template_images(model: DRMM, x: Tensor, level: int) -> Tensor:
    r"""Return the image rendered from a single unit of each channel of :math:`h^l`, ``(K,) + image_shape``.

    The unit has the value one. Its place, and the switches through which it is rendered, are those of the image in
    which the channel is largest. The constant that a batch norm downwards adds to every pixel is subtracted.

    Args:
        model: the model, in evaluation mode where there is batch norm.
        x: images, ``(N,) + image_shape``.
        level: the level l, from 1 to the number of layers.

    Raises:
        ValueError: if there is no such level.

    Example:
        >>> from pyro_ext.models.drmm import Layer
        >>> model = DRMM([Layer(4, 3, pool=2), Layer(6, 2)], classes=3, image_shape=(1, 8, 8))
        >>> unit_template_images(model, torch.rand(50, 1, 8, 8), level=2).shape
        torch.Size([6, 1, 8, 8])
    """
    if not 1 <= level <= len(model.layers):
        raise ValueError(f"level must lie in 1 .. {len(model.layers)}, got {level}")
    maps, switches = x, []
    for layer in model.layers[:level]:
        maps, best = layer.up(maps)
        switches.append(best)
    _, channels, height, width = maps.shape
    largest = maps.transpose(0, 1).flatten(1).argmax(-1)  # of each channel over images and places
    image, place = largest // (height * width), largest % (height * width)
    one = maps.new_zeros(channels, channels, height * width)
    channel = torch.arange(channels, device=x.device)
    one[channel, channel, place] = 1
    own = [layer_switches.rows(image) for layer_switches in switches]
    h = one.unflatten(-1, (height, width))
    return _render_from(model, h, own) - _render_from(model, torch.zeros_like(h), own)


@torch.no_grad()
def class_template_images(model: DRMM, x: Tensor, number: int = 1) -> Tensor:
    """Return each class rendered through the switches of its best images, ``(number, C) + image_shape``.

    Args:
        model: the model, in evaluation mode where there is batch norm.
        x: images, ``(N,) + image_shape``, of which those with the highest scores are used.
        number: the number of images for each class; at most N.
    """
    inferred = model.infer(x)
    best = inferred.scores.topk(min(number, len(x)), dim=0).indices
    c = torch.arange(model.classes, device=x.device).expand_as(best)
    return model.render(c, [switches.rows(best) for switches in inferred.switches])


def _render_from(model: DRMM, h: Tensor, g: Sequence[Switches]) -> Tensor:
    for layer, switches in zip(reversed(model.layers[: len(g)]), reversed(g), strict=True):
        h = layer.down(h, switches).finer
    return h


@torch.no_grad()
def _reconstruction(model: DRMM, images: Tensor, ax: Axes | None = None) -> Axes:
    """Draw images above their reconstructions."""
    x = _on_device(model, images)
    rows = torch.stack([_grey(x), _grey(model.reconstruct(x))])
    return image_grid(
        rows, ax, title="held-out images, and their reconstructions", row_labels=("image", "reconstruction")
    )


@torch.no_grad()
def _samples(model: DRMM, train: Tensor, ax: Axes | None = None, rows: int = 6) -> Axes:
    """Draw samples, a column for each class, with switches from their distribution given the class."""
    distribution = estimate_switch_distribution(model, _on_device(model, train[:_MOST]))
    device = model.class_templates.device
    c = torch.arange(model.classes, device=device).repeat(rows)
    with isolated_random_state(0, device):
        images, _ = model.sample(len(c), c, with_noise=False, switch_distribution=distribution)
    labels = [str(k) for k in range(model.classes)]
    return image_grid(_grey(images), ax, columns=model.classes, title="samples, by their classes", column_labels=labels)


@torch.no_grad()
def _class_templates(model: DRMM, train: Tensor, ax: Axes | None = None) -> Axes:
    """Draw each class through the switches of the images that score best in it, a column for each class."""
    images = class_template_images(model, _on_device(model, train[:_MOST]), 3)
    grid = _grey(images).flatten(0, 1)
    title = "templates of the classes, rendered with the switches of their best images"
    columns = [str(k) for k in range(model.classes)]
    rows = ("best image", "second", "third")[: len(images)]
    return image_grid(grid, ax, columns=model.classes, title=title, row_labels=rows, column_labels=columns)


@torch.no_grad()
def _templates(model: DRMM, train: Tensor, level: int, ax: Axes | None = None) -> Axes:
    """Draw the image rendered from one unit of each channel, with the switches of the image in which it is largest."""
    images = unit_template_images(model, _on_device(model, train[:_MOST]), level).mean(-3)
    largest = images.abs().amax((-1, -2), keepdim=True).clamp_min(1e-12)
    framed = F.pad(0.5 + images / (2 * largest), (1, 1, 1, 1))
    columns = min(len(images), 8 if len(images) <= 64 else 16)
    title = f"templates of level {level}, one unit of each channel; grey is zero"
    return image_grid(framed, ax, columns=columns, title=title)


@torch.no_grad()
def _switches(model: DRMM, images: Tensor, level: int, channels: int, ax: Axes | None = None) -> Axes:
    """Draw images, and for some channels which cells are on (grey) and at which position (white)."""
    x = _on_device(model, images)
    layer, switches = model.layers[level - 1], model.switches(x)[level - 1]
    variance = switches.on.var(0, correction=0).mean((1, 2))  # over the images, of each channel
    most_variable = variance.topk(min(channels, len(variance))).indices.sort().values
    on, position, pool = switches.on[:, most_variable], switches.position[:, most_variable], layer.layer.pool
    cells = on.repeat_interleave(pool, -1).repeat_interleave(pool, -2)
    where = unpool(on, position, pool, (cells.shape[-2], cells.shape[-1]))
    maps = torch.maximum(_CELL * cells, where)
    tiles = torch.cat([_grey(x)[:, None], F.interpolate(maps, x.shape[-2:], mode="nearest")], 1)
    title = f"images, and the units of level {level} that are on (white), in the channels that differ most"
    columns = ["image", *(str(int(k) + 1) for k in most_variable)]
    return image_grid(tiles, ax, title=title, column_labels=columns)


def _on_device(model: DRMM, images: Tensor) -> Tensor:
    return model.as_images(images.to(model.class_templates))


def _grey(images: Tensor) -> Tensor:
    """Return grey values in [0, 1], ``(..., height, width)``."""
    return images.mean(-3).clamp(0, 1)
