"""Layers that take their scales and biases from one batch of data before training begins."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["DataDependentLayer", "initialize_from_data_"]


class DataDependentLayer(nn.Module):
    """A layer that can set its scale and its bias by the batch it is given.

    Subclasses look at :attr:`initializing` in ``forward``; while it is set, they choose their parameters by their input
    before they use them. :func:`initialize_from_data_` sets it.

    Attributes:
        initializing: whether the next batch is to determine scale and bias.

    Example:
        >>> class Centred(DataDependentLayer):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.bias = nn.Parameter(torch.zeros(()))
        ...     def forward(self, x):
        ...         if self.initializing:
        ...             self.bias.data.copy_(-x.mean())
        ...         return x + self.bias
        >>> initialize_from_data_(Centred(), torch.tensor([1.0, 5.0])).bias.item()
        -3.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.initializing = False


@torch.no_grad()
def initialize_from_data_(module: nn.Module, *inputs: Any) -> nn.Module:
    """Set scales and biases of all :class:`DataDependentLayer` layers by one pass, in place.

    Each layer is initialised with what the layers before it, which are initialised by then, make of the inputs. Other
    parameters stay as they are, and so do buffers, such as running statistics.

    Args:
        module: a network, which is called as ``module(*inputs)``.
        *inputs: a batch, large enough for means and variances of its features.

    Returns:
        The module.

    Raises:
        ValueError: if the network has no such layer.

    References:
        | Weight normalization: a simple reparameterization to accelerate training of deep neural networks (Salimans
          and Kingma, 2016), section 3
        | https://arxiv.org/abs/1602.07868

    Example:
        >>> class Centred(DataDependentLayer):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.bias = nn.Parameter(torch.zeros(()))
        ...     def forward(self, x):
        ...         if self.initializing:
        ...             self.bias.data.copy_(-x.mean())
        ...         return x + self.bias
        >>> net = initialize_from_data_(nn.Sequential(Centred(), nn.ReLU(), Centred()), torch.tensor([1.0, 5.0]))
        >>> [layer.bias.item() for layer in (net[0], net[2])]
        [-3.0, -1.0]
    """
    layers = [layer for layer in module.modules() if isinstance(layer, DataDependentLayer)]
    if not layers:
        raise ValueError(f"module must have layers such as WeightNorm to initialise, {type(module).__name__} has none")
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        for layer in layers:
            layer.initializing = True
        module(*inputs)
    finally:
        for layer in layers:
            layer.initializing = False
        for buffer, value in before:
            buffer.copy_(value)
    return module
