"""Gradual magnitude pruning, in the course of training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from pyro_ext.nn.compression.pruning import Masks, prunable, prune
from pyro_ext.utils.checks import number_between, one_of, positive_int

__all__ = ["GradualMagnitudePruning"]


class GradualMagnitudePruning(nn.Module):
    r"""Removes the smallest weights of a network step by step while it is trained.

    After t steps the fraction of removed weights is

    .. math::  s_t = s_f + (s_i - s_f) \left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3, \qquad t_0 \le t \le t_1,

    so that many go at first, when there are many to spare. Masks are renewed every few steps until :math:`t_1`; a
    removed weight is set to zero before it is used, and stays removed unless others have become smaller.

    Used by a training plan: :meth:`set_num_steps` among its ``schedules``, and a
    :class:`~pyro_ext.inference.PruningObjective` around its objective, which calls :meth:`after_step` and keeps the
    masks, buffers of this module, in checkpoints. In a loop of your own call both by hand.

    Args:
        network: what is pruned: the weights of its linear and convolutional layers, not their biases. It is not a
            part of this module: parameters and ``state_dict`` are left to whoever trains it.
        sparsity: the fraction :math:`s_f` of weights that are removed in the end, in [0, 1].
        begin: the number :math:`t_0` of steps before the first removal.
        end: the number :math:`t_1` of steps by which the last removal is done; leave some steps after it to recover.
        every: the number of steps between removals.
        initial_sparsity: the fraction :math:`s_i` at :math:`t_0`.
        scope: whether each layer gets the same sparsity, as published, or the weights of all layers are compared.

    Raises:
        ValueError: if a number is out of range, or the network has no layer to prune.

    References:
        | To prune, or not to prune: exploring the efficacy of pruning for model compression (Zhu and Gupta, 2017)
        | https://arxiv.org/abs/1710.01878

    Example:
        >>> network = nn.Linear(10, 10)
        >>> pruning = GradualMagnitudePruning(network, sparsity=0.9, begin=0, end=100, every=10)
        >>> [round(pruning.sparsity_at(step), 4) for step in (0, 50, 100, 1000)]
        [0.0, 0.7875, 0.9, 0.9]
        >>> pruning.set_num_steps(100)
        >>> int((network.weight == 0).sum())
        90
    """

    def __init__(
        self,
        network: nn.Module,
        sparsity: float,
        *,
        begin: int = 0,
        end: int,
        every: int = 100,
        initial_sparsity: float = 0.0,
        scope: Literal["layer", "network"] = "layer",
    ) -> None:
        super().__init__()
        self.sparsity = number_between("sparsity", sparsity, 0, 1)
        self.initial_sparsity = number_between("initial_sparsity", initial_sparsity, 0, self.sparsity)
        self.begin = positive_int("begin", begin, minimum=0)
        self.end = positive_int("end", end, minimum=self.begin + 1)
        self.every = positive_int("every", every)
        self.scope = one_of("scope", scope, ("layer", "network"))
        self._network = (network,)  # in a tuple, so that its parameters are not this module's
        weights = prunable(network)
        if not weights:
            raise ValueError(f"network must have linear or convolutional layers, got {type(network).__name__}")
        self._buffer_names = {name: name.replace(".", "__") for name in weights}
        for name, weight in weights.items():
            kept = torch.ones_like(weight, dtype=torch.bool, requires_grad=False)
            self.register_buffer(self._buffer_names[name], kept)

    @property
    def masks(self) -> Masks:
        """Which weights are kept now, by the names of the network's parameters."""
        return {name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()}

    def sparsity_at(self, step: int) -> float:
        """Return the fraction of weights that are removed after ``step`` steps."""
        if step < self.begin:
            return 0.0
        rest = max(0.0, 1 - (step - self.begin) / (self.end - self.begin))
        return self.sparsity + (self.initial_sparsity - self.sparsity) * rest**3

    @torch.no_grad()
    def set_num_steps(self, step: int) -> None:
        """Renew the masks if it is time, and set removed weights to zero; call it before each step.

        Args:
            step: the number of steps taken so far.
        """
        due = self.begin <= step <= self.end and ((step - self.begin) % self.every == 0 or step == self.end)
        if due:
            target = self.sparsity_at(step)
            for name, mask in prune(self._network[0], sparsity=target, scope=self.scope).items():
                self.get_buffer(self._buffer_names[name]).copy_(mask)
        self.after_step()

    @torch.no_grad()
    def after_step(self) -> None:
        """Set removed weights to zero; call it after each step of the optimiser."""
        weights = prunable(self._network[0])
        for name, mask in self.masks.items():
            weights[name].masked_fill_(~mask, 0.0)
