"""The Concrete (Gumbel-softmax) distribution on the simplex, and its logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints as torch_constraints
from torch.distributions.constraints import Constraint

from pyro_ext.distributions import constraints
from pyro_ext.distributions.relaxed._categorical import RelaxedCategoricalBase
from pyro_ext.ops.relaxed import exp_concrete_log_prob, floored_log

__all__ = ["ExpRelaxedOneHotCategorical", "RelaxedOneHotCategorical"]

_EULER = 0.5772156649015329


class ExpRelaxedOneHotCategorical(RelaxedCategoricalBase):
    r"""The logarithm :math:`y = \log x` of a relaxed one-hot vector, exact at every temperature.

    .. math::

        \log p(y) = \log\Gamma(K) + (K - 1) \log\lambda + \sum_k (\log\alpha_k - \lambda y_k)
        - K \log\sum_k e^{\log\alpha_k - \lambda y_k}

    Categories of probability zero have :math:`y_k = -\infty` and are left out of sums and of ``K``. Unlike weights,
    log-weights do not underflow: this is the variable to infer, and :math:`e^y` the one to compute with.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape`` (no dim for the categories).
        probs: probabilities :math:`\alpha` up to a factor, ``batch_shape + (K,)``.
        logits: :math:`\log\alpha` up to a constant instead, ``batch_shape + (K,)``; -inf for an impossible category.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    References:
        | The Concrete distribution (Maddison et al., 2017), appendix C.3, https://arxiv.org/abs/1611.00712

    >>> d = ExpRelaxedOneHotCategorical(0.01, logits=torch.tensor([30.0, 0.0, -30.0]))
    >>> y = d.sample()
    >>> y.exp().sum(), torch.isfinite(d.log_prob(y))
    (tensor(1.), tensor(True))
    """

    support: ClassVar[Constraint] = constraints.log_simplex

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw log-weights, ``sample_shape + batch_shape + (K,)``, differentiable in the parameters."""
        return self._log_weights(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of log-weights ``(..., K)``; -inf where other cells than the law's are -inf."""
        return exp_concrete_log_prob(self._broadcast(value), self.logits, self.temperature)

    def entropy(self) -> Tensor:
        r"""Return the entropy in nats, ``batch_shape``: :math:`K(\gamma + \psi(K)) - \log\Gamma(K) - (K-1)\log\lambda`.

        >>> ExpRelaxedOneHotCategorical(1.0, logits=torch.zeros(2)).entropy()
        tensor(2.)
        """
        num = (self.logits > -torch.inf).sum(-1).to(self.logits.dtype)
        return num * (_EULER + num.digamma()) - num.lgamma() - (num - 1) * self.temperature.log()


class RelaxedOneHotCategorical(RelaxedCategoricalBase):
    r"""Weights on the simplex that become one-hot as the temperature falls: the Concrete or Gumbel-softmax law.

    .. math::

        x = \mathrm{softmax}\left(\frac{\log\alpha + G}{\lambda}\right), \qquad
        p(x) = \Gamma(K)\, \lambda^{K-1} \prod_k \frac{\alpha_k x_k^{-\lambda - 1}}{\sum_j \alpha_j x_j^{-\lambda}}

    with independent standard Gumbels G. The most probable category of a draw is distributed as in the categorical
    law, at every temperature. Categories of probability zero have weight 0; the density is then that over the others.

    At low temperatures weights underflow to exact zeros. The density takes these to be ``finfo.tiny``, without
    gradient in the weight; where that matters use :class:`ExpRelaxedOneHotCategorical`, which is exact. In contrast
    to ``torch.distributions.RelaxedOneHotCategorical`` the density is finite for all draws, and the temperature is a
    parameter like any other: its shape is broadcast to ``batch_shape``.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape`` (no dim for the categories).
        probs: probabilities :math:`\alpha` up to a factor, ``batch_shape + (K,)``.
        logits: :math:`\log\alpha` up to a constant instead, ``batch_shape + (K,)``; -inf for an impossible category.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    See Also:
        :func:`pyro_ext.distributions.kl_divergence`, for its three divergences.

    References:
        | The Concrete distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), https://arxiv.org/abs/1611.01144

    >>> d = RelaxedOneHotCategorical(0.5, probs=torch.tensor([0.2, 0.8]))
    >>> d.log_prob(torch.tensor([[0.3, 0.7], [0.0, 1.0]]))
    tensor([-0.7420, 44.3614])
    """

    support: ClassVar[Constraint] = torch_constraints.simplex

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw weights, ``sample_shape + batch_shape + (K,)``, differentiable in the parameters."""
        return self._log_weights(sample_shape).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of weights ``(..., K)``; -inf where an impossible category has weight."""
        value = self._broadcast(value)
        possible = self.logits > -torch.inf
        y = floored_log(value).masked_fill(~possible & (value == 0), -torch.inf)
        return exp_concrete_log_prob(y, self.logits, self.temperature) - y.masked_fill(~possible, 0).sum(-1)
