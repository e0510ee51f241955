"""Templates as images: units and classes rendered through the switches of images in which they are large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.models.drmm.cells import Switches

if TYPE_CHECKING:
    from pyro_ext.models.drmm.model import DRMM

__all__ = ["class_templates", "unit_templates"]


@torch.no_grad()
def unit_templates(model: DRMM, x: Tensor, level: int) -> Tensor:
    r"""Return what a single unit of each channel of :math:`h^l` renders, ``(K,) + image_shape``.

    It has the value one, where and in the image in which the channel is largest, and is rendered through that image's
    switches. What a batch norm downwards adds to every pixel is taken off.

    Args:
        model: in evaluation mode where there is batch norm.
        x: images, ``(N,) + image_shape``.
        level: l, from 1 to the number of layers.

    Raises:
        ValueError: if there is no such level.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer
        >>> model = DRMM([Layer(4, 3, pool=2), Layer(6, 2)], classes=3, image_shape=(1, 8, 8))
        >>> unit_templates(model, torch.rand(50, 1, 8, 8), level=2).shape
        torch.Size([6, 1, 8, 8])
    """
    if not 1 <= level <= len(model.layers):
        raise ValueError(f"level must lie in 1 .. {len(model.layers)}, got {level}")
    below = model.layers[:level]
    maps, switches = x, []
    for layer in below:
        maps, found = layer.up(maps)
        switches.append(found)
    _, channels, height, width = maps.shape
    largest = maps.transpose(0, 1).flatten(1).argmax(-1)  # of each channel over images and places
    image, place = largest // (height * width), largest % (height * width)
    one = maps.new_zeros(channels, channels, height * width)
    channel = torch.arange(channels, device=x.device)
    one[channel, channel, place] = 1
    own = [found.rows(image) for found in switches]
    h = one.unflatten(-1, (height, width))
    return _render_from(model, h, own) - _render_from(model, torch.zeros_like(h), own)


@torch.no_grad()
def class_templates(model: DRMM, x: Tensor, number: int = 1) -> Tensor:
    """Return each class rendered through the switches of its best images, ``(number, C) + image_shape``.

    Args:
        model: in evaluation mode where there is batch norm.
        x: images, ``(N,) + image_shape``, of which the ones of the highest scores are taken.
        number: how many images for each class; at most N.
    """
    found = model.infer(x)
    best = found.scores.topk(min(number, len(x)), dim=0).indices
    c = torch.arange(model.classes, device=x.device).expand_as(best)
    return model.render(c, [switches.rows(best) for switches in found.switches])


def _render_from(model: DRMM, h: Tensor, g: Sequence[Switches]) -> Tensor:
    for layer, switches in zip(reversed(model.layers[: len(g)]), reversed(g), strict=True):
        h = layer.down(h, switches).finer
    return h
