r"""Weight normalisation: the length of a weight vector as a parameter of its own, set by data before training."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pyro_ext.nn.data_dependent import DataDependentLayer
from pyro_ext.utils.checks import positive_number

__all__ = ["WeightNorm"]


class WeightNorm(DataDependentLayer):
    r"""A linear or convolutional layer whose weight vectors have a length of their own.

    .. math::  y_k = g_k \frac{v_k \cdot x}{\lVert v_k \rVert} + b_k,

    with one length :math:`g_k` and one bias :math:`b_k` for each output feature, or channel, k. The result is computed
    from :math:`v_k \cdot x`, so that no normalised weight is ever stored.

    While :func:`~pyro_ext.nn.initialize_from_data_` runs, g and b are set so that each output feature has mean 0 and
    standard deviation ``init_scale`` over the batch.

    Args:
        layer: a ``Linear`` layer, or a convolution or transposed convolution of any dimension, of which the weight v
            and the geometry are used; its bias is taken over.
        train_scale: whether g is trained; otherwise it stays where initialisation puts it.
        bias: whether there is a bias b.
        init_scale: the standard deviation of output features after initialisation by data.

    Raises:
        ValueError: if ``layer`` is of another kind, is lazy, or is a transposed convolution in groups, or
            ``init_scale`` is not positive.

    References:
        | Weight normalization (Salimans and Kingma, 2016), equation 2 and section 3
        | https://arxiv.org/abs/1602.07868

    Example:
        >>> from pyro_ext.nn import initialize_from_data_
        >>> x = 3.0 + 2.0 * torch.randn(500, 4)
        >>> net = nn.Sequential(WeightNorm(nn.Linear(4, 5)), nn.ReLU(), WeightNorm(nn.Linear(5, 2)))
        >>> y = initialize_from_data_(net, x)(x)
        >>> bool(y.mean(0).abs().max() < 1e-4), bool((y.std(0, correction=0) - 1).abs().max() < 1e-4)
        (True, True)
    """

    def __init__(self, layer: nn.Module, train_scale: bool = True, bias: bool = True, init_scale: float = 1.0) -> None:
        super().__init__()
        if not isinstance(layer, nn.Linear | _ConvNd):
            raise ValueError(f"layer must be a linear or convolutional layer of torch.nn, got {layer!r}")
        if torch.nn.parameter.is_lazy(layer.weight):
            raise ValueError(f"layer must have its sizes, got {layer!r}; give in_features or in_channels")
        transposed = isinstance(layer, _ConvTransposeNd)
        if transposed and cast("_ConvNd", layer).groups > 1:
            raise ValueError(f"layer must have one group if it is a transposed convolution, got {layer!r}")
        self.layer = layer
        self.init_scale = positive_number("init_scale", init_scale)
        self._summed = (0, *range(2, layer.weight.dim())) if transposed else (*range(1, layer.weight.dim()),)
        self._channel = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.dim()
        features = layer.weight.shape[1 if transposed else 0]
        old = layer.bias
        layer.register_parameter("bias", None)
        start = layer.weight.detach().square().sum(self._summed).sqrt()  # the layer as it is, until data say otherwise
        self.scale = nn.Parameter(start, requires_grad=train_scale)
        own = layer.weight.new_zeros(features) if old is None else old.detach()
        self.bias = nn.Parameter(own.clone()) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the output features of ``x``, of the shape that the layer gives."""
        length = self.layer.weight.square().sum(self._summed).sqrt()
        y: Tensor = self.layer(x)
        if self.initializing:
            self._initialize(y * self._along(length.reciprocal(), y))
        y = y * self._along(self.scale / length, y)
        return y if self.bias is None else y + self._along(self.bias, y)

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"train_scale={self.scale.requires_grad}, bias={self.bias is not None}"

    def _along(self, vector: Tensor, y: Tensor) -> Tensor:
        """Return a vector of output features in a shape that meets those of ``y``."""
        return vector.reshape(-1, *(1,) * (-1 - self._channel))

    def _initialize(self, normalised: Tensor) -> None:
        rows = normalised.movedim(self._channel, -1).flatten(0, -2)
        deviation = rows.std(0, correction=0).clamp_min(torch.finfo(rows.dtype).eps ** 0.5)
        scale = self.init_scale / deviation
        self.scale.data.copy_(scale)
        if self.bias is not None:
            self.bias.data.copy_(-rows.mean(0) * scale)
