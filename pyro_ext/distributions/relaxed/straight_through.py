"""One-hot vectors with gradients that run through a relaxation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import OneHotCategorical, constraints, register_kl
from torch.distributions.constraints import Constraint

from pyro_ext.distributions.relaxed.one_hot import RelaxedCategoricalBase
from pyro_ext.ops.relaxed import categorical_score, one_hot_of_largest, rao_blackwell_softmax, straight_through
from pyro_ext.utils.checks import positive_int

__all__ = ["GumbelRaoOneHotCategorical", "OneHotStraightThrough", "RelaxedOneHotCategoricalStraightThrough"]


class OneHotStraightThrough(RelaxedCategoricalBase):
    """The categorical distribution of one-hot vectors, with a biased pathwise gradient; subclasses say which.

    ``log_prob``, ``enumerate_support``, ``mean``, ``variance`` and ``entropy`` are categorical.
    """

    support: ClassVar[Constraint] = constraints.one_hot
    has_enumerate_support = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw one-hot vectors, ``sample_shape + batch_shape + (K,)``, with gradients in the parameters."""
        log_weights = self._log_weights(sample_shape)
        hard = one_hot_of_largest(log_weights.detach())
        return straight_through(hard, self._soft(log_weights, hard))

    @abstractmethod
    def _soft(self, log_weights: Tensor, hard: Tensor) -> Tensor:
        """Return the relaxed values, ``(..., K)``, through which the gradient runs."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the categorical log-probability of one-hot vectors ``(..., K)``, differentiable in them too."""
        return categorical_score(self._broadcast(value), self.logits)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return every value, ``(K,) + batch_shape + (K,)``, batch dims being 1 unless ``expand``."""
        num = self.event_shape[0]
        values = torch.eye(num, dtype=self.logits.dtype, device=self.logits.device)
        values = values.reshape(num, *(1,) * len(self.batch_shape), num)
        return values.expand(num, *self.batch_shape, num) if expand else values

    @property
    def mean(self) -> Tensor:
        """The probabilities, ``batch_shape + (K,)``."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The most probable value, ``batch_shape + (K,)``."""
        return one_hot_of_largest(self.logits.detach())

    @property
    def variance(self) -> Tensor:
        """The variances of the entries, ``batch_shape + (K,)``."""
        return self.probs * (1 - self.probs)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``batch_shape``."""
        return -categorical_score(self.probs, self.logits)


class RelaxedOneHotCategoricalStraightThrough(OneHotStraightThrough):
    r"""One-hot vectors with the gradient of relaxed ones: straight-through Gumbel-softmax.

    .. math::

        x = \text{one-hot}(\arg\max_k y_k), \qquad \nabla x := \nabla \mathrm{softmax}(y / \lambda), \qquad
        y = \log p + G

    Samples are exactly one-hot and distributed as in the categorical distribution, whose log-probability
    ``log_prob`` is. It is linear in the value, so that a prior on these vectors passes its gradient :math:`\log p_k` on
    to the guide that drew them. The gradient is biased; the bias grows as the temperature rises, the variance as it
    falls.

    Take it as the prior too: the ``log_prob`` of Pyro's ``OneHotCategorical`` has no gradient in the value, and the
    guide would not see such a prior. ``kl_divergence`` with one is right, ``TraceMeanField_ELBO`` too therefore, and so
    is :func:`pyro_ext.inference.relax` of both programs.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape`` (no dim for the categories).
        probs: probabilities up to a factor, ``batch_shape + (K,)``.
        logits: log-probabilities up to a constant instead, ``batch_shape + (K,)``; -inf for an impossible category.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    References:
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), section 2.2
        | https://arxiv.org/abs/1611.01144

    >>> logits = torch.tensor([0.0, 2.0, 0.0], requires_grad=True)
    >>> x = RelaxedOneHotCategoricalStraightThrough(0.5, logits=logits).rsample()
    >>> x.tolist(), bool(torch.autograd.grad(x[0], logits)[0].any())
    ([1.0, 0.0, 0.0], True)
    """

    def _soft(self, log_weights: Tensor, hard: Tensor) -> Tensor:
        return log_weights.exp()


class GumbelRaoOneHotCategorical(OneHotStraightThrough):
    r"""One-hot vectors with the Rao-Blackwellised straight-through gradient.

    Given which category was drawn, the derivative of the relaxation is averaged over J draws of the Gumbel noise
    that would have given the same category. The expected gradient is that of
    :class:`RelaxedOneHotCategoricalStraightThrough`, and its variance is never larger: more inner draws cost no
    evaluations of the model.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape`` (no dim for the categories).
        logits: log-probabilities up to a constant, ``batch_shape + (K,)``; -inf for an impossible category.
        num_inner: the number J of inner draws of the Gumbel noise.
        probs: probabilities up to a factor instead of ``logits``, ``batch_shape + (K,)``.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    References:
        | Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator (Paulus et al., 2021)
        | https://arxiv.org/abs/2010.04838

    >>> d = GumbelRaoOneHotCategorical(0.1, torch.zeros(3), num_inner=100)
    >>> d.sample().sum(), d.log_prob(torch.tensor([0.0, 1.0, 0.0])).exp()
    (tensor(1.), tensor(0.3333))
    """

    _plain = ("num_inner",)

    def __init__(
        self,
        temperature: Tensor | float,
        logits: Tensor | None = None,
        num_inner: int = 10,
        probs: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.num_inner = positive_int("num_inner", num_inner)
        super().__init__(temperature, probs, logits, validate_args)

    def _soft(self, log_weights: Tensor, hard: Tensor) -> Tensor:
        return rao_blackwell_softmax(self.logits, hard, self.temperature, self.num_inner)


@register_kl(OneHotStraightThrough, OneHotStraightThrough)
@register_kl(OneHotStraightThrough, OneHotCategorical)
def _kl(p: OneHotStraightThrough, q: OneHotStraightThrough | OneHotCategorical) -> Tensor:
    return categorical_score(p.probs, p.logits) - categorical_score(p.probs, q.logits)
