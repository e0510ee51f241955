"""The Concrete (Gumbel-softmax) distribution on the simplex, and its logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints as torch_constraints
from torch.distributions.constraints import Constraint
from torch.distributions.utils import lazy_property

from pyro_ext.distributions import constraints
from pyro_ext.distributions._draws import given_parameter
from pyro_ext.distributions.relaxed.parameters import (
    NoClosedForms,
    as_temperature,
    broadcast_batch,
    check_categories,
    inferred_batch,
)
from pyro_ext.ops.relaxed import exp_concrete_log_prob, floored_log, gumbel_log_softmax, normalised_logits
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["ExpRelaxedOneHotCategorical", "RelaxedCategoricalBase", "RelaxedOneHotCategorical"]

_EULER = 0.5772156649015329


class RelaxedCategoricalBase(NoClosedForms, TorchDistribution):
    """A distribution of ``K`` weights with a temperature and the probabilities of a categorical distribution.

    Args:
        temperature: positive numbers, ``batch_shape`` or broadcastable with it.
        probs: probabilities up to a factor, ``batch_shape + (K,)``.
        logits: log-probabilities up to a constant instead, ``batch_shape + (K,)``.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if an argument is out of range, or the shapes do not broadcast.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "temperature": torch_constraints.positive,
        "probs": torch_constraints.simplex,
        "logits": torch_constraints.real_vector,
    }
    has_rsample = True

    # the parameters besides logits and probs, which expand() copies as they are
    _plain: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        temperature: Tensor | float,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = given_parameter(logits, probs)
        name = "probs" if logits is None else "logits"
        validate = self._validate_args if validate_args is None else validate_args
        if validate:
            check_categories(name, given)
        temperature = as_temperature(temperature, given, validate)
        batch_shape = broadcast_batch(temperature, name, given.shape[:-1])
        given = given.expand(batch_shape + given.shape[-1:])
        if logits is None:
            self.probs = given / given.sum(-1, keepdim=True)
        else:
            self.logits = given.log_softmax(-1)
        self.temperature = temperature.expand(batch_shape)
        super().__init__(batch_shape, given.shape[-1:], validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Normalised log-probabilities, ``batch_shape + (K,)``."""
        return normalised_logits(self.probs)

    @lazy_property
    def probs(self) -> Tensor:
        """Normalised probabilities, ``batch_shape + (K,)``."""
        return self.logits.exp()

    @property
    def param_shape(self) -> torch.Size:
        """The shape of ``logits`` and ``probs``, ``batch_shape + (K,)``."""
        return self.batch_shape + self.event_shape

    @classmethod
    def infer_shapes(cls, **arg_shapes: Sequence[int]) -> tuple[torch.Size, torch.Size]:
        """Return the batch and event shape of a distribution with arguments of these shapes."""
        vector = torch.Size(arg_shapes["probs" if "probs" in arg_shapes else "logits"])
        return inferred_batch(cls.arg_constraints, dict(arg_shapes)), vector[-1:]

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        batch_shape = torch.Size(batch_shape)
        new = self._get_checked_instance(type(self), _instance)
        for name in ("logits", "probs"):
            if name in self.__dict__:
                setattr(new, name, getattr(self, name).expand(batch_shape + self.event_shape))
        for name in self._plain:
            setattr(new, name, getattr(self, name))
        new.temperature = self.temperature.expand(batch_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _log_weights(self, sample_shape: Sequence[int]) -> Tensor:
        """Draw log-weights, ``sample_shape + batch_shape + (K,)``, differentiable."""
        return gumbel_log_softmax(self.logits, self.temperature, sample_shape)

    def _broadcast(self, value: Tensor) -> Tensor:
        """Return ``value``, checked, with at least the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        return value.expand(broadcast_shapes(value.shape, self.param_shape))

    def __repr__(self) -> str:
        name = "logits" if "logits" in self.__dict__ else "probs"
        plain = "".join(f"{key}={getattr(self, key)}, " for key in self._plain)
        return (
            f"{type(self).__name__}({plain}temperature: {tuple(self.batch_shape)}, {name}: {tuple(self.param_shape)})"
        )


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
        """Return the log-density of log-weights ``(..., K)``; -inf unless just impossible categories have -inf."""
        return exp_concrete_log_prob(self._broadcast(value), self.logits, self.temperature)

    @property
    def mode(self) -> Tensor:
        r"""The log-weights of largest density, :math:`\log\mathrm{softmax}(\log\alpha / \lambda)`."""
        return (self.logits / self.temperature.unsqueeze(-1)).log_softmax(-1)

    def entropy(self) -> Tensor:
        r"""Return the entropy in nats, ``batch_shape``: :math:`K(\gamma + \psi(K)) - \log\Gamma(K) - (K-1)\log\lambda`.

        >>> ExpRelaxedOneHotCategorical(1.0, logits=torch.zeros(2)).entropy()
        tensor(2.)
        """
        num = (self.logits > -torch.inf).sum(-1).to(self.logits.dtype)
        return num * (_EULER + num.digamma()) - num.lgamma() - (num - 1) * self.temperature.log()


class RelaxedOneHotCategorical(RelaxedCategoricalBase):
    r"""Weights on the simplex that become one-hot as the temperature falls: the Concrete distribution.

    It is also known as the Gumbel-softmax distribution.

    .. math::

        x = \mathrm{softmax}\left(\frac{\log\alpha + G}{\lambda}\right), \qquad
        p(x) = \Gamma(K)\, \lambda^{K-1} \prod_k \frac{\alpha_k x_k^{-\lambda - 1}}{\sum_j \alpha_j x_j^{-\lambda}}

    with independent standard Gumbels G. The most probable category of a draw is distributed as in the
    categorical distribution, at every temperature. Categories of probability zero have weight 0; the density is then
    that over the others.

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
