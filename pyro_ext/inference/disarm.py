"""An antithetic gradient estimator for Bernoulli latent variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._programs import ProgramWatch
from pyro_ext.inference._traces import (
    Plates,
    Site,
    Term,
    has_score,
    log_weight_terms,
    plate_nesting,
    plates_of,
    refuse_guide_messenger,
    sample_sites,
    sum_to,
    total,
)
from pyro_ext.inference.elbo import DifferentiableELBO, ModelOrGuide, checked_loss, value_with_gradient_of

__all__ = ["TraceDisARM_ELBO"]

_PAIRS = (
    "the antithetic pair, an extra dim on the left of every value",
    "Write it so that it does, or use TraceLeaveOneOut_ELBO(vectorize_samples=False), which runs it once per sample",
)


class TraceDisARM_ELBO(DifferentiableELBO, Trace_ELBO):
    r"""The ELBO with DisARM gradients for Bernoulli guide sites: two evaluations, no baseline, nothing to tune.

    Every Bernoulli site, also below ``.to_event``, is drawn as a pair :math:`b_i = 1[1 - u_i \le p_i]` and
    :math:`\tilde b_i = 1[u_i < p_i]` with one uniform each, and with :math:`f = \log p(x, b) - \log q(b)`

    .. math::

        \frac{\partial}{\partial \alpha_i} \mathbb{E} f \approx \tfrac12 \big( f(b) - f(\tilde b) \big)
        (-1)^{\tilde b_i} \, 1[b_i \ne \tilde b_i] \, \sigma(|\alpha_i|)

    for the log-odds :math:`\alpha_i`. Model parameters and reparameterised guide sites get the mean of the two
    evaluations' pathwise gradients; the explicit dependence of :math:`-\log q(b)` on :math:`\alpha` has mean
    zero and is left out. A site inside plates is compared on the costs of its own plate elements only.

    The pair lies along one dim to the left of all plates, shared by all Bernoulli sites, so model and guide run
    once and must broadcast as they do for :class:`pyro.infer.TraceEnum_ELBO`. Reparameterised sites that do not
    depend on a Bernoulli site are drawn once for both halves.

    Args:
        num_particles: the number of independent pairs averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the pairs are one outermost plate or repeated runs.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_particles`` is not a positive integer.

    References:
        | DisARM: An antithetic gradient estimator for binary latent variables (Dong, Mnih, Tucker, 2020), eq. 13
        | https://arxiv.org/abs/2006.10680

    >>> import pyro, pyro.distributions as dist
    >>> logit = torch.zeros((), requires_grad=True)
    >>> def model():
    ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
    ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Bernoulli(logits=logit))
    >>> TraceDisARM_ELBO()(model, guide)().backward()
    >>> logit.grad  # at even odds one draw gives the exact gradient
    tensor(-0.1250)
    """

    _get_trace: Callable[..., Any]

    def __init__(
        self,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles, **kwargs)

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative ELBO, averaged over the pairs; its gradient is the DisARM estimate.

        Raises:
            NotImplementedError: if a guide site is neither Bernoulli nor reparameterised, a Bernoulli site
                depends on another one, the model holds a site to be summed out, or the guide is a
                ``GuideMessenger``.
            ValueError: if a latent model site is absent from the guide, or a program does not broadcast over the pair.
        """
        refuse_guide_messenger(guide, self)
        nesting = plate_nesting(self, model, guide, args, kwargs)
        repeats, watch = self.num_particles, ProgramWatch(model, guide, *_PAIRS)
        model, guide = watch.model, watch.guide
        if self.vectorize_particles:
            model, guide = self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
            repeats = 1
        paired = _AntitheticPairs(nesting)(guide)
        with watch.explaining(args, kwargs):
            traces = [self._get_trace(model, paired, args, kwargs) for _ in range(repeats)]
        return checked_loss(total(_loss(pair, nesting) for pair in traces) / self.num_particles, traces)


def _loss(traces: tuple[Any, Any], nesting: int) -> Tensor:
    """Return the negative ELBO of one pair of a model and a guide trace, summed over vectorised particles."""
    model_trace, guide_trace = traces
    sites = {name: site for name, site in sample_sites(guide_trace).items() if has_score(site)}
    for name, site in sites.items():
        if _bernoulli_of(site["fn"]) is None:
            family = type(unwrap(site["fn"]).base).__name__
            raise NotImplementedError(
                f"guide site {name!r} is a {family}: TraceDisARM_ELBO takes Bernoulli and "
                "reparameterised sites only; use TraceUnorderedSet_ELBO or TraceLeaveOneOut_ELBO"
            )
    terms = log_weight_terms(model_trace, guide_trace)
    value = total(_pair_mean(term.value.detach(), nesting) for term in terms)
    surrogates = [_pair_mean(term.surrogate, nesting) for term in terms if term.surrogate is not None]
    differences = _differences(terms, nesting)
    surrogates += [_site_surrogate(site, differences, nesting) for site in sites.values()]
    return value_with_gradient_of(-value, -total(surrogates))


def _is_pair(x: Tensor, nesting: int) -> bool:
    return x.dim() > nesting and x.shape[-1 - nesting] == 2


def _pair_mean(x: Tensor, nesting: int) -> Tensor:
    """Sum over plates and average over the pair; what does not vary over the pair counts once."""
    return x.sum() / 2 if _is_pair(x, nesting) else x.sum()


