"""Surrogates of the cost at the values of a site: linear ones that are trained online, with exact expectations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._online import OnlineAdam

__all__ = ["LinearSurrogate", "MeanSurrogate", "event_width"]

_HIDDEN, _LR, _DECAY = 200, 1e-3, 0.99


class LinearSurrogate(nn.Module):
    r"""The surrogate :math:`c(z) = a \cdot z`, with a from a network whose input is the site's own logits.

    The network has one hidden layer of 200 units. It minimises the squared differences between the costs of the
    draws of a site, less c, so that only what c says of differences counts.

    Args:
        size: the number of entries of an event.

    Example:
        >>> fn = torch.distributions.OneHotCategorical(torch.ones(3))
        >>> surrogate = LinearSurrogate(3)
        >>> surrogate(fn, fn.sample((2,))), surrogate.expectation(fn)  # nothing is learned yet
        (tensor([0., 0.]), tensor(0.))
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        bounds = [(size * _HIDDEN, size**-0.5), (_HIDDEN, size**-0.5)]
        drawn = [torch.rand(n, dtype=torch.float32, device="cpu").mul(2).sub(1).mul(bound) for n, bound in bounds]
        # the last layer starts at 0: so does c
        drawn.append(torch.zeros((_HIDDEN + 1) * size, dtype=torch.float32, device="cpu"))
        self.adam = OnlineAdam(torch.cat(drawn), _LR)

    @staticmethod
    def size_of(num_weights: int) -> int:
        """Return the number of entries of an event for which a network has so many weights."""
        return (num_weights - _HIDDEN) // (2 * _HIDDEN + 1)

    def forward(self, fn: Any, value: Tensor) -> Tensor:
        """Return c at the values of a site."""
        return (self._slopes(fn, self.adam.values) * _one_hot(fn, value)).sum((-2, -1))

    def expectation(self, fn: Any) -> Tensor:
        """Return the expectation of c, ``batch_shape``."""
        return (self._slopes(fn, self.adam.values).detach() * _flat(fn, unwrap(fn).base.probs)).sum((-2, -1))

    def _slopes(self, fn: Any, network: Tensor) -> Tensor:
        """Return a, ``batch_shape + (D, C)``."""
        base, size = unwrap(fn).base, self.size
        logits = base.logits.detach().to(torch.promote_types(base.logits.dtype, torch.float32))
        inputs = _flat(fn, logits.clamp(-50, 50))
        pieces = network.to(inputs.dtype).split([size * _HIDDEN, _HIDDEN, size * _HIDDEN, size])
        hidden = torch.relu(inputs.flatten(-2) @ pieces[0].reshape(size, _HIDDEN) + pieces[1])
        return (hidden @ pieces[2].reshape(_HIDDEN, size) + pieces[3]).reshape(inputs.shape)

    def note(self, fn: Any, value: Tensor, cost: Tensor, weight: Tensor, dim: int) -> Tensor:
        """Return the gradient of the squared differences that c leaves."""
        with torch.enable_grad():
            leaf = self.adam.leaf(torch.float32)
            fitted = (self._slopes(fn, leaf) * _one_hot(fn, value)).sum((-2, -1))
            rest = _centred(cost - fitted, weight, dim)
            squared = (weight * rest.square()).sum(dim).mean()
            (gradient,) = torch.autograd.grad(squared, leaf)
        return gradient

    def learn(self, note: Tensor) -> None:
        """Take one step of Adam."""
        self.adam.step(note)


class MeanSurrogate(nn.Module):
    r"""The surrogate :math:`c(z) = t \, g \cdot z` with the slope g of the costs at the mean of the site.

    The scalar t starts at 0 and minimises moving averages of the squared differences between costs less c.

    Example:
        >>> MeanSurrogate().weight
        tensor(0., dtype=torch.float64)
    """

    cross: Tensor
    square: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.zeros((), device="cpu")
        for name in ("cross", "square"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64, device="cpu"))

    @property
    def weight(self) -> Tensor:
        """The scalar t, ``()``."""
        return torch.where(self.square > 0, self.cross / self.square, 0.0)

    def forward(self, fn: Any, value: Tensor) -> Tensor:
        """Return c at the values of a site."""
        return self.weight.to(self.slope.dtype) * self._along(fn, value)

    def expectation(self, fn: Any) -> Tensor:
        """Return the expectation of c, ``batch_shape``."""
        return self.weight.to(self.slope.dtype) * self._along(fn, unwrap(fn).base.probs)

    def _along(self, fn: Any, value: Tensor) -> Tensor:
        return (self.slope * value).sum(tuple(range(-fn.event_dim, 0))) if fn.event_dim else self.slope * value

    def note(self, fn: Any, value: Tensor, cost: Tensor, weight: Tensor, dim: int) -> Tensor:
        """Return the weighted sums of products of centred costs and centred g z, and of squares of the latter."""
        cost, along = (_centred(x, weight, dim) for x in (cost, self._along(fn, value).expand(cost.shape)))
        return torch.stack([(weight * cost * along).sum(dim).mean(), (weight * along.square()).sum(dim).mean()])

    def learn(self, note: Tensor) -> None:
        """Move the averages."""
        for average, value in zip((self.cross, self.square), note, strict=True):
            average.mul_(_DECAY).add_((1 - _DECAY) * value)


def event_width(fn: Any, probs: Tensor) -> int:
    """Return the number of entries of an event of one-hot vectors, of a site with these probabilities."""
    return _flat(fn, probs).shape[-2:].numel()


def _flat(fn: Any, x: Tensor) -> Tensor:
    """Return numbers in the shape of probabilities as ``(...) + (D, C)``, C being 1 for bits."""
    base, num_event_dims = unwrap(fn)
    if isinstance(base, torch.distributions.Bernoulli):
        x = x.unsqueeze(-1)
    return x.reshape(*x.shape[: x.dim() - 1 - num_event_dims], -1, x.shape[-1])


def _one_hot(fn: Any, value: Tensor) -> Tensor:
    base = unwrap(fn).base
    if isinstance(base, torch.distributions.Categorical):
        value = torch.nn.functional.one_hot(value.long(), base.logits.shape[-1]).to(base.logits.dtype)
    return _flat(fn, value)


def _centred(x: Tensor, weight: Tensor, dim: int) -> Tensor:
    return x - (weight * x).sum(dim, keepdim=True)
