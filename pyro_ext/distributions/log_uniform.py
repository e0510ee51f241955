"""The log-uniform prior of sparse variational dropout, and the closed divergences of variational weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import InverseGamma, TorchDistribution
from torch import Tensor
from torch.distributions import Gamma, LogNormal, Normal, constraints, register_kl
from torch.distributions import InverseGamma as TorchInverseGamma

from pyro_ext.ops.log_uniform import KL_FORMS, KLForm, log_alpha, log_uniform_kl
from pyro_ext.utils.checks import one_of
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["LogUniform"]

_EULER = 0.5772156649015329
# with it, the mean of log q - log p over q is the divergence that is 0 in the limit of pure noise
_LOG_CONSTANT = -0.5 * (math.log(2 * math.pi * math.e) + _EULER + math.log(2))
_NAMES = ("low", "high")


class LogUniform(TorchDistribution):
    r"""The improper prior under which the logarithm of a weight's size is uniform.

    .. math::  \log p(w) = c_0 - \log |w|, \qquad
        c_0 = -\tfrac12 \left(\log(2 \pi e) + \gamma + \log 2\right) \approx -2.05412

    The density has no normalising constant. That of ``log_prob`` is chosen such that the divergence of a normal
    distribution from it vanishes as that distribution becomes pure noise: with it, sampled and closed divergences
    agree, and so do bounds of :class:`pyro.infer.Trace_ELBO` and :class:`pyro.infer.TraceMeanField_ELBO`. Since the
    prior is improper, so is the posterior: what is maximised is a penalised likelihood, and no bound on the evidence
    (Hron et al., 2018, https://arxiv.org/abs/1807.01969).

    An improper distribution cannot be sampled. ``sample`` draws from the proper one between two sizes, with either
    sign: :math:`\log |w|` is uniform between ``log(low)`` and ``log(high)``; ``log_prob`` ignores them.

    ``kl_divergence(Normal, LogUniform)`` is registered, in the form that ``kl`` names. Use it: the gradient of the
    sampled divergence contains :math:`1 / w`, whose variance is infinite, and a warning says so when a weight of a
    guide receives it. :class:`pyro_ext.inference.AnalyticKL` makes any linear ELBO use the closed form.

    Args:
        low: the smallest size of what ``sample`` draws, positive; ``batch_shape`` or broadcastable with it. Its type
            and device are those of samples.
        high: the largest size of what ``sample`` draws, above ``low``.
        kl: the form of the divergence, ``"approx"`` or ``"exact"``; see
            :func:`pyro_ext.ops.log_uniform.log_uniform_kl`.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``low`` is not positive, ``high`` is not above it, or ``kl`` names no form.

    References:
        | Variational dropout and the local reparameterization trick (Kingma et al., 2015), section 3.3 and appendix C
        | https://arxiv.org/abs/1506.02557
        | Variational dropout sparsifies deep neural networks (Molchanov et al., 2017)
        | https://arxiv.org/abs/1701.05369

    Example:
        >>> prior = LogUniform()
        >>> prior.log_prob(torch.tensor([1.0, -1.0, 0.1]))
        tensor([-2.0541, -2.0541,  0.2485])
        >>> torch.distributions.kl_divergence(dist.Normal(1.0, 1.0), prior)
        tensor(0.4312)
        >>> torch.distributions.kl_divergence(dist.Normal(1.0, 1.0), LogUniform(kl="exact"))
        tensor(0.4267)
    """

    arg_constraints: ClassVar[dict[str, Any]] = dict.fromkeys(_NAMES, constraints.positive)
    support = constraints.real
    has_rsample = True

    def __init__(
        self,
        low: Tensor | float = 1e-4,
        high: Tensor | float = 1.0,
        kl: KLForm = "approx",
        validate_args: bool | None = None,
    ) -> None:
        self.kl = one_of("kl", kl, KL_FORMS)
        like = next((bound for bound in (low, high) if isinstance(bound, Tensor)), torch.empty(()))
        low, high = (like.new_full((), x) if not isinstance(x, Tensor) else x for x in (low, high))
        self.low, self.high = torch.broadcast_tensors(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError(f"high must be above low, got low={low} and high={high}")

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution broadcast to ``batch_shape``."""
        new = self._get_checked_instance(LogUniform, _instance)
        new.kl = self.kl
        new.low, new.high = self.low.expand(batch_shape), self.high.expand(batch_shape)
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw from the proper distribution of sizes between ``low`` and ``high``, ``sample_shape + batch_shape``."""
        u = torch.rand(torch.Size(sample_shape) + self.batch_shape, dtype=self.low.dtype, device=self.low.device)
        u = 2 * u - 1  # its sign is that of the weight, its size a uniform number
        size = torch.lerp(self.low.log(), self.high.log(), u.abs()).exp()
        return torch.where(u < 0, -size, size)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log of the improper density; at 0, where it is infinite, that of the smallest normal number."""
        if self._validate_args:
            self._validate_sample(value)
        size = value.abs().clamp_min(torch.finfo(value.dtype).tiny)
        log_prob = (_LOG_CONSTANT - size.log()).expand(broadcast_shapes(value.shape, self.batch_shape))
        if log_prob.requires_grad and not value.is_leaf:  # drawn by a guide, unlike the state of a Markov chain
            log_prob.register_hook(_warn)
        return log_prob

    def __repr__(self) -> str:
        return f"LogUniform(kl={self.kl!r}, batch_shape: {tuple(self.batch_shape)})"


def _warn(grad: Tensor) -> None:
    warnings.warn(
        "the gradient of the log-uniform prior's log_prob at a sampled weight has infinite variance: wrap the model by "
        "pyro_ext.inference.AnalyticKL(), or use TraceMeanField_ELBO with normal guides",
        RuntimeWarning,
        stacklevel=2,
    )


def _broadcast(divergence: Tensor, p: Any) -> Tensor:
    return divergence.expand(broadcast_shapes(divergence.shape, p.batch_shape))


@register_kl(Normal, LogUniform)
def _kl_normal_log_uniform(q: Any, p: LogUniform) -> Tensor:
    # a normal distribution given by its log-variance knows it better than its scale does
    log_variance = q.log_variance if hasattr(q, "log_variance") else 2 * q.scale.log()
    return _broadcast(log_uniform_kl(log_alpha(q.loc, log_variance), p.kl), p)


@register_kl(LogNormal, Gamma)
def _kl_log_normal_gamma(q: LogNormal, p: Gamma) -> Tensor:
    return _log_normal_kl(q, q.loc, p.concentration, p.rate)


@register_kl(LogNormal, TorchInverseGamma)
@register_kl(LogNormal, InverseGamma)
def _kl_log_normal_inverse_gamma(q: LogNormal, p: Any) -> Tensor:
    # the inverse of a log-normal variable is log-normal with the opposite mean
    return _log_normal_kl(q, -q.loc, p.concentration, p.rate)


def _log_normal_kl(q: LogNormal, loc: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
    """Return the divergence of LogNormal(loc, q.scale) from Gamma(concentration, rate).

    Bayesian compression for deep learning (Louizos et al., 2017), appendix on the horseshoe prior;
    https://arxiv.org/abs/1705.08665.
    """
    entropy = 0.5 * (1 + math.log(2 * math.pi)) + q.scale.log()  # of the logarithm; the mean of which is loc
    log_density = concentration * (loc + rate.log()) - concentration.lgamma()
    return rate * (loc + 0.5 * q.scale.square()).exp() - log_density - entropy
