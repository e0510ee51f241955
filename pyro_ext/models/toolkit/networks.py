"""Networks of encoders and decoders."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import nn

from pyro_ext.utils.checks import positive_int

__all__ = ["perceptron"]


def perceptron(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a perceptron: linear layers with an activation between each two of them.

    Args:
        *widths: the number of features of the input, of each hidden layer and of the output.
        activation: makes the module between layers.

    Raises:
        ValueError: if there are fewer than two widths, or one is not a positive integer.

    Example:
        >>> [type(layer).__name__ for layer in perceptron(64, 128, 10)]
        ['Linear', 'ReLU', 'Linear']
    """
    if len(widths) < 2:
        raise ValueError(f"widths must be those of the input and the output at least, got {widths}")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(positive_int("widths", before), positive_int("widths", after)), activation()]
    return nn.Sequential(*layers[:-1])
