"""What an ELBO learns while it is used, in buffers that no optimiser steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["OnlineAdam"]

_BETAS, _EPS = (0.9, 0.999), 1e-8


class OnlineAdam(nn.Module):
    """A vector of parameters that Adam moves along given gradients.

    Args:
        values: the vector at the start.
        lr: the learning rate.
    """

    values: Tensor
    _first: Tensor
    _second: Tensor
    _num_steps: Tensor

    def __init__(self, values: Tensor, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.register_buffer("values", values)
        self.register_buffer("_first", torch.zeros_like(values))
        self.register_buffer("_second", torch.zeros_like(values))
        self.register_buffer("_num_steps", torch.zeros((), dtype=torch.long, device=values.device))

    def leaf(self, dtype: torch.dtype) -> Tensor:
        """Return the values in another type, as a leaf that requires grad."""
        return self.values.detach().to(dtype).requires_grad_()

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """Take one step of Adam."""
        gradient = gradient.to(self.values.dtype)
        self._num_steps.add_(1)
        self._first.mul_(_BETAS[0]).add_((1 - _BETAS[0]) * gradient)
        self._second.mul_(_BETAS[1]).add_((1 - _BETAS[1]) * gradient.square())
        first = self._first / (1 - _BETAS[0] ** self._num_steps)
        second = self._second / (1 - _BETAS[1] ** self._num_steps)
        self.values.sub_(self.lr * first / (second.sqrt() + _EPS))
