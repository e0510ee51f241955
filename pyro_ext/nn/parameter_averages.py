r"""Means of parameters over the course of training: to evaluate with, or to stay close to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_ext.utils.checks import number_between

__all__ = ["HistoricalAverage", "ParameterAverage"]


class ParameterAverage(nn.Module):
    r"""A running mean of the parameters of a module, that can be called like it.

    .. math::  a_t = a_{t-1} + \max\!\big(r, \tfrac1t\big) (\theta_t - a_{t-1}),

    the plain mean of all parameters so far as long as there are fewer than :math:`1 / r` of them, and from then on a
    moving average. The published program of improved GANs has the weight r = 1e-4 from the beginning on, with
    :math:`a_0 = 0`, so that its averages are close to zero for the first thousands of steps.

    The mean is no part of any gradient. Means and their number are buffers: they are saved, and follow the device. The
    module itself is not registered as a part of the average, whose state holds the means alone.

    Args:
        module: whose parameters are averaged.
        min_weight: the least weight r of the latest parameters, in [0, 1]; with 0 the mean is that of all steps.

    Raises:
        ValueError: if the module has no parameters, or ``min_weight`` lies outside [0, 1].

    References:
        | Improved techniques for training GANs (Salimans et al., 2016), https://arxiv.org/abs/1606.03498
        | https://github.com/openai/improved-gan

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = ParameterAverage(layer, min_weight=0.0)
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = nn.init.constant_(layer.weight, value)
        ...     average.update()
        >>> average(torch.ones(1, 1)).item(), layer(torch.ones(1, 1)).item()
        (3.0, 6.0)
    """

    _module: nn.Module
    num_updates: Tensor

    def __init__(self, module: nn.Module, min_weight: float = 1e-4) -> None:
        super().__init__()
        self.min_weight = number_between("min_weight", min_weight, 0, 1)
        object.__setattr__(self, "_module", module)  # not registered: its state is its own
        self._names = [name for name, _ in module.named_parameters()]
        if not self._names:
            raise ValueError(f"module must have parameters to average, {type(module).__name__} has none")
        for name, parameter in module.named_parameters():
            self.register_buffer(_buffer(name), parameter.detach().clone())
        like = next(module.parameters())
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long, device=like.device))

    def means(self) -> dict[str, Tensor]:
        """Return the means by the names of the parameters; before the first update, the parameters at the start."""
        return {name: getattr(self, _buffer(name)) for name in self._names}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present parameters into the mean; call it after each step of the optimiser."""
        self.num_updates.add_(1)
        weight = self.num_updates.reciprocal().clamp_min(self.min_weight)
        for mean, parameter in self._pairs():
            mean.lerp_(parameter.detach(), weight.to(mean.dtype))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module with the means in the place of its parameters; its buffers are its own."""
        return functional_call(self._module, self.means(), args, kwargs)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Set the parameters of the module to their means, for good."""
        for mean, parameter in self._pairs():
            parameter.copy_(mean)

    def _pairs(self) -> Iterator[tuple[Tensor, nn.Parameter]]:
        parameters = dict(self._module.named_parameters())
        for name, mean in self.means().items():
            yield mean, parameters[name]


class HistoricalAverage(ParameterAverage):
    r"""The squared distance of parameters from the mean of all their past values, as a penalty.

    .. math::  \Big\lVert \theta - \frac1t \sum_{i=1}^t \theta[i] \Big\rVert^2.

    The mean is updated online and is a constant in gradients. Before the first update there is no past and the penalty
    is zero.

    Args:
        module: whose parameters are meant.

    Raises:
        ValueError: if the module has no parameters.

    References:
        | Improved techniques for training GANs (Salimans et al., 2016), section 3.3
        | https://arxiv.org/abs/1606.03498

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> history = HistoricalAverage(layer)
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = nn.init.constant_(layer.weight, value)
        ...     history.update()
        >>> history.penalty().item()  # (6 - 3)^2
        9.0
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, min_weight=0.0)

    def penalty(self) -> Tensor:
        """Return the squared distance, shape ``()``, with its gradient for the parameters."""
        distances = [(parameter - mean).square().sum() for mean, parameter in self._pairs()]
        total = torch.stack(distances).sum()
        return total * (self.num_updates > 0).to(total.dtype)


def _buffer(name: str) -> str:
    return name.replace(".", "/")
