"""One level of the model: templates that serve as filters on the way up and are rendered on the way down."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import SWITCHES, Switch, Switches, as_maps, max_cells, mean_cells, spread_cells, unpool
from pyro_ext.models.drmm.geometry import Geometry, Layer

__all__ = ["BatchNorm", "Rendered", "RenderingLayer"]

BatchNorm = Literal["none", "up", "both"]


class Rendered(NamedTuple):
    r"""One level rendered from the one above.

    Args:
        finer: :math:`h^{l-1}`, ``batch_shape + (K, H, W)``.
        bias_term: :math:`\langle b^l, u^l \rangle`, ``batch_shape``.
    """

    finer: Tensor
    bias_term: Tensor


class RenderingLayer(nn.Module):
    r"""Templates :math:`\Lambda^l`, biases :math:`b^l`, and the priors of the switches.

    Upwards it is a layer of a convolutional network, downwards it renders:

    .. math::
        x^l = \max_{t, a} a \, (\Lambda^l \star x^{l-1} + b^l)_t, \qquad
        h^{l-1} = \Lambda^l * \mathrm{Unpool}_t(a \, h^l),

    with the same templates. Biases play no part in what is rendered.

    Args:
        layer: what is wanted.
        geometry: the shapes around it.
        switch: the on/off values, unless the layer names its own.
        batch_norm: whether channels are normalised over the batch on the way up, or on both ways.

    Example:
        >>> from pyro_ext.models.drmm.geometry import plan
        >>> layer = RenderingLayer(Layer(4, 3, pool=2), plan([Layer(4, 3, pool=2)], (1, 8, 8))[0])
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
        """The values of a: of units that are off, and on."""
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
        """Return :math:`u^l`, ``batch_shape + conv``: the values of units ``coarser``, at their positions if on."""
        off, on = self.factors
        _, *pooled = self.geometry.pooled
        _, *conv = self.geometry.conv
        spread = spread_cells(h, self.layer.mean_pool, (pooled[0], pooled[1]))
        return unpool(spread * (off + (on - off) * switches.on), switches.position, self.layer.pool, (conv[0], conv[1]))

    def down(self, h: Tensor, switches: Switches) -> Rendered:
        """Render the level below from units ``batch_shape + coarser`` and switches ``batch_shape + pooled``."""
        u = self.masked(h, switches)
        return Rendered(self.spread(u), (u.sum((-1, -2)) * self.biases).sum(-1))

    def spread(self, u: Tensor, templates: Tensor | None = None) -> Tensor:
        """Render masked units ``batch_shape + conv`` with these templates, or the layer's own."""
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
