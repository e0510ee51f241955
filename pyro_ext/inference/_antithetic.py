"""Antithetic pairs of Bernoulli draws along one extra dim, and the gradient estimate they give."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor


class AntitheticPairs(Messenger):
    """Draws every Bernoulli site of a guide twice: ``b`` and its antithetic twin, along one dim left of all plates.

    Other sites are left alone; what is computed from a pair gets the dim by broadcasting, what is not is drawn
    once and shared by both halves.

    Args:
        nesting: the number of plate dims; the pair dim is the next one to the left.
    """

    def __init__(self, nesting: int) -> None:
        super().__init__()
        self._nesting = nesting

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        law = bernoulli_of(fn)
        if law is None:
            return
        if len(fn.batch_shape) > self._nesting:
            raise NotImplementedError(
                f"Bernoulli guide site {msg['name']!r} has batch shape {tuple(fn.batch_shape)}, which varies with "
                f"another Bernoulli site's value (or max_plate_nesting={self._nesting} is too small): antithetic "
                "pairs need Bernoulli sites independent of each other; merge them into one site with .to_event(1), "
                "or use TraceUnorderedBeam_ELBO, TraceLeaveOneOut_ELBO or Trace_ELBO"
            )
        pair = antithetic_pair(law)
        padding = (1,) * (self._nesting - len(fn.batch_shape))
        msg["value"], msg["done"] = pair.reshape(2, *padding, *pair.shape[1:]), True


def bernoulli_of(fn: Any) -> torch.distributions.Bernoulli | None:
    """Return the Bernoulli inside ``fn``, below ``.to_event`` and ``.mask``; None for any other distribution."""
    while isinstance(fn, torch.distributions.Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn if isinstance(fn, torch.distributions.Bernoulli) else None


def antithetic_pair(law: torch.distributions.Bernoulli) -> Tensor:
    """Draw ``1[1 - u <= p]`` and ``1[u < p]`` from shared uniforms, ``(2,) + law.batch_shape``.

    The uniforms are float64: in float32 either half would lose the probabilities below its spacing.
    """
    with torch.no_grad():
        prob = law.logits.double().sigmoid() if _has_logits(law) else law.probs.double()
        uniform = torch.rand(prob.shape, dtype=prob.dtype, device=prob.device)
        return torch.stack([1 - uniform <= prob, uniform < prob]).to(law._param.dtype)


def pair_surrogate(law: torch.distributions.Bernoulli, pair: Tensor, difference: Tensor) -> Tensor:
    r"""Return a scalar whose gradient is the DisARM estimate for the parameters of ``law``.

    For the log-odds :math:`\alpha` the estimate is :math:`\tfrac12 (f(b) - f(\tilde b)) (b - \tilde b)
    \sigma(|\alpha|)`, which is :math:`(-1)^{\tilde b} 1[b \ne \tilde b]` of equation 13 written as a difference.
    A law given by probabilities ``p`` gets it divided by :math:`d p / d \alpha = p (1 - p)`, which is exact where
    clamped log-odds would have no gradient.

    Args:
        law: a Bernoulli.
        pair: ``(2,) +`` a shape that broadcasts with ``law.batch_shape``.
        difference: ``f`` at the first half of the pair minus ``f`` at the second, broadcasting likewise.

    References:
        | DisARM: An antithetic gradient estimator for binary latent variables (Dong, Mnih, Tucker, 2020), eq. 13
        | https://arxiv.org/abs/2006.10680
    """
    sign = pair[0] - pair[1]
    parameter = law._param
    value = parameter.detach()
    if _has_logits(law):
        slope = value.abs().sigmoid()
    else:
        slope = torch.minimum(value, 1 - value).clamp_min(torch.finfo(value.dtype).tiny).reciprocal()
    weight = torch.where(sign == 0, 0.0, 0.5 * difference.detach() * sign * slope)
    return (weight * parameter).sum()


def _has_logits(law: torch.distributions.Bernoulli) -> bool:
    return law.__dict__.get("logits") is law._param  # reading .logits would make them up from clamped probabilities
