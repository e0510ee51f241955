"""Antithetic gradient estimators for Bernoulli latent variables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._traces import SharedSubsample, Site
from pyro_ext.inference.control_variates import ControlVariates
from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.joint_draws.engine import Costs, JointDrawsELBO, Programs, varies
from pyro_ext.inference.joint_draws.slopes import origins_of_costs
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["TraceARMS_ELBO", "TraceDisARM_ELBO", "antithetic_bits"]


class TraceARMS_ELBO(JointDrawsELBO):
    r"""The ELBO with ARMS gradients for Bernoulli guide sites: n antithetic evaluations, nothing to tune.

    Every Bernoulli site, also below ``.to_event``, is drawn n times, each draw with its probability p and any two of
    them as unlike as exchangeable draws can be: one minus each entry of a uniform point of the simplex, to the power
    n - 1, are n uniforms that are never small together. With :math:`f = \log p(x, b) - \log q(b)`, its mean
    :math:`\bar f` over the draws, and the probability :math:`j` that two draws are both 1,

    .. math::

        \frac{\partial}{\partial \alpha} \mathbb{E} f \approx \frac{1}{n - 1} \sum_{k=1}^n (f_k - \bar f)(b_k - p)
        \, \frac{p (1 - p)}{p - j}, \qquad
        j = \max(2 p^{1 / (n - 1)} - 1, 0)^{n - 1} \text{ for } p < \tfrac12

    for the log-odds :math:`\alpha` (for :math:`p \ge 1/2` zeros and ones change places). That is the leave-one-out
    estimator, rescaled by the correlation of the draws. Two draws are :class:`TraceDisARM_ELBO`. Model parameters and
    reparameterised guide sites get the mean of the n pathwise gradients; the explicit dependence of :math:`-\log q(b)`
    on :math:`\alpha` has mean zero and is left out. A site inside plates is compared on the costs of its own plate
    elements only. Draws, costs and weights are float64 inside: probabilities near 0 and 1 keep their gradient.

    The draws lie along one dim to the left of all plates, shared by all Bernoulli sites, so model and guide run
    once and must broadcast as they do for :class:`pyro.infer.TraceEnum_ELBO`. Reparameterised sites that do not
    depend on a Bernoulli site are drawn once for all of them.

    Args:
        num_samples: the number n of antithetic draws, at least 2.
        num_particles: the number of independent sets of n draws averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the particles are one outermost plate or repeated runs.
        control_variate: a surrogate of the cost with a known expectation, which is subtracted and added back:
            ``"linear"`` in the values, by a network of the site's logits that is trained on the way; ``"mean"``, the
            slope at the mean, for one more evaluation of model and guide; or a mapping from names of sites to one of
            these or to a surrogate of your own, see :class:`pyro_ext.inference.control_variates.ControlVariates`.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_samples`` is not an integer of at least 2, or ``num_particles`` not a positive integer.
        NotImplementedError: in use, naming a guide site that is neither Bernoulli nor reparameterised, or a Bernoulli
            site that depends on another one.

    References:
        | ARMS: Antithetic-REINFORCE-multi-sample gradient for binary variables (Dimitriev, Zhou, 2021), section 3
        | https://arxiv.org/abs/2105.14141

    >>> import pyro, pyro.distributions as dist
    >>> logit = torch.zeros((), requires_grad=True)
    >>> def model():
    ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
    ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Bernoulli(logits=logit))
    >>> TraceARMS_ELBO(num_samples=2)(model, guide)().backward()
    >>> logit.grad  # at even odds two draws give the exact gradient
    tensor(-0.1250)
    """

    def __init__(
        self,
        num_samples: int = 4,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        control_variate: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_samples, num_particles, max_plate_nesting, vectorize_particles, **kwargs)
        self.control_variates = ControlVariates(control_variate)
        self._reached: dict[frozenset[str], set[str]] = {}

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative ELBO, averaged over the draws; its gradient is the estimator.

        Raises:
            NotImplementedError: naming a guide site that is neither Bernoulli nor reparameterised or depends on another
                Bernoulli site, or a model site to be summed out; if the guide is a ``GuideMessenger``.
            ValueError: if a latent model site is absent from the guide, a program does not broadcast over the draws,
                or a control variate does not apply to a site.
        """
        if self.control_variates.need_means:
            shared = SharedSubsample()  # the run at the means sees the same data
            model, guide = shared(model), shared(guide)
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        self.control_variates.learn_from(loss)
        return loss

    def after_step(self) -> None:
        """Move what the control variates learn, by the last loss that went backward."""
        self.control_variates.after_step()

    def _check(self, site: Site) -> None:
        if _bernoulli_of(site["fn"]) is None:
            family = type(unwrap(site["fn"]).base).__name__
            raise NotImplementedError(
                f"guide site {site['name']!r} is a {family}: {type(self).__name__} takes Bernoulli and "
                "reparameterised sites only; use TraceUnorderedSet_ELBO or TraceLeaveOneOut_ELBO"
            )

    def _draw(self, name: str, fn: Any, nesting: int) -> tuple[Any, Tensor] | None:
        bernoulli = _bernoulli_of(fn)
        if bernoulli is None:
            return None
        if len(fn.batch_shape) > nesting:
            raise NotImplementedError(
                f"Bernoulli guide site {name!r} has batch shape {tuple(fn.batch_shape)}, which varies with "
                f"another Bernoulli site's value (or max_plate_nesting={nesting} is too small): antithetic "
                "draws need Bernoulli sites independent of each other; merge them into one site with .to_event(1), "
                "or use TraceUnorderedBeam_ELBO, TraceLeaveOneOut_ELBO or Trace_ELBO"
            )
        return fn, antithetic_bits(bernoulli, self.num_samples)

    def _surrogates(self, sites: dict[str, Site], costs: Costs, guide_trace: Any, programs: Programs) -> list[Tensor]:
        slopes: dict[str, Tensor] = {}
        if self.control_variates.need_means:
            reached = self._sites_reached(sites, costs, guide_trace, programs)
            slopes = self.control_variates.slopes_at_means(
                programs.model, programs.guide, guide_trace, programs.args, programs.kwargs, costs.nesting, reached
            )
        return [self._site_surrogate(site, costs, slopes) for site in sites.values()]

    def _sites_reached(self, sites: dict[str, Site], costs: Costs, guide_trace: Any, programs: Programs) -> set[str]:
        """Return the sites on whose values other costs than their own depend; found out once."""
        key = frozenset(sites)
        if key not in self._reached:
            if len(sites) == 1:
                self._reached[key] = {name for name in sites if any(term.name != name for term in costs.terms)}
            else:
                values = {name: site["value"] for name, site in sites.items()}
                origins = origins_of_costs(values, costs, guide_trace, programs)
                pairs = [pair for of_role in origins.values() for pair in of_role.items()]
                self._reached[key] = {name for name in sites if any(name in o and name != cost for cost, o in pairs)}
        return self._reached[key]

    def _site_surrogate(self, site: Site, costs: Costs, slopes: dict[str, Tensor]) -> Tensor:
        fn, value = site["fn"], site["value"]
        bernoulli, cost = _bernoulli_of(fn), costs.of(site)
        in_batch = value.detach()[(..., *(0,) * fn.event_dim)]
        if bernoulli is None or cost is None or not varies(in_batch, costs.nesting, self.num_samples):
            return value.new_zeros(())
        expected = value.new_zeros(())
        variate = self.control_variates.of(site, slopes)
        if variate is not None:
            cost = cost.expand(broadcast_shapes(cost.shape, variate.values.shape))
            weight = torch.full_like(cost, 1 / self.num_samples)
            variate.learn(torch.where(cost.isfinite(), cost, 0.0), weight, -1 - costs.nesting)
            expected = variate.expected(value.new_ones(fn.batch_shape))
            cost = cost - variate.values
        centred = cost - cost.mean(0)
        centred = torch.where(centred.isfinite(), centred, 0.0)  # no gradient where one draw is impossible
        centred = centred.reshape(centred.shape + (1,) * fn.event_dim)
        return _surrogate(bernoulli, value.detach(), centred) + expected