def _differences(terms: list[Term], nesting: int) -> dict[Plates, Tensor]:
    """Return, for each set of plates, the costs at the first half of the pair minus those at the second."""
    differences: dict[Plates, Tensor] = {}
    for term in terms:
        if _is_pair(term.value, nesting):
            first, second = term.value.detach()
            change = torch.where(first == second, 0.0, first - second)  # -inf on both sides is no difference
            differences[term.plates] = differences[term.plates] + change if term.plates in differences else change
    return differences


def _site_surrogate(site: Site, differences: dict[Plates, Tensor], nesting: int) -> Tensor:
    """Return the surrogate of one Bernoulli site, for the costs it can influence."""
    fn, value = site["fn"], site["value"]
    bernoulli = _bernoulli_of(fn)
    if bernoulli is None or not _is_pair(value.detach()[(..., *(0,) * fn.event_dim)], nesting):
        return value.new_zeros(())
    plates = plates_of(site)
    changes = [sum_to(change, plates & of_term, nesting) for of_term, change in differences.items()]
    difference = total([value.new_zeros(()), *changes])
    difference = torch.where(difference.isfinite(), difference, 0.0)  # no gradient where one half is impossible
    difference = difference.reshape(difference.shape + (1,) * fn.event_dim)
    return _pair_surrogate(bernoulli, value, difference)


class _AntitheticPairs(Messenger):
    """Draws every Bernoulli site of a guide twice: ``b`` and its antithetic twin, along one dim left of all plates.

    Other sites are left alone: what is computed from a pair gets the dim by broadcasting, and what is not is drawn
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
        bernoulli = _bernoulli_of(fn)
        if bernoulli is None:
            return
        if len(fn.batch_shape) > self._nesting:
            raise NotImplementedError(
                f"Bernoulli guide site {msg['name']!r} has batch shape {tuple(fn.batch_shape)}, which varies with "
                f"another Bernoulli site's value (or max_plate_nesting={self._nesting} is too small): antithetic "
                "pairs need Bernoulli sites independent of each other; merge them into one site with .to_event(1), "
                "or use TraceUnorderedBeam_ELBO, TraceLeaveOneOut_ELBO or Trace_ELBO"
            )
        pair = antithetic_pair(bernoulli)
        padding = (1,) * (self._nesting - len(fn.batch_shape))
        msg["value"], msg["done"] = pair.reshape(2, *padding, *pair.shape[1:]), True


def _bernoulli_of(fn: Any) -> torch.distributions.Bernoulli | None:
    """Return the Bernoulli inside ``fn``, below ``.to_event`` and ``.mask``; None for any other distribution."""
    base = unwrap(fn).base
    return base if isinstance(base, torch.distributions.Bernoulli) else None


def antithetic_pair(bernoulli: torch.distributions.Bernoulli) -> Tensor:
    """Draw ``1[1 - u <= p]`` and ``1[u < p]`` from shared uniforms, ``(2,) + bernoulli.batch_shape``.

    The uniforms are float64: in float32 either half would lose the probabilities below its spacing.
    """
    with torch.no_grad():
        prob = bernoulli.logits.double().sigmoid() if _has_logits(bernoulli) else bernoulli.probs.double()
        uniform = torch.rand(prob.shape, dtype=prob.dtype, device=prob.device)
        return torch.stack([1 - uniform <= prob, uniform < prob]).to(bernoulli._param.dtype)


def _pair_surrogate(bernoulli: torch.distributions.Bernoulli, pair: Tensor, difference: Tensor) -> Tensor:
    r"""Return a scalar whose gradient is the DisARM estimate for the parameters of ``bernoulli``.

    For the log-odds :math:`\alpha` the estimate is :math:`\tfrac12 (f(b) - f(\tilde b)) (b - \tilde b)
    \sigma(|\alpha|)`, which is :math:`(-1)^{\tilde b} 1[b \ne \tilde b]` of equation 13 written as a difference.
    A distribution given by probabilities ``p`` gets the estimate divided by :math:`d p / d \alpha = p (1 - p)`, which
    is exact where clamped log-odds would have no gradient.

    Args:
        bernoulli: the Bernoulli distribution of the site.
        pair: the two values of the pair, ``(2,) +`` a shape that broadcasts with ``bernoulli.batch_shape``.
        difference: ``f`` at the first half of the pair minus ``f`` at the second; it broadcasts with
            ``bernoulli.batch_shape``.

    References:
        | DisARM: An antithetic gradient estimator for binary latent variables (Dong, Mnih, Tucker, 2020), eq. 13
        | https://arxiv.org/abs/2006.10680
    """
    sign = pair[0] - pair[1]
    parameter = bernoulli._param
    value = parameter.detach()
    if _has_logits(bernoulli):
        slope = value.abs().sigmoid()
    else:
        slope = torch.minimum(value, 1 - value).clamp_min(torch.finfo(value.dtype).tiny).reciprocal()
    weight = torch.where(sign == 0, 0.0, 0.5 * difference.detach() * sign * slope)
    return (weight * parameter).sum()


def _has_logits(bernoulli: torch.distributions.Bernoulli) -> bool:
    # not read by .logits, which would compute them from clamped probabilities
    return bernoulli.__dict__.get("logits") is bernoulli._param
