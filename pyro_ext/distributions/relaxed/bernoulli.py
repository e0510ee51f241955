"""The binary Concrete distribution, its log-odds, and its straight-through form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Bernoulli, constraints, register_kl
from torch.distributions.constraints import Constraint
from torch.distributions.utils import lazy_property
from torch.nn.functional import logsigmoid

from pyro_ext.distributions.relaxed.parameters import (
    NoClosedForms,
    as_temperature,
    broadcast_batch,
    check_binary,
    given_binary,
    inferred_batch,
)
from pyro_ext.ops.relaxed import bernoulli_score, floored_log, infinite, logistic_like, sigmoid, straight_through
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["LogitRelaxedBernoulli", "RelaxedBernoulli", "RelaxedBernoulliBase", "RelaxedBernoulliStraightThrough"]


class RelaxedBernoulliBase(NoClosedForms, TorchDistribution):
    """A distribution of a number with a temperature and the log-odds of a Bernoulli distribution.

    Args:
        temperature: positive numbers, ``batch_shape`` or broadcastable with it.
        probs: the probability of 1, ``batch_shape``.
        logits: the log-odds of 1 instead, ``batch_shape``; infinite where the value is certain.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if an argument is out of range, or the shapes do not broadcast.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "temperature": constraints.positive,
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    has_rsample = True

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        name, given = given_binary(logits, probs)
        validate = self._validate_args if validate_args is None else validate_args
        if validate:
            check_binary(name, given)
        temperature = as_temperature(temperature, given, validate)
        batch_shape = broadcast_batch(temperature, name, given.shape)
        setattr(self, name, given.expand(batch_shape))
        self.temperature = temperature.expand(batch_shape)
        super().__init__(batch_shape, torch.Size(), validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Log-odds of 1, ``batch_shape``."""
        certain = (self.probs <= 0) | (self.probs >= 1)
        inner = self.probs.masked_fill(certain, 0.5)
        return torch.where(certain, (self.probs.detach() - 0.5) * math.inf, inner.log() - (-inner).log1p())

    @lazy_property
    def probs(self) -> Tensor:
        """Probability of 1, ``batch_shape``."""
        return self.logits.sigmoid()

    @property
    def param_shape(self) -> torch.Size:
        """The shape of ``logits`` and ``probs``, ``batch_shape``."""
        return self.batch_shape

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return the batch and event shape of a distribution with arguments of these shapes."""
        return inferred_batch(cls.arg_constraints, dict(arg_shapes)), torch.Size()

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        batch_shape = torch.Size(batch_shape)
        new = self._get_checked_instance(type(self), _instance)
        for name in self.arg_constraints.keys() & self.__dict__.keys():
            setattr(new, name, getattr(self, name).expand(batch_shape))
        TorchDistribution.__init__(new, batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_odds(self, sample_shape: Sequence[int]) -> Tensor:
        """Draw relaxed log-odds, ``sample_shape + batch_shape``, differentiable."""
        logits = self.logits
        noise = logistic_like(logits.expand(torch.Size(sample_shape) + logits.shape)).to(logits.dtype)
        certain = infinite(logits)
        if certain is None:
            return (logits + noise) / self.temperature
        inner = (logits.masked_fill(certain, 0) + noise) / self.temperature
        return torch.where(certain, logits.detach(), inner)

    def _broadcast(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value.expand(broadcast_shapes(value.shape, self.batch_shape))

    def _log_prob_of_log_odds(self, y: Tensor, certain: Tensor | None) -> Tensor:
        """Return the log-density of ``log_odds``; of those that are ``certain``, if any, the log-probability."""
        at_end = infinite(y)
        if certain is None and at_end is None:
            return self._log_prob_of_finite(self.logits - self.temperature * y)
        certain = self.logits.isinf() if certain is None else certain
        at_end = y.isinf() if at_end is None else at_end
        diff = self.logits.masked_fill(certain, 0) - self.temperature * y.masked_fill(certain | at_end, 0)
        log_prob = self._log_prob_of_finite(diff)
        log_prob = log_prob.masked_fill(certain, 0)
        return log_prob.masked_fill(torch.where(certain, y != self.logits, at_end), -math.inf)

    def _log_prob_of_finite(self, diff: Tensor) -> Tensor:
        log_share = logsigmoid(diff)
        # the sum of the log-sigmoids of diff and -diff, which neither overflows nor cancels
        return self.temperature.log() + log_share + (log_share - diff)

    def _cdf_of_log_odds(self, y: Tensor) -> Tensor:
        """Return the probability that log-odds drawn are at most ``y``."""
        certain = self.logits.isinf()
        inner = (self.temperature * y - self.logits.masked_fill(certain, 0)).sigmoid()
        return torch.where(certain, (y >= self.logits).to(y.dtype), inner)

    def _log_odds_of_quantile(self, quantile: Tensor) -> Tensor:
        """Return the log-odds below which draws fall with probability ``quantile``."""
        certain = self.logits.isinf()
        inner = (self.logits.masked_fill(certain, 0) + quantile.logit()) / self.temperature
        return torch.where(certain, self.logits.detach(), inner)

    def __repr__(self) -> str:
        name = "logits" if "logits" in self.__dict__ else "probs"
        shape = tuple(self.batch_shape)
        return f"{type(self).__name__}(temperature: {shape}, {name}: {shape})"


class LogitRelaxedBernoulli(RelaxedBernoulliBase):
    r"""The log-odds :math:`y` of a relaxed binary variable, exact at every temperature.

    .. math::

        y = \frac{\log\alpha + L}{\lambda}, \qquad
        \log p(y) = \log\lambda + \log\sigma(\log\alpha - \lambda y) + \log\sigma(\lambda y - \log\alpha)

    with a standard logistic L. The variable to infer where :class:`RelaxedBernoulli`'s values would round to 0 or 1.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape``.
        probs: the probability of 1, a number or ``batch_shape``.
        logits: the log-odds :math:`\log\alpha` of 1 instead; infinite where the value is certain.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    References:
        | The Concrete distribution (Maddison et al., 2017), appendix B and C.3, https://arxiv.org/abs/1611.00712

    >>> LogitRelaxedBernoulli(0.1, logits=150.0).log_prob(torch.tensor(-50.0))
    tensor(-157.3026)
    """

    support: ClassVar[Constraint] = constraints.real

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw log-odds, ``sample_shape + batch_shape``, differentiable in the parameters."""
        return self._log_odds(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of log-odds ``(...)``."""
        return self._log_prob_of_log_odds(self._broadcast(value), infinite(self.logits))

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of log-odds up to ``value``, ``(...)``."""
        return self._cdf_of_log_odds(self._broadcast(value))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles, the inverse of ``cdf``, for probabilities ``(...)``."""
        return self._log_odds_of_quantile(value)

    @property
    def mean(self) -> Tensor:
        """The expectation, ``batch_shape``."""
        return self.logits / self.temperature

    @property
    def mode(self) -> Tensor:
        """The log-odds of largest density, ``batch_shape``."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """The variance, ``batch_shape``."""
        return math.pi**2 / (3 * self.temperature**2)

    def entropy(self) -> Tensor:
        r"""Return the entropy in nats, ``batch_shape``: :math:`2 - \log\lambda`."""
        return 2 - self.temperature.log()


class RelaxedBernoulli(RelaxedBernoulliBase):
    r"""Numbers in [0, 1] that become 0 or 1 as the temperature falls: the binary Concrete distribution.

    .. math::

        x = \sigma\left(\frac{\log\alpha + L}{\lambda}\right), \qquad
        p(x) = \frac{\lambda \alpha (x - x^2)^{-\lambda - 1}}{(\alpha x^{-\lambda} + (1 - x)^{-\lambda})^2}

    with a standard logistic L; a draw lies above 1/2 with the probability of 1. The noise is added to the log-odds,
    not to a clamped probability, so gradients do not vanish for log-odds beyond 16.

    The density moves values into ``[finfo.tiny, 1 - finfo.eps]``, without gradient in those moved; where that
    matters use :class:`LogitRelaxedBernoulli`, which is exact.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape``.
        probs: the probability of 1, a number or ``batch_shape``.
        logits: the log-odds :math:`\log\alpha` of 1 instead; infinite where the value is certain.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    References:
        | The Concrete distribution (Maddison et al., 2017), appendix B, https://arxiv.org/abs/1611.00712

    >>> RelaxedBernoulli(0.5, probs=0.8).log_prob(torch.tensor([0.7, 1.0]))
    tensor([-0.7420,  8.6616])
    """

    support: ClassVar[Constraint] = constraints.unit_interval

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw numbers, ``sample_shape + batch_shape``, differentiable in the parameters."""
        return sigmoid(self._log_odds(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of numbers in [0, 1], ``(...)``."""
        value = self._broadcast(value)
        info = torch.finfo(value.dtype)
        inner = value.clamp(info.tiny, 1 - info.eps)
        log_x, log_rest = floored_log(inner), (-inner).log1p()
        certain = infinite(self.logits)
        if certain is None:
            return self._log_prob_of_log_odds(log_x - log_rest, None) - (log_x + log_rest)
        at_bound = certain & ((value == 0) | (value == 1))
        y = torch.where(at_bound, (value.detach() - 0.5) * math.inf, log_x - log_rest)
        return self._log_prob_of_log_odds(y, certain) - torch.where(certain, 0, log_x + log_rest)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of numbers up to ``value``, ``(...)``.

        >>> RelaxedBernoulli(0.1, probs=0.8).cdf(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.2000, 1.0000])
        """
        return self._cdf_of_log_odds(self._broadcast(value).logit())

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles, the inverse of ``cdf``, for probabilities ``(...)``."""
        return sigmoid(self._log_odds_of_quantile(value))


class RelaxedBernoulliStraightThrough(RelaxedBernoulliBase):
    r"""Zeros and ones with the gradient of relaxed ones.

    .. math::

        x = 1[y > 0], \qquad \nabla x := \nabla \sigma(y / \lambda), \qquad y = \log\alpha + L

    Samples are exactly 0 or 1 and distributed as in the Bernoulli distribution, whose log-probability ``log_prob``
    is; it is linear in the value, so that a prior passes its gradient on to the guide. The gradient is biased.

    Args:
        temperature: :math:`\lambda > 0`, a number or a tensor of shape ``batch_shape``.
        probs: the probability of 1, a number or ``batch_shape``.
        logits: the log-odds :math:`\log\alpha` of 1 instead; infinite where the value is certain.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``probs`` and ``logits`` is given, an argument is out of range, or the
            shapes do not broadcast.

    References:
        | Categorical reparameterization with Gumbel-softmax (Jang et al., 2017), section 2.2
        | https://arxiv.org/abs/1611.01144

    >>> d = RelaxedBernoulliStraightThrough(0.5, probs=torch.tensor([0.0, 0.8, 1.0]))
    >>> d.sample(), d.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp()
    (tensor([0., 1., 1.]), tensor([1.0000, 0.2000, 1.0000]))
    """

    support: ClassVar[Constraint] = constraints.boolean
    has_enumerate_support = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw zeros and ones, ``sample_shape + batch_shape``, with gradients in the parameters."""
        y = self._log_odds(sample_shape)
        return straight_through((y > 0).to(y.dtype), sigmoid(y))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the Bernoulli log-probability of ``value``, ``(...)``, differentiable in it too."""
        return bernoulli_score(self._broadcast(value), self.logits)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return 0 and 1, ``(2,) + batch_shape``, batch dims being 1 unless ``expand``."""
        values = torch.arange(2, dtype=self.logits.dtype, device=self.logits.device)
        values = values.reshape(2, *(1,) * len(self.batch_shape))
        return values.expand(2, *self.batch_shape) if expand else values

    @property
    def mean(self) -> Tensor:
        """The probability of 1, ``batch_shape``."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The more probable value, ``batch_shape``; 0 if both are equally probable."""
        return (self.logits > 0).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        """The variance, ``batch_shape``."""
        return self.probs * (1 - self.probs)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``batch_shape``."""
        return -bernoulli_score(self.probs, self.logits)


@register_kl(RelaxedBernoulliStraightThrough, RelaxedBernoulliStraightThrough)
@register_kl(RelaxedBernoulliStraightThrough, Bernoulli)
def _kl(p: RelaxedBernoulliStraightThrough, q: RelaxedBernoulliStraightThrough | Bernoulli) -> Tensor:
    return bernoulli_score(p.probs, p.logits) - bernoulli_score(p.probs, q.logits)
