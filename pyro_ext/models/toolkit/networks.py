"""Networks of encoders and decoders, and where they start."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor, nn

from pyro_ext.utils.checks import positive_int

__all__ = ["base_rate_logits", "perceptron"]


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


def base_rate_logits(x: Tensor) -> Tensor:
    """Return the log-odds of 1 in each column, with one more zero and one more one than there are, ``(D,)``.

    A decoder of binary pixels whose last biases start there knows at once how often each pixel is on.

    Args:
        x: zeros and ones, ``(N, D)``.

    Example:
        >>> base_rate_logits(torch.tensor([[0.0, 1.0], [0.0, 1.0]])).exp()
        tensor([0.3333, 3.0000])
    """
    ones = x.sum(0) + 1
    return (ones / (len(x) + 2 - ones)).log()
