"""Relaxed k-hot vectors: subsets of fixed size, drawn without replacement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import kl_divergence, register_kl
from torch.distributions.constraints import Constraint, dependent_property

from pyro_ext.distributions import constraints
from pyro_ext.distributions._draws import check_num_draws, given_parameter
from pyro_ext.distributions.relaxed.one_hot import RelaxedCategoricalBase
from pyro_ext.distributions.unordered_set import UnorderedSet
from pyro_ext.ops.relaxed import relaxed_top_k, straight_through
from pyro_ext.ops.sets import gumbel_like

__all__ = ["RelaxedTopK"]


class RelaxedTopK(RelaxedCategoricalBase):
    r"""Weights of ``K`` categories that become k-hot as the temperature falls.

    ``k`` categories are drawn without replacement as the largest of :math:`\alpha^1 = \log p + G` with independent
    standard Gumbels G, and their k-hot vector is relaxed to a sum of successive softmaxes,

    .. math::  x = \sum_{i=1}^k a^i, \qquad a^i = \mathrm{softmax}(\alpha^i / \lambda), \qquad
        \alpha^{i+1} = \alpha^i + \log(1 - a^i).

    Entries are non-negative and sum to ``k``; they may exceed 1, by little at low temperatures. The distribution of
    the relaxed vector has no tractable density. With ``straight_through=True`` samples are exactly k-hot, with the
    gradient of the relaxed ones; ``log_prob`` of k-hot vectors is in both cases the exact probability of the set,
    that of :class:`~pyro_ext.distributions.UnorderedSet`, and so is ``kl_divergence``; k-hot samples have its entropy
    too.

    Args:
        k: the size of the set.
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape`` (no dim for the categories).
        logits: log-probabilities up to a constant, ``batch_shape + (K,)``; -inf for a category never drawn.
        probs: probabilities up to a factor instead, ``batch_shape + (K,)``.
        straight_through: whether samples are k-hot.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``logits`` and ``probs`` is given, an argument is out of range, the shapes
            do not broadcast, or ``k`` is no integer from 1 to the number of positive categories.

    References:
        | Reparameterizable subset sampling via continuous relaxations (Xie & Ermon, 2019)
        | https://arxiv.org/abs/1901.10517

    >>> d = RelaxedTopK(2, 0.5, probs=torch.tensor([0.5, 0.3, 0.2]))
    >>> d.sample().sum()
    tensor(2.)
    >>> d.log_prob(torch.tensor([1.0, 1.0, 0.0])).exp()
    tensor(0.5143)
    """

    _plain = ("k", "straight_through")

    def __init__(
        self,
        k: int,
        temperature: Tensor | float,
        logits: Tensor | None = None,
        probs: Tensor | None = None,
        straight_through: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.k = check_num_draws(k, given_parameter(logits, probs).shape[-1])
        self.straight_through = straight_through
        super().__init__(temperature, probs, logits, validate_args)
        self.set_distribution(validate_args)  # refuses a k above the number of positive categories

    def set_distribution(self, validate_args: bool | None = False) -> UnorderedSet:
        """Return the distribution of the set of ``k`` categories that a sample stands for."""
        if "logits" in self.__dict__:
            return UnorderedSet(self.k, logits=self.logits, validate_args=validate_args)
        return UnorderedSet(self.k, probs=self.probs, validate_args=validate_args)

    @dependent_property(event_dim=1)
    def support(self) -> Constraint:
        """Non-negative weights with sum ``k``, ``(K,)``; zeros and ones if straight-through."""
        return constraints.k_hot(self.k) if self.straight_through else constraints.relaxed_subset(self.k)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw weights, ``sample_shape + batch_shape + (K,)``, differentiable in the parameters."""
        logits = self.logits
        impossible = logits == -math.inf
        noise = gumbel_like(logits.expand(torch.Size(sample_shape) + logits.shape)).to(logits.dtype)
        keys = (logits.masked_fill(impossible, 0) + noise).masked_fill(impossible, -math.inf)
        soft = relaxed_top_k(keys, self.k, self.temperature)
        if not self.straight_through:
            return soft
        index = keys.detach().topk(self.k, dim=-1).indices
        return straight_through(torch.zeros_like(soft).scatter(-1, index, 1), soft)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of k-hot vectors ``(..., K)``; it is differentiable in the parameters only.

        Raises:
            NotImplementedError: if a value is not k-hot: relaxed sets have no tractable density.
        """
        value = self._broadcast(value)
        if not self.straight_through and not constraints.k_hot(self.k).check(value).all():
            raise NotImplementedError(
                "RelaxedTopK has no density of relaxed values; use straight_through=True for k-hot samples, or "
                "UnorderedSet for the sets themselves"
            )
        members = value.topk(self.k, dim=-1).indices.sort(-1).values
        return self.set_distribution().log_prob(members)

    @property
    def has_enumerate_support(self) -> bool:
        """Whether samples are k-hot, and few enough to be listed."""
        return self.straight_through and self.set_distribution().has_enumerate_support

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return all k-hot vectors, ``(num_values,) + batch_shape + (K,)``, batch dims being 1 unless ``expand``.

        Raises:
            NotImplementedError: if samples are relaxed, or the vectors too many.
        """
        self._require_hard("a list of values")
        members = self.set_distribution().enumerate_support(expand=False)
        values = self.logits.new_zeros(*members.shape[:-1], *self.event_shape).scatter(-1, members, 1)
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def entropy(self) -> Tensor:
        """Return the entropy of the set in nats, ``batch_shape``, summed over all sets.

        Raises:
            NotImplementedError: if samples are relaxed, or the sets too many.
        """
        self._require_hard("an entropy")
        return self.set_distribution().entropy()

    def _require_hard(self, what: str) -> None:
        if not self.straight_through:
            raise NotImplementedError(
                f"RelaxedTopK has {what} only with straight_through=True: relaxed sets have no tractable density"
            )


@register_kl(RelaxedTopK, RelaxedTopK)
def _kl(p: RelaxedTopK, q: RelaxedTopK) -> Tensor:
    return kl_divergence(p.set_distribution(), q.set_distribution())
