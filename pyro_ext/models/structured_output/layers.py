"""What the networks are made of: layers of discrete units, connections between them, and centred inputs."""

from __future__ import annotations

from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_ext.models.toolkit import base_rate_logits, perceptron
from pyro_ext.utils.checks import number_between, one_of, positive_int

__all__ = ["Centred", "Coding", "Units", "connection", "site_names", "start_at_base_rates"]

Coding = Literal["corners", "one_hot"]


class Units(nn.Module):
    r"""A layer of discrete variables and the numbers that it passes on.

    Coded by corners, a variable of K states stands for a corner of the cube :math:`\{-1, 1\}^{\log_2 K}`: a binary
    one for -1 or 1. Coded one-hot it stands for a one-hot vector of K entries. Both codes are linear in the one-hot
    vector of the state, so relaxed states lie inside of the cube, or of the simplex.

    Args:
        width: how many numbers the layer passes on: :math:`\log_2 K` for each variable, or K if coded one-hot.
        categories: the number K of states of a variable; a power of 2 if coded by corners.
        coding: ``"corners"`` or ``"one_hot"``.

    Raises:
        ValueError: if a number is out of range, or the width is not that of a whole number of variables.

    References:
        | The Concrete distribution (Maddison et al., 2017), section 5.1, https://arxiv.org/abs/1611.00712
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), section 4
        | https://arxiv.org/abs/1611.01144

    Example:
        >>> units = Units(width=240, categories=8)
        >>> units.num_variables, units.num_logits
        (80, 640)
        >>> Units(2, categories=4).values(torch.eye(4)[:, None])
        tensor([[-1., -1.],
                [-1.,  1.],
                [ 1., -1.],
                [ 1.,  1.]])
    """

    code: Tensor

    def __init__(self, width: int, categories: int = 2, coding: Coding = "corners") -> None:
        super().__init__()
        self.width = positive_int("units", width)
        self.categories = positive_int("categories", categories, minimum=2)
        self.coding = one_of("coding", coding, ("corners", "one_hot"))
        size = categories
        if coding == "corners":
            size = categories.bit_length() - 1
            if 2**size != categories:
                raise ValueError(
                    f"categories must be a power of 2 with coding='corners', got {categories}; use coding='one_hot'"
                )
        if width % size:
            raise ValueError(
                f"units must be a multiple of {size}, the numbers that one variable of {categories} categories stands "
                f"for with coding={coding!r}, got {width}"
            )
        self.num_variables = width // size
        self.binary = coding == "corners" and categories == 2
        self.num_logits = self.num_variables * (1 if self.binary else categories)
        self.register_buffer("code", _code(categories, coding), persistent=False)

    def distribution(self, logits: Tensor) -> Any:
        """Return the distribution of the layer's states given logits ``(..., num_logits)``, as one event.

        States are ``(num_variables,)`` zeros and ones if they are binary, else one-hot ``(num_variables, K)``.
        """
        if self.binary:
            return dist.Bernoulli(logits=logits).to_event(1)
        by_variable = logits.unflatten(-1, (self.num_variables, self.categories))
        return dist.OneHotCategorical(logits=by_variable).to_event(1)

    def values(self, states: Tensor) -> Tensor:
        """Return the numbers, ``(..., width)``, that states as drawn from :meth:`distribution` stand for."""
        if self.binary:
            return 2 * states - 1
        return (states if self.coding == "one_hot" else states @ self.code).flatten(-2)

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        return f"width={self.width}, categories={self.categories}, coding={self.coding!r}"


def _code(categories: int, coding: Coding) -> Tensor:
    if coding == "one_hot":
        return torch.eye(categories)
    bits = categories.bit_length() - 1
    places = 2 ** torch.arange(bits - 1, -1, -1)
    return 2.0 * (torch.arange(categories)[:, None] // places % 2) - 1


def connection(inputs: int, outputs: int, nonlinear: bool, hidden: int) -> nn.Sequential:
    """Return a linear map, or, if ``nonlinear``, one behind two layers of ``hidden`` tanh units.

    >>> connection(200, 784, nonlinear=True, hidden=100)[-1]
    Linear(in_features=100, out_features=784, bias=True)
    """
    if nonlinear:
        return perceptron(inputs, hidden, hidden, outputs, activation=nn.Tanh)
    return perceptron(inputs, outputs)


class Centred(nn.Module):
    """Subtracts a running mean from its inputs, as the layers of an inference network do.

    Weights then need not make up for the means of the layer below. The mean follows the inputs in training, and stays
    as it is in evaluation, and where no gradients are recorded.

    Args:
        mean: the mean at the beginning, ``(features,)``.
        decay: the weight of the present mean in the next one, in [0, 1]; 1 for a constant mean.

    Raises:
        ValueError: if ``decay`` is out of range.

    Example:
        >>> centred = Centred(torch.zeros(2), decay=0.9)
        >>> centred(torch.ones(5, 2))[0], centred.mean
        (tensor([1., 1.]), tensor([0.1000, 0.1000]))
    """

    mean: Tensor

    def __init__(self, mean: Tensor, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = number_between("decay", decay, 0, 1)
        self.register_buffer("mean", mean.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return inputs ``(..., features)`` without their mean."""
        centred = inputs - self.mean
        if self.training and self.decay < 1 and torch.is_grad_enabled():
            batch_mean = inputs.detach().flatten(0, -2).mean(0)
            self.mean.mul_(self.decay).add_(batch_mean, alpha=1 - self.decay)
        return centred


@torch.no_grad()
def start_at_base_rates(connected: nn.Sequential, x: Tensor) -> None:
    """Set the biases of the last linear map to the log-odds of 1 in columns of zeros and ones ``(N, D)``.

    Args:
        connected: as :func:`connection` makes it, with D outputs.
        x: zeros and ones.
    """
    last = connected[-1]
    assert isinstance(last, nn.Linear)
    last.bias.copy_(base_rate_logits(x))


def site_names(layers: int) -> tuple[str, ...]:
    """Return the names of the sites of hidden layers, from the input of the guide on.

    >>> site_names(2)
    ('h1', 'h2')
    """
    return tuple(f"h{level}" for level in range(1, positive_int("layers", layers) + 1))
