"""Networks whose weights are rounded to a given number of bits."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from pyro_ext.ops.compression import round_to_bits

__all__ = ["quantize"]


@torch.no_grad()
def quantize(module: nn.Module, bits: int | Mapping[str, int]) -> nn.Module:
    r"""Return a copy of a network with parameters rounded to multiples of :math:`2^{-\mathrm{bits}}`.

    Evaluate the copy for the error after rounding. What bits each layer needs follows from posterior variances, see
    :func:`sparsity_report`.

    Args:
        module: the network.
        bits: binary places of all parameters, from 0 to 23; or of each parameter, by name, the others staying as they
            are.

    Raises:
        ValueError: if there is no such parameter, or a number of bits is out of range.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.3, -0.8]]))
        >>> quantize(layer, {"weight": 2}).weight
        Parameter containing:
        tensor([[ 0.2500, -0.7500]], requires_grad=True)
    """
    rounded = copy.deepcopy(module)
    parameters = dict(rounded.named_parameters())
    by_name = bits if isinstance(bits, Mapping) else dict.fromkeys(parameters, bits)
    for name, number in by_name.items():
        if name not in parameters:
            raise ValueError(f"bits: there is no parameter {name!r}; there are {', '.join(parameters)}")
        parameters[name].copy_(round_to_bits(parameters[name], number))
    return rounded
