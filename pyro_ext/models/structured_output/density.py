"""Density estimation: a chain of discrete layers that ends in the pixels, and its inference network."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.structured_output.layers import Centred, Units, connection, site_names, start_at_base_rates
from pyro_ext.models.toolkit import data_plate
from pyro_ext.utils.checks import positive_int

__all__ = ["DensityGuide", "DensityModel", "check_batch"]


class DensityModel(PyroModule):
    r"""A sigmoid belief network: discrete layers, each given the one above, and pixels given the lowest.

    .. math::

        p(x, h) = p(h_L) \prod_{l=1}^{L-1} p(h_l \mid h_{l+1}) \; \prod_d \mathrm{Bernoulli}(x_d; \sigma(f(h_1)_d))

    with a learned prior of the uppermost layer. Logits of a layer are linear in the values of the one above, or have
    two layers of tanh units, as wide as the layers, in between.

    Args:
        size: the number N of data points that the plate stands for; a batch of B is scaled by N / B.
        num_pixels: the number of pixels of an image.
        units: the kind of the hidden layers.
        layers: the number L of hidden layers.
        nonlinear: whether there are tanh units between layers.

    Raises:
        ValueError: if a number is not a positive integer.

    Example:
        >>> model = DensityModel(size=1500, num_pixels=64, units=Units(20), layers=2)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(100, 64))
        >>> [*trace.stochastic_nodes], trace.nodes["h1"]["value"].shape
        (['data', 'h2', 'h1'], torch.Size([100, 20]))
    """

    def __init__(self, size: int, num_pixels: int, units: Units, layers: int = 1, nonlinear: bool = False) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.num_pixels = positive_int("num_pixels", num_pixels)
        self.sites = site_names(layers)
        self.units = units
        self.prior_logits = nn.Parameter(torch.zeros(units.num_logits))
        outputs = [num_pixels] + [units.num_logits] * (layers - 1)
        self.below = nn.ModuleList(connection(units.width, number, nonlinear, units.width) for number in outputs)

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Name of a site -> names of the sites whose values its distribution depends on."""
        return dict(zip(("x", *self.sites), (*((name,) for name in self.sites), ()), strict=True))

    def start_at_base_rates(self, x: Tensor) -> None:
        """Set the biases of the pixels to their log-odds in images ``x``, ``(N, num_pixels)``."""
        lowest = self.below[0]
        assert isinstance(lowest, nn.Sequential)
        start_at_base_rates(lowest, x)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample the layers and observe ``x``, ``(B, num_pixels)``; return the logits, ``(..., B, num_pixels)``.

        Args:
            x: binary images.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        check_batch(x, self.num_pixels)
        with data_plate(self.size, x, index):
            logits = self._descend()
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)
        return logits

    def sample_pixels(self, number: int) -> Tensor:
        """Draw from the prior and return the means of the pixels, ``(number, num_pixels)``."""
        with pyro.plate("samples", number, dim=-1):
            return self._descend().sigmoid()

    def _descend(self) -> Tensor:
        """Sample the layers from the uppermost down; return the pixels' logits."""
        logits: Tensor = self.prior_logits
        for name, below in zip(reversed(self.sites), reversed(self.below), strict=True):
            states = pyro.sample(name, self.units.distribution(logits))
            logits = below(self.units.values(states))
        return logits


class DensityGuide(PyroModule):
    r"""The inference network: :math:`q(h \mid x) = q(h_1 \mid x) \prod_{l=2}^{L} q(h_l \mid h_{l-1})`.

    The inputs of each connection are centred by running means with a decay of 0.9; the mean of the pixels begins at
    ``pixel_means``.

    Args:
        size: the number N of data points that the plate stands for; a batch of B is scaled by N / B.
        pixel_means: the means of the pixels in the training data, ``(num_pixels,)``.
        units: the kind of the hidden layers.
        layers: the number L of hidden layers.
        nonlinear: whether there are tanh units between layers.

    Raises:
        ValueError: if a number is not a positive integer.

    Example:
        >>> guide = DensityGuide(1500, torch.zeros(64), Units(20, categories=4), layers=2)
        >>> guide(torch.zeros(100, 64)).shape
        torch.Size([100, 20])
    """

    def __init__(self, size: int, pixel_means: Tensor, units: Units, layers: int = 1, nonlinear: bool = False) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.num_pixels = len(pixel_means)
        self.sites = site_names(layers)
        self.units = units
        means = [pixel_means] + [pixel_means.new_zeros(units.width)] * (layers - 1)
        self.centred = nn.ModuleList(Centred(mean) for mean in means)
        self.above = nn.ModuleList(connection(len(m), units.num_logits, nonlinear, units.width) for m in means)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample the layers given ``x``, ``(B, num_pixels)``; return the values of the uppermost, ``(..., B, width)``.

        Args:
            x: binary images.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        check_batch(x, self.num_pixels)
        values = x
        with data_plate(self.size, x, index):
            for name, centred, above in zip(self.sites, self.centred, self.above, strict=True):
                states = pyro.sample(name, self.units.distribution(above(centred(values))))
                values = self.units.values(states)
        return values


def check_batch(x: Tensor, num_pixels: int) -> None:
    """Raise a ValueError unless ``x`` holds rows of so many pixels."""
    if x.dim() != 2 or x.shape[-1] != num_pixels:
        raise ValueError(f"x must have shape (batch, {num_pixels}), got {tuple(x.shape)}")
