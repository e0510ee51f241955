"""Gumbel noise on the scores of a matching, relaxed by Sinkhorn scaling or matched exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Gumbel, Independent, TorchDistribution
from torch import Tensor
from torch.distributions import constraints as torch_constraints
from torch.distributions.kl import register_kl

from pyro_ext.distributions import constraints
from pyro_ext.distributions.permutations._discrete import PermutationLaw
from pyro_ext.distributions.permutations._parameters import (
    as_parameter,
    broadcast_matrices,
    check_matrix,
    check_temperature,
    check_values,
    matrix_shapes,
)
from pyro_ext.ops.assignment import best_permutation, has_perfect_matching
from pyro_ext.ops.sets import gumbel_like
from pyro_ext.ops.sinkhorn import sinkhorn

__all__ = ["GumbelMatching", "GumbelSinkhorn"]

_NO_DENSITY = (
    "{name} has no tractable {what}: give the noise its own site, pyro.sample(name, d.noise()), and use "
    "d.from_noise(noise); their densities and KL divergences are known"
)


class GumbelMatching(PermutationLaw):
    r"""The best matching under scores disturbed by Gumbel noise.

    .. math::  P = \arg\max_{P'} \langle L + G, P' \rangle, \qquad G_{ij} \sim \mathrm{Gumbel}(0, 1).

    It is not a sample of :math:`\exp \langle L, P \rangle / Z`, for which see
    :class:`~pyro_ext.distributions.PermutationMatching`, and its probabilities are not known: ``log_prob`` raises.

    Args:
        log_potentials: the scores L, ``batch_shape + (N, N)``; -inf for cells never used.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``log_potentials`` is no batch of square matrices, holds NaN or +inf, or leaves no permutation.

    References:
        | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018), section 4
        | https://arxiv.org/abs/1802.08665

    >>> GumbelMatching(torch.tensor([[9.0, 0.0], [0.0, 9.0]])).sample()
    tensor([[1., 0.], [0., 1.]])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_potentials": torch_constraints.independent(_upper_real, 2)}

    def __init__(self, log_potentials: Tensor, validate_args: bool | None = None) -> None:
        check_matrix("log_potentials", log_potentials)
        if self._validate_args if validate_args is None else validate_args:
            check_potentials(log_potentials)
        self.log_potentials = log_potentials
        super().__init__(log_potentials.shape[-1], log_potentials.shape[:-2], validate_args)
