"""Layers: their settings, the sizes of the maps between them, their module, and the results of a stack of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import SWITCHES, Switch, Switches, as_maps, max_cells, mean_cells, spread_cells, unpool
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["BatchNorm", "Geometry", "Inferred", "Layer", "Rendered", "Rendering", "RenderingLayer", "geometries"]

BatchNorm = Literal["none", "up", "both"]


@dataclass(frozen=True)
class Layer:
    r"""The settings of one layer of rendering, which is one layer of a convolutional network of stride 1.

    Args:
        channels: the number :math:`K_l` of templates.
        kernel: the height and width of a template.
        pool: the size p of the cells within which a template may move; 1 for none.
        padding: the width of the zeros around the finer map; what is rendered is cropped by as much.
        mean_pool: the size of cells of which only the mean is passed upwards; 1 for none.
        switch: the on/off values of the units of this layer; those of the model if None.

    Raises:
        ValueError: if a number is out of range, or there is no such switch.

    Example:
        >>> Layer(16, kernel=3, pool=2, padding=1).channels
        16
    """

    channels: int
    kernel: int
    pool: int = 1
    padding: int = 0
    mean_pool: int = 1
    switch: Switch | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "pool", "mean_pool"):
            positive_int(name, getattr(self, name))
        positive_int("padding", self.padding, minimum=0)
        if self.padding >= self.kernel:
            raise ValueError(f"padding must be less than kernel={self.kernel}, got {self.padding}")
        if self.switch is not None:
            one_of("switch", self.switch, SWITCHES)


@dataclass(frozen=True)
class Geometry:
    """The shapes ``(channels, height, width)`` of the maps around one layer.

    Args:
        finer: the shape of the map below, which is the image for the lowest layer.
        conv: the shape of the convolution's result.
        pooled: the shape of the units and their switches.
        coarser: the shape of the map above, smaller than ``pooled`` where means are passed upwards.
    """

    finer: tuple[int, int, int]
    conv: tuple[int, int, int]
    pooled: tuple[int, int, int]
    coarser: tuple[int, int, int]


def geometries(layers: Sequence[Layer], image_shape: Sequence[int]) -> tuple[Geometry, ...]:
    """Return the shapes around every layer, from the lowest.

    Args:
        layers: the layers, from the lowest.
        image_shape: channels, height and width of the images.

    Raises:
        ValueError: if there are no layers, or the image is smaller than the receptive field of a unit.

    Example:
        >>> geometries([Layer(16, 3, pool=2, padding=1), Layer(32, 3, mean_pool=2)], (1, 9, 9))[-1].coarser
        (32, 1, 1)
    """
    if not layers:
        raise ValueError("layers must hold at least one Layer, got none")
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (channels, height, width), got {tuple(image_shape)!r}")
    channels, height, width = (positive_int("image_shape", number) for number in image_shape)
    finer, shapes = (channels, height, width), []
    for number, layer in enumerate(layers, start=1):
        shapes.append(_around(finer, layer))
        finer = shapes[-1].coarser
        if min(finer) < 1:
            raise ValueError(
                f"image_shape {tuple(image_shape)!r} is smaller than the receptive field of layer {number}, of which "
                f"{shapes[-1].conv[1]} x {shapes[-1].conv[2]} places are left; use larger images, padding or fewer "
                "layers"
            )
    return tuple(shapes)


class Rendered(NamedTuple):
    r"""What a layer renders from the map above.

    Args:
        finer: the map below, :math:`h^{l-1}`, ``batch_shape + (K, H, W)``.
        bias_term: :math:`\langle b^l, u^l \rangle`, ``batch_shape``.
    """

    finer: Tensor
    bias_term: Tensor


class Inferred(NamedTuple):
    """What the network computes from images.

    Args:
        scores: the scores :math:`z_c` of the classes, ``batch_shape + (C,)``.
        features: the features :math:`x^L` of the highest layer, ``batch_shape + (K, H, W)``.
        switches: the best switches of every layer, from the lowest.
    """

    scores: Tensor
    features: Tensor
    switches: tuple[Switches, ...]


class Rendering(NamedTuple):
    r"""What the model renders from classes and switches.

    Args:
        levels: :math:`h^0, \dots, h^L`, from the image to the class template.
        bias_term: :math:`\eta = \sum_l \langle b^l, u^l \rangle`, ``batch_shape``.
    """

    levels: tuple[Tensor, ...]
    bias_term: Tensor

    @property
    def image(self) -> Tensor:
        """The image :math:`h^0`, ``batch_shape + image_shape``."""
        return self.levels[0]


class RenderingLayer(nn.Module):
    r"""Templates :math:`\Lambda^l`, biases :math:`b^l`, and the prior probabilities of the switches.

    Upwards it is a layer of a convolutional network, downwards it renders with the same templates:

    .. math::
        x^l = \max_{t, a} a \, (\Lambda^l \star x^{l-1} + b^l)_t, \qquad
        h^{l-1} = \Lambda^l * u^l, \quad u^l = \mathrm{Unpool}_t(a \, h^l).

    Biases play no part in what is rendered.

    Args:
        layer: the settings.
        geometry: the shapes of the maps around the layer.
        switch: the on/off values of the units, where ``layer`` does not set its own.
        batch_norm: whether channels are normalised over the batch: not at all, on the way up, or on both ways.

    Example:
        >>> layer = RenderingLayer(Layer(4, 3, pool=2), geometries([Layer(4, 3, pool=2)], (1, 8, 8))[0])
        >>> x, g = layer.up(torch.rand(5, 1, 8, 8))
        >>> x.shape, layer.down(x, g).finer.shape
        (torch.Size([5, 4, 3, 3]), torch.Size([5, 1, 8, 8]))
    """

    position_logits: Tensor
    on_logits: Tensor

    def __init__(
        self, layer: Layer, geometry: Geometry, switch: Switch = "relu", batch_norm: BatchNorm = "none"
    ) -> None:
        super().__init__()
        self.layer = layer
        self.geometry = geometry
        self.switch: Switch = layer.switch or switch
        below = geometry.finer[0]
        self.templates = nn.Parameter(torch.empty(layer.channels, below, layer.kernel, layer.kernel))
        nn.init.kaiming_normal_(self.templates, nonlinearity="relu")
        self.biases = nn.Parameter(torch.zeros(layer.channels))
        self.norm_up = nn.BatchNorm2d(layer.channels) if batch_norm != "none" else None
        self.norm_down = nn.BatchNorm2d(below) if batch_norm == "both" else None
        self.register_buffer("position_logits", torch.zeros(*geometry.pooled, layer.pool**2))
        self.register_buffer("on_logits", torch.zeros(geometry.pooled))

    @property
    def factors(self) -> tuple[float, float]:
        """The values of a: that of units that are off, and that of units that are on."""
        return SWITCHES[self.switch]

    def up(self, x: Tensor) -> tuple[Tensor, Switches]:
        """Return the features ``batch_shape + coarser`` of maps ``batch_shape + finer``, and the best switches."""
        maps, batch_shape = as_maps(x)
        v = F.conv2d(maps, self.templates, self.biases, padding=self.layer.padding)
        if self.norm_up is not None:
            v = self.norm_up(v)
        v = v.reshape(*batch_shape, *v.shape[-3:])
        best, switches = max_cells(v, self.layer.pool, self.factors)
        return mean_cells(best, self.layer.mean_pool), switches

    def masked(self, h: Tensor, switches: Switches) -> Tensor:
        r"""Return the masked units :math:`u^l`, ``batch_shape + conv``: values times on/off factors.

        Args:
            h: the values of the map above, ``batch_shape + coarser``.
            switches: the switches of the units, ``batch_shape + pooled``.
        """
        off, on = self.factors
        _, *pooled = self.geometry.pooled
        _, *conv = self.geometry.conv
        spread = spread_cells(h, self.layer.mean_pool, (pooled[0], pooled[1]))
        return unpool(spread * (off + (on - off) * switches.on), switches.position, self.layer.pool, (conv[0], conv[1]))

    def down(self, h: Tensor, switches: Switches) -> Rendered:
        """Render the map below from the one above, ``batch_shape + coarser``, and switches ``batch_shape + pooled``."""
        u = self.masked(h, switches)
        return Rendered(self.spread(u), (u.sum((-1, -2)) * self.biases).sum(-1))

    def spread(self, u: Tensor, templates: Tensor | None = None) -> Tensor:
        """Render masked units.

        Args:
            u: the masked units, ``batch_shape + conv``.
            templates: the templates to render with; the layer's own if None.
        """
        maps, batch_shape = as_maps(u)
        weight = self.templates if templates is None else templates
        finer = F.conv_transpose2d(maps, weight, padding=self.layer.padding)
        if self.norm_down is not None:
            finer = self.norm_down(finer)
        return finer.reshape(*batch_shape, *finer.shape[-3:])

    def switch_log_prior(self, switches: Switches) -> Tensor:
        r"""Return :math:`\sum \ln \pi_t + \ln \pi_a` of switches ``batch_shape + pooled``, shape ``batch_shape``."""
        log_position = self.position_logits.log_softmax(-1)
        log_position = log_position.expand(*switches.position.shape, -1)
        chosen = log_position.gather(-1, switches.position[..., None])[..., 0]
        log_on = F.logsigmoid(torch.where(switches.on > 0, self.on_logits, -self.on_logits))
        return (chosen + log_on).sum((-1, -2, -3))

    def sample_switches(self, n: int) -> Switches:
        """Draw ``n`` independent switches of all units from their prior probabilities, ``(n,) + pooled``."""
        position = torch.distributions.Categorical(logits=self.position_logits).sample((n,))
        return Switches(position, self.on_logits.sigmoid().expand(n, *self.on_logits.shape).bernoulli())


def _around(finer: tuple[int, int, int], layer: Layer) -> Geometry:
    k = layer.channels
    conv = [max(size + 2 * layer.padding - layer.kernel + 1, 0) for size in finer[1:]]
    pooled = [size // layer.pool for size in conv]
    coarser = [size // layer.mean_pool for size in pooled]
    return Geometry(finer, (k, conv[0], conv[1]), (k, pooled[0], pooled[1]), (k, coarser[0], coarser[1]))
