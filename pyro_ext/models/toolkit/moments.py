"""The level and the spread of costs in the course of training, from which learned baselines are measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_ext.utils.checks import number_between
from pyro_ext.utils.processes import mean_over_processes

__all__ = ["RunningMoments"]


class RunningMoments(nn.Module):
    """Moving averages of costs and of their squares; in distributed training, over the batches of all processes.

    Args:
        like: a tensor with the shape, dtype and device of the averages.
        decay: the weight of the past in the moving averages, in [0, 1).

    Raises:
        ValueError: if ``decay`` is out of range.

    Example:
        >>> moments = RunningMoments(torch.zeros(2))
        >>> loss = torch.ones((), requires_grad=True).square()
        >>> moments.note(torch.tensor([[0.0, 4.0], [10.0, 10.0]]), loss)
        >>> loss.backward()
        >>> moments.after_step()
        >>> moments.mean, moments.deviation
        (tensor([ 2., 10.]), tensor([2., 1.]))
    """

    mean: Tensor
    square: Tensor
    num_steps: Tensor

    def __init__(self, like: Tensor, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = number_between("decay", decay, 0, 1, "[)")
        self.register_buffer("mean", torch.zeros_like(like))
        self.register_buffer("square", torch.zeros_like(like))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long, device=like.device))
        self._pending: list[Tensor] = []

    @property
    def started(self) -> Tensor:
        """Whether there has been a step, shape ``()``."""
        return self.num_steps > 0

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of the costs, at least 1."""
        return (self.square - self.mean.square()).clamp_min(1.0).sqrt()

    def note(self, costs: Tensor, loss: Tensor) -> None:
        """Keep the costs of a batch for the next step, once ``backward`` has been called on its loss.

        Args:
            costs: costs of data points, of the shape of the averages and one more dim at the end.
            loss: the loss of the batch; without gradients, as in evaluation, nothing is kept.
        """
        if loss.requires_grad:
            costs = costs.detach()
            moments = torch.stack([costs.mean(-1), costs.square().mean(-1)])
            loss.register_hook(lambda gradient: self._pending.append(moments))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the averages towards the costs noted since the last call; the first ones replace them."""
        if not self._pending:
            return
        latest = mean_over_processes(torch.stack(self._pending).mean(0))
        self._pending.clear()
        weight = torch.where(self.started, 1 - self.decay, 1.0).to(latest)
        for average, value in zip((self.mean, self.square), latest, strict=True):
            average.copy_(torch.lerp(average.to(value), value, weight))
        self.num_steps.add_(1)
