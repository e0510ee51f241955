"""Structured prediction: the lower half of an image given its upper half, through discrete layers."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.structured_output.density import check_batch
from pyro_ext.models.structured_output.layers import Centred, Units, connection, site_names, start_at_base_rates
from pyro_ext.models.toolkit import data_plate
from pyro_ext.utils.checks import positive_int

__all__ = ["LowerHalfGuide", "LowerHalfModel", "UpperHalfLayers"]


class UpperHalfLayers(nn.Module):
    r"""The discrete layers above a prediction: :math:`p(h \mid u) = p(h_1 \mid u) \prod_{l=2}^{L} p(h_l \mid h_{l-1})`.

    Args:
        pixel_means: the means of the upper pixels in the training data, ``(num_inputs,)``; they are subtracted.
        units: the kind of the layers.
        layers: the number L of layers.
        nonlinear: whether there are two layers of tanh units before each of them.
        scored: whether the layers have log-probabilities. Those of model and guide cancel in every bound; without them
            steps with relaxed layers take less time, while estimators for discrete ones have no score to work with.

    Raises:
        ValueError: if ``layers`` is not a positive integer.

    Example:
        >>> UpperHalfLayers(torch.zeros(32), Units(20), layers=2).sample(torch.zeros(5, 32)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self, pixel_means: Tensor, units: Units, layers: int = 2, nonlinear: bool = False, scored: bool = True
    ) -> None:
        super().__init__()
        self.sites = site_names(layers)
        self.units = units
        self.scored = scored
        self.num_inputs = len(pixel_means)
        # constant: a running mean would change between the runs of the guide and of the model, who share the layers
        self.centred = Centred(pixel_means, decay=1.0)
        widths = [self.num_inputs] + [units.width] * (layers - 1)
        self.above = nn.ModuleList(connection(width, units.num_logits, nonlinear, units.width) for width in widths)

    def sample(self, upper: Tensor) -> Tensor:
        """Sample all layers given upper halves, ``(B, num_inputs)``; return those of the last, ``(..., B, width)``."""
        values = self.centred(upper)
        for name, above in zip(self.sites, self.above, strict=True):
            distribution = self.units.distribution(above(values))
            states = pyro.sample(name, distribution if self.scored else distribution.mask(False))
            values = self.units.values(states)
        return values


class LowerHalfModel(PyroModule):
    r"""The lower half of an image given its upper half u, and discrete layers in between.

    .. math::  p(x, h \mid u) = p(h \mid u) \prod_d \mathrm{Bernoulli}(x_d; \sigma(f(h_L)_d))

    There is no inference network: the guide is :math:`p(h \mid u)` itself, so that the multi-sample bound is
    :math:`\mathbb{E} \log \frac{1}{m} \sum_k p(x \mid h^k)`.

    Args:
        size: the number N of data points that the plate stands for; a batch of B is scaled by N / B.
        hidden: the layers, which the guide shares.
        num_outputs: the number of pixels in the lower half.
        nonlinear: whether there are two layers of tanh units before the pixels.

    Raises:
        ValueError: if a number is not a positive integer.

    Example:
        >>> hidden = UpperHalfLayers(torch.zeros(32), Units(20), layers=2)
        >>> model = LowerHalfModel(1500, hidden, num_outputs=32)
        >>> [*pyro.poutine.trace(model).get_trace(torch.zeros(100, 64)).stochastic_nodes]
        ['data', 'h1', 'h2']
    """

    def __init__(self, size: int, hidden: UpperHalfLayers, num_outputs: int, nonlinear: bool = False) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.num_outputs = positive_int("num_outputs", num_outputs)
        self.hidden = hidden
        width = hidden.units.width
        self.below = connection(width, num_outputs, nonlinear, width)

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Name of a site -> names of the sites whose values its distribution depends on."""
        sites = self.hidden.sites
        return dict(zip((*sites, "lower"), ((), *((name,) for name in sites)), strict=True))

    def start_at_base_rates(self, lower: Tensor) -> None:
        """Set the biases of the pixels to their log-odds in lower halves, ``(N, num_outputs)``."""
        start_at_base_rates(self.below, lower)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample the layers and observe the lower halves of ``x``; return their logits, ``(..., B, num_outputs)``.

        Args:
            x: whole binary images, the pixels of the upper half first, ``(B, num_inputs + num_outputs)``.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        num_inputs = self.hidden.num_inputs
        check_batch(x, num_inputs + self.num_outputs)
        with data_plate(self.size, x, index):
            logits = self.below(self.hidden.sample(x[:, :num_inputs]))
            pyro.sample("lower", dist.Bernoulli(logits=logits).to_event(1), obs=x[:, num_inputs:])
        return logits

    def complete(self, upper: Tensor) -> Tensor:
        """Draw a prediction for each upper half, ``(B, num_inputs)``: means of the pixels, ``(B, num_outputs)``."""
        with pyro.plate("halves", len(upper), dim=-1):
            logits: Tensor = self.below(self.hidden.sample(upper))
        return logits.sigmoid()


class LowerHalfGuide(PyroModule):
    """The layers of a :class:`LowerHalfModel` given upper halves alone.

    Args:
        size: the number N of data points that the plate stands for; a batch of B is scaled by N / B.
        hidden: the layers of the model.

    Raises:
        ValueError: if ``size`` is not a positive integer.

    Example:
        >>> guide = LowerHalfGuide(1500, UpperHalfLayers(torch.zeros(32), Units(20), layers=2))
        >>> guide(torch.zeros(100, 64)).shape
        torch.Size([100, 20])
    """

    def __init__(self, size: int, hidden: UpperHalfLayers) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.hidden = hidden

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample the layers given the upper halves of ``x``; return the values of the last, ``(..., B, width)``.

        Args:
            x: whole images, or upper halves; of each row the first pixels, those of the upper half, are read.
            y: labels, of no use here.
            index: the rows of ``x`` in the data set, ``(B,)``.
        """
        with data_plate(self.size, x, index):
            return self.hidden.sample(x[:, : self.hidden.num_inputs])
