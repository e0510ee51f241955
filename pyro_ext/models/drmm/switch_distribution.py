r"""A distribution of switches given the class: a mixture over styles of independent switches.

In the generative program all switches are independent, of each other and of the class: most combinations of them
render nothing like the training images. The switches that the network infers from images of one class are not
independent. Their empirical distribution,
:math:`q(g \mid c) = \mathrm{mean}_{n : c_n = c} \, \delta(g - \hat g(I_n))`, is smoothed into

.. math::
    p(g \mid c) = \sum_m w_{cm} \prod_{l, \text{units}} \pi_{a \mid cm} \, \pi_{t \mid cm},

a mixture over styles m of independent switches, with one style for all layers at once. It serves sampling alone: the
program and inference do not use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.models.drmm.cells import Switches

__all__ = ["SwitchDistribution", "UnitProbabilities", "counted_positions"]


@dataclass(frozen=True)
class UnitProbabilities:
    """Probabilities of the switches of one layer, in every style of every class.

    Args:
        on: the probability that a unit is on, ``(C, M, K, H, W)``.
        position: the probabilities of the positions, ``(C, M, K, H, W, P)``.
        every_position: whether the positions of units that are off matter.
    """

    on: Tensor
    position: Tensor
    every_position: bool

    def sample(self, c: Tensor, style: Tensor) -> Switches:
        """Draw switches ``(n, K, H, W)`` for classes and styles ``(n,)``."""
        position = torch.distributions.Categorical(probs=self.position[c, style]).sample()
        return Switches(position, self.on[c, style].bernoulli())

    def log_prob(self, c: Tensor, switches: Switches) -> Tensor:
        """Return the log-probability of switches ``(n, K, H, W)`` in every style of classes ``(n,)``, ``(n, M)``."""
        odds, off = self.on.logit().flatten(2), torch.log1p(-self.on).flatten(2).sum(-1)
        counted = counted_positions(switches, self.position.shape[-1], self.every_position).flatten(1)
        on = torch.einsum("nu,nmu->nm", switches.on.flatten(1), odds[c])
        return on + off[c] + torch.einsum("nu,nmu->nm", counted, self.position.log().flatten(2)[c])


@dataclass(frozen=True)
class SwitchDistribution:
    r"""A mixture over M styles of independent switches, for every class.

    .. math::  p(g \mid c) = \sum_m w_{cm} \prod_{l, \text{units}} \pi_{a \mid cm} \, \pi_{t \mid cm}.

    Args:
        weights: the probabilities :math:`w_{cm}` of styles, ``(C, M)``.
        units: the probabilities of switches, of every layer from the lowest.

    Example:
        >>> from pyro_ext.models.drmm import DRMM, Layer, estimate_switch_distribution
        >>> model = DRMM([Layer(4, 3, pool=2)], classes=3, image_shape=(1, 8, 8))
        >>> distribution = estimate_switch_distribution(model, torch.rand(50, 1, 8, 8), styles=2)
        >>> model.sample(5, switch_distribution=distribution)[0].shape
        torch.Size([5, 1, 8, 8])
    """

    weights: Tensor
    units: tuple[UnitProbabilities, ...]

    def sample(self, c: Tensor) -> tuple[Switches, ...]:
        """Draw the switches of every layer, ``(n, K, H, W)``, for classes ``(n,)``."""
        style = torch.distributions.Categorical(probs=self.weights[c]).sample()
        return tuple(layer.sample(c, style) for layer in self.units)

    def log_prob(self, c: Tensor, g: Sequence[Switches]) -> Tensor:
        r"""Return :math:`\ln p(g \mid c)`, ``(n,)``; positions that do not matter are left out."""
        return self.log_joint(c, g).logsumexp(-1)

    def log_joint(self, c: Tensor, g: Sequence[Switches]) -> Tensor:
        r"""Return :math:`\ln w_{cm} + \ln p(g \mid c, m)`, ``(n, M)``."""
        each = [layer.log_prob(c, switches) for layer, switches in zip(self.units, g, strict=True)]
        return self.weights.log()[c] + torch.stack(each).sum(0)


def counted_positions(switches: Switches, positions: int, every_position: bool) -> Tensor:
    """Return positions ``(n, K, H, W)`` as one-hot vectors ``(n, K, H, W, P)``, zero where they do not matter.

    Args:
        switches: the switches of one layer, ``(n, K, H, W)``.
        positions: the number P of positions in a cell.
        every_position: whether the positions of units that are off matter.
    """
    hot = F.one_hot(switches.position, positions).to(switches.on.dtype)
    return hot if every_position else hot * switches.on[..., None]
