r"""Families of variational laws of a permutation, by name, with the prior and the relaxation that belong to each.

A family says what the latent site of a matching model is. Model and guide share one:

* in the model ``value = pyro.sample("x", laws.prior(like, mask))`` and ``matrix = laws.matrix(value, mask)``;
* in the guide ``pyro.sample("x", laws.posterior(parameters, mask))``.

The prior of laws whose values are permutations is uniform. That of relaxed ones, with standard deviation :math:`\eta`,

.. math::  p(X) = \prod_{mn} \tfrac12 \left[ N(x_{mn}; 0, \eta^2) + N(x_{mn}; 1, \eta^2) \right],

draws the cells towards 0 and 1. The site of Gumbel-Sinkhorn are the disturbed scores, whose prior is Gumbel too.

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
    | https://arxiv.org/abs/1710.09508
    | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018)
    | https://arxiv.org/abs/1802.08665
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.distributions.permutations import PermutationDistribution
from pyro_ext.models.permutation_matching._exact import ExactStickBreakingFamily, MatchingFamily
from pyro_ext.models.permutation_matching._family import Family, Settings
from pyro_ext.models.permutation_matching._relaxed import GumbelSinkhornFamily, RoundingFamily, StickBreakingFamily
from pyro_ext.utils.checks import positive_int

__all__ = ["FAMILIES", "Family", "LocalGuide", "Method", "Settings", "family"]

Method = Literal["rounding", "stick_breaking", "gumbel_sinkhorn", "exact_stick_breaking", "matching"]
"""Name of a family: three relaxed ones, two exact ones."""

FAMILIES: Mapping[str, type[Family]] = MappingProxyType(
    {
        "rounding": RoundingFamily,
        "stick_breaking": StickBreakingFamily,
        "gumbel_sinkhorn": GumbelSinkhornFamily,
        "exact_stick_breaking": ExactStickBreakingFamily,
        "matching": MatchingFamily,
    }
)
"""Name -> family."""


def family(method: str, size: int, settings: Settings | None = None) -> Family:
    """Return a family by name.

    Args:
        method: one of :data:`FAMILIES`.
        size: the number N of elements.
        settings: what is fixed about it.

    Raises:
        ValueError: if there is no such family, or ``size`` is not a positive integer.

    Example:
        >>> rounding = family("rounding", size=3, settings=Settings(min_scale=0.1, max_scale=0.3))
        >>> law = rounding.posterior(rounding.initial(num_items=5))
        >>> law, law.scale[0, 0]
        (RelaxedRoundingPermutation(batch_shape: (5,), N=3, gradient='pathwise'), tensor([0.2000, 0.2000, 0.2000]))
        >>> rounding.prior(torch.zeros(())).log_prob(torch.eye(3))
        tensor(-7.1281)
    """
    if method not in FAMILIES:
        raise ValueError(f"method must be one of {', '.join(FAMILIES)}; got {method!r}")
    return FAMILIES[method](size, settings or Settings())


class LocalGuide(PyroModule):
    """Parameters of a law of its own for each item, without amortisation. What is sampled is up to a subclass.

    Args:
        laws: the family.
        num_items: how many items there are.

    Raises:
        ValueError: if ``num_items`` is not a positive integer.

    Example:
        >>> guide = LocalGuide(family("matching", size=3), num_items=5)
        >>> guide.posterior(torch.tensor([4, 0]))
        PermutationMatching(batch_shape: (2,), N=3)
        >>> guide.start_near(torch.eye(3).expand(5, 3, 3), confidence=0.7)
        >>> guide.exact(torch.tensor([0])).mean.detach()
        tensor([[[0.9665, 0.0167, 0.0167],
                 [0.0167, 0.9665, 0.0167],
                 [0.0167, 0.0167, 0.9665]]])
    """

    def __init__(self, laws: Family, num_items: int) -> None:
        super().__init__()
        self.laws = laws
        self.num_items = positive_int("num_items", num_items)
        self.local = nn.ParameterDict({name: nn.Parameter(at) for name, at in laws.initial(num_items).items()})

    @torch.no_grad()
    def start_near(self, permutations: Tensor, confidence: float = 0.9) -> None:
        """Set the location of every item's law to a permutation mixed with the matrix whose cells are all 1 / N.

        Args:
            permutations: ``(num_items, N, N)``.
            confidence: the weight of the permutation, in [0, 1).

        Raises:
            ValueError: if ``confidence`` is not in [0, 1).
        """
        if not 0 <= confidence < 1:
            raise ValueError(f"confidence must lie in [0, 1), got {confidence!r}")
        matrices = confidence * permutations + (1 - confidence) / self.laws.size
        for name, value in self.laws.near(matrices).items():
            self.local[name].copy_(value)

    def parameters_of(self, index: Tensor | None = None) -> dict[str, Tensor]:
        """Return the parameters of the items ``index``, int64 ``(B,)``; of all items if None."""
        return {name: value if index is None else value[index] for name, value in self.local.items()}

    def posterior(self, index: Tensor | None = None, mask: Tensor | None = None) -> TorchDistribution:
        """Return the law of the site of the items ``index``, with ``mask`` of their allowed cells."""
        return self.laws.posterior(self.parameters_of(index), mask)

    def exact(self, index: Tensor | None = None, mask: Tensor | None = None) -> PermutationDistribution | None:
        """Return the law of the items' permutations where its probabilities are known, else None."""
        return self.laws.exact(self.parameters_of(index), mask)

    def permutations(self, num_samples: int, index: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Draw permutations of the items ``index``, ``(num_samples, B, N, N)``."""
        return self.laws.permutations(self.parameters_of(index), num_samples, mask)