class TraceDisARM_ELBO(TraceARMS_ELBO):
    r"""The ELBO with DisARM gradients for Bernoulli guide sites: two evaluations, no baseline, nothing to tune.

    Every Bernoulli site, also below ``.to_event``, is drawn as a pair :math:`b_i = 1[1 - u_i \le p_i]` and
    :math:`\tilde b_i = 1[u_i < p_i]` with one uniform each, and with :math:`f = \log p(x, b) - \log q(b)`

    .. math::

        \frac{\partial}{\partial \alpha_i} \mathbb{E} f \approx \tfrac12 \big( f(b) - f(\tilde b) \big)
        (-1)^{\tilde b_i} \, 1[b_i \ne \tilde b_i] \, \sigma(|\alpha_i|)

    for the log-odds :math:`\alpha_i`. It is :class:`TraceARMS_ELBO` with two draws, and says what that says of model
    parameters, reparameterised sites, plates, and programs that must broadcast.

    Args:
        num_particles: the number of independent pairs averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the pairs are one outermost plate or repeated runs.
        control_variate: a surrogate of the cost with a known expectation, which is subtracted and added back:
            ``"linear"`` in the values, by a network of the site's logits that is trained on the way; ``"mean"``, the
            slope at the mean, for one more evaluation of model and guide; or a mapping from names of sites to one of
            these or to a surrogate of your own, see :class:`pyro_ext.inference.control_variates.ControlVariates`.
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

    def __init__(
        self,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        control_variate: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(2, num_particles, max_plate_nesting, vectorize_particles, control_variate, **kwargs)


def _bernoulli_of(fn: Any) -> torch.distributions.Bernoulli | None:
    """Return the Bernoulli inside ``fn``, below ``.to_event`` and ``.mask``; None for any other distribution."""
    base = unwrap(fn).base
    return base if isinstance(base, torch.distributions.Bernoulli) else None


def _has_logits(bernoulli: torch.distributions.Bernoulli) -> bool:
    # not read by .logits, which would compute them from clamped probabilities
    return bernoulli.__dict__.get("logits") is bernoulli._param


def _rarer(bernoulli: torch.distributions.Bernoulli) -> tuple[Tensor, Tensor]:
    """Return whether 0 is the rarer value, and the log-probability of the rarer value in float64."""
    parameter = bernoulli._param.detach().double()
    if _has_logits(bernoulli):
        return parameter >= 0, torch.nn.functional.logsigmoid(-parameter.abs())
    return parameter >= 0.5, torch.minimum(parameter, 1 - parameter).log()


@torch.no_grad()
def antithetic_bits(bernoulli: torch.distributions.Bernoulli, num_samples: int) -> Tensor:
    """Draw n antithetic values, ``(n,) + bernoulli.batch_shape``, each with the probabilities of ``bernoulli``.

    The uniforms are float64: in float32 each draw would lose the probabilities below its spacing.

    Args:
        bernoulli: the Bernoulli distribution.
        num_samples: the number n of draws, at least 2.

    Example:
        >>> antithetic_bits(torch.distributions.Bernoulli(torch.tensor([0.5, 1.0])), 2).sum(0)
        tensor([1., 2.])
    """
    zero_is_rare, log_rare = _rarer(bernoulli)
    draws = torch.empty((num_samples, *log_rare.shape), dtype=log_rare.dtype, device=log_rare.device).exponential_()
    # 1 - e / sum(e) without a subtraction: it is small where the uniform is
    off_diagonal = 1 - torch.eye(num_samples, dtype=draws.dtype, device=draws.device)
    others = torch.tensordot(off_diagonal, draws, 1)
    rare = others < (log_rare / (num_samples - 1)).exp() * draws.sum(0)
    return (rare ^ zero_is_rare).to(bernoulli._param.dtype)


def _surrogate(bernoulli: torch.distributions.Bernoulli, bits: Tensor, centred: Tensor) -> Tensor:
    r"""Return a scalar whose gradient is the ARMS estimate for the parameters of ``bernoulli``.

    With q the probability of the rarer value and :math:`c = \max(2 - q^{-1 / (n - 1)}, 0)^{n - 1}`, the factor
    :math:`p (1 - p) / (p - j)` is :math:`(1 - q) / (1 - c)`: nothing cancels where q is small. A distribution given by
    probabilities gets the estimate divided by :math:`d p / d \alpha = p (1 - p)`, which is exact where clamped log-odds
    would have no gradient.

    Args:
        bernoulli: the Bernoulli distribution of the site.
        bits: the n draws, ``(n,) +`` a shape that broadcasts with ``bernoulli.batch_shape``.
        centred: the costs of the draws minus their mean; it broadcasts with ``bits``.
    """
    num_samples, parameter = len(bits), bernoulli._param
    zero_is_rare, log_rare = _rarer(bernoulli)
    together = (2 - (-log_rare / (num_samples - 1)).exp()).clamp_min(0) ** (num_samples - 1)
    if _has_logits(bernoulli):
        slope = -torch.expm1(log_rare) / (1 - together)
    else:
        slope = log_rare.exp().clamp_min(torch.finfo(log_rare.dtype).tiny).reciprocal() / (1 - together)
    # the costs add up to 0: counting the rarer value alone changes nothing, and leaves no rounding where it is absent
    rare = bits - zero_is_rare.to(bits.dtype)
    weight = (centred.detach() * rare).sum(0) * slope / (num_samples - 1)
    return (weight.to(parameter.dtype) * parameter).sum()
