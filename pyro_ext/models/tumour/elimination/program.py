"""The Pyro program of noise elimination, and its guide, which draws the entries to flip without replacement."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.toolkit import data_plate
from pyro_ext.models.tumour.elimination.cost import observe, prefix_costs
from pyro_ext.models.tumour.elimination.policy import FlipPolicy
from pyro_ext.utils.checks import number_between, positive_int, positive_number

__all__ = ["Guide", "Model"]


class Model(PyroModule):
    r"""Sequences of flips, uniform but for a factor that falls with their cost.

    .. math::  p(\pi \mid X) \propto \exp\Big( -\tfrac{1}{T} \min_{0 \le i \le L} \big[ \gamma\, \mathrm{NLL}(A_i)
        + \mathrm{conflicts}(A_i) \big] \Big),

    where :math:`A_i` is X after the first i flips of :math:`\pi`, L distinct entries in order. A sequence may hold more
    flips than are needed, since the best of its beginnings counts.

    Args:
        size: the number of matrices, which the plate stands for.
        false_positive: the rate of false positives, in (0, 1).
        false_negative: the rate of false negatives, in (0, 1).
        num_flips: the length L of a sequence.
        gamma: the weight of a nat of the likelihood against a conflict.
        temperature: the temperature T: the smaller, the closer to the sequences of least cost.

    Raises:
        ValueError: if a rate lies outside of (0, 1), or another number is out of range.

    Example:
        >>> model = Model(size=10, false_positive=0.002, false_negative=0.1, num_flips=3)
        >>> x = torch.tensor([[[1, 1], [1, 0], [0, 1]]])
        >>> trace = pyro.poutine.trace(model).get_trace(x)
        >>> [name for name in trace.nodes if name.startswith("flip")]
        ['flip_0', 'flip_1', 'flip_2']
        >>> trace.nodes["cost"]["fn"].log_factor.shape
        torch.Size([1])
    """

    false_positive: Tensor
    false_negative: Tensor

    def __init__(
        self,
        size: int,
        false_positive: float,
        false_negative: float,
        num_flips: int = 12,
        gamma: float = 0.04,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        for name, rate in {"false_positive": false_positive, "false_negative": false_negative}.items():
            self.register_buffer(name, torch.tensor(number_between(name, rate, 0, 1, "()")))
        self.size = positive_int("size", size)
        self.num_flips = positive_int("num_flips", num_flips)
        self.gamma = positive_number("gamma", gamma)
        self.temperature = positive_number("temperature", temperature)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Sample sequences of flips and weigh them by their costs.

        Args:
            x: observed matrices, ``(B, n, m)``; 1 present, 0 absent, 3 missing, -1 padding.
            y: true matrices, of no use here.
            index: the places of the matrices in the data set, ``(B,)``.
        """
        observed = observe(x, self.false_positive, self.false_negative)
        allowed = observed.present.flatten(-2)
        positions: list[Tensor] = []
        with data_plate(self.size, x, index, name="matrices"):
            for step in range(self.num_flips):
                logits = torch.zeros_like(observed.changes.flatten(-2)).masked_fill(
                    ~(allowed | ~allowed.any(-1, keepdim=True)), -math.inf
                )
                positions.append(pyro.sample(f"flip_{step}", dist.Categorical(logits=logits)))
                allowed = allowed & ~F.one_hot(positions[-1], allowed.shape[-1]).bool()
            costs = prefix_costs(torch.stack(torch.broadcast_tensors(*positions), -1), observed, self.gamma)
            _factor("cost", -costs.amin(-1) / self.temperature)


class Guide(PyroModule):
    """Draws the entries to flip one after the other, each a categorical site over those that are left.

    Args:
        size: the number of matrices, which the plate stands for.
        policy: the network.
        num_flips: the length L of a sequence.

    Raises:
        ValueError: if a number is not a positive integer.

    Example:
        >>> guide = Guide(size=10, policy=FlipPolicy(false_positive=0.002, false_negative=0.1), num_flips=3)
        >>> guide(torch.tensor([[[1, 1], [1, 0], [0, 1]]])).shape
        torch.Size([1, 3])
    """

    def __init__(self, size: int, policy: FlipPolicy, num_flips: int = 12) -> None:
        super().__init__()
        self.size = positive_int("size", size)
        self.num_flips = positive_int("num_flips", num_flips)
        self.policy = policy

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample sequences of flips and return them, int64 ``(..., B, L)``.

        Args:
            x: observed matrices, ``(B, n, m)``; 1 present, 0 absent, 3 missing, -1 padding.
            y: true matrices, of no use here.
            index: the places of the matrices in the data set, ``(B,)``.
        """
        rollout = self.policy.start(x)
        positions: list[Tensor] = []
        with data_plate(self.size, x, index, name="matrices"):
            for step in range(self.num_flips):
                positions.append(pyro.sample(f"flip_{step}", dist.Categorical(logits=rollout.logits())))
                rollout.flip(positions[-1])
        self.policy.remembered.forget()  # an ELBO that stops at a site has not come so far
        return torch.stack(torch.broadcast_tensors(*positions), -1)


def _factor(name: str, log_factor: Tensor) -> None:
    """Do what ``pyro.factor`` does, which would move the factor to the default device."""
    unit = dist.Unit(log_factor)
    unit.log_factor = log_factor
    pyro.sample(name, unit, obs=unit.sample(), infer={"is_auxiliary": True})
