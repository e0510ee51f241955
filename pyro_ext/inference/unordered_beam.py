"""Sets of whole guide traces drawn without replacement, for autoregressive discrete guides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_ext.inference._beams import BeamGuide, Beams, NextSite, branching, escape, expand, reads_value
from pyro_ext.inference._leave_one_out import leave_one_out_loss
from pyro_ext.inference._programs import ProgramWatch
from pyro_ext.inference._traces import (
    Term,
    has_score,
    log_weight_terms,
    plate_nesting,
    refuse_guide_messenger,
    sample_sites,
    score_function,
    sum_to,
    total,
)
from pyro_ext.inference.elbo import DifferentiableELBO, ModelOrGuide, checked_loss, value_with_gradient_of
from pyro_ext.ops.sets import first_and_second_log_ratios
from pyro_ext.utils.checks import positive_int

__all__ = ["TraceUnorderedBeam_ELBO"]

_BEAMS = (
    "the set of traces, an extra dim on the left of every value",
    "Write it so that it does, or use TraceLeaveOneOut_ELBO(vectorize_samples=False), which runs it once per sample",
)


class TraceUnorderedBeam_ELBO(DifferentiableELBO, Trace_ELBO):
    r"""The unordered-set estimator over whole guide traces: ``k`` distinct joint values of all discrete sites.

    For guides in which each discrete site may depend on all earlier ones. The values of all of them together,
    :math:`s`, are drawn by stochastic beam search as a set :math:`S` of ``k`` without replacement, the guide
    running once per discrete site and once more to its end, the model once. With
    :math:`f(s) = \log p(x, s) - \log q(s)`

    .. math::

        \nabla \mathcal{L} \approx \sum_{s \in S} p_s R(S, s) \big[ (f(s) - b_s) \nabla \log q(s) + \nabla f(s)
        \big], \qquad b_s = \sum_{s' \in S} p_{s'} R^{D \setminus s}(S, s') f(s')

    where :math:`R` are the leave-one-out ratios of :func:`pyro_ext.ops.sets.first_and_second_log_ratios`, which
    have no gradient. A set that covers the domain gives the exact gradient; ``k = 1`` is
    :class:`pyro.infer.Trace_ELBO`, without a baseline (there the built-in one would be biased).

    All discrete sites must lie in the same plates, and each element of the plates has a set of its own. The traces
    lie along one dim to the left of all plates, so model and guide must broadcast as they do for
    :class:`pyro.infer.TraceEnum_ELBO`. A reparameterised site that depends on no discrete site is drawn once for
    the whole set; one that depends on some is drawn once per distinct prefix. Apart from the values of its sample
    sites the guide must be the same in every run (no dropout).

    Args:
        num_samples: the number ``k`` of distinct traces in a set.
        baseline: whether to subtract the built-in baseline.
        num_particles: the number of independent sets averaged.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the sets are drawn in one outermost plate or in repeated runs.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_samples`` or ``num_particles`` is not a positive integer.

    References:
        | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020),
        | equations 9 and 15, https://arxiv.org/abs/2002.06043
        | Stochastic beams and where to find them (Kool et al., 2019), https://arxiv.org/abs/1903.06059

    >>> import pyro, pyro.distributions as dist
    >>> logits = torch.zeros(2, requires_grad=True)
    >>> def model():
    ...     a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5)))
    ...     b = pyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
    ...     pyro.sample("x", dist.Normal(a + b, 1.0), obs=torch.tensor(1.0))
    >>> def guide():
    ...     a = pyro.sample("a", dist.Bernoulli(logits=logits[0]))
    ...     pyro.sample("b", dist.Bernoulli(logits=logits[1] - a))
    >>> loss = TraceUnorderedBeam_ELBO(num_samples=4)(model, guide)()
    >>> round(loss.item(), 4)  # four traces are all there are: exact
    1.4197
    """

    _get_trace: Callable[..., Any]
    _get_traces: Callable[..., Any]

    def __init__(
        self,
        num_samples: int = 4,
        baseline: bool = True,
        num_particles: int = 1,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles, **kwargs)
        self.num_samples = positive_int("num_samples", num_samples)
        self.baseline = baseline

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the set's estimate of the negative ELBO; its gradient is the unordered-set estimate.

        Raises:
            NotImplementedError: if a discrete site is inside ``pyro.markov``, the guide holds a site that is
                neither reparameterised nor drawn here, the model a site to be summed out, or the guide is a
                ``GuideMessenger``.
            ValueError: if discrete sites are in different plates, have no finite support, appear for some values
                only, or influence a site outside their plates; if a program does not broadcast over the set.

        Under ``torch.compile`` it runs as it is, uncompiled: the guide stops at each discrete site in turn.
        """
        if torch.compiler.is_compiling():
            return torch.compiler.disable(self._estimate)(model, guide, args, kwargs)
        return self._estimate(model, guide, args, kwargs)

    def _estimate(self, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any) -> Tensor:
        refuse_guide_messenger(guide, self)
        if self.num_samples == 1:
            return total(leave_one_out_loss([traces]) for traces in self._get_traces(model, guide, args, kwargs)) / (
                self.num_particles
            )
        nesting = plate_nesting(self, model, guide, args, kwargs)
        repeats, watch = self.num_particles, ProgramWatch(model, guide, *_BEAMS)
        model, guide = watch.model, watch.guide
        if self.vectorize_particles:
            model, guide = self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
            repeats = 1
        with watch.explaining(args, kwargs):
            sets = [self._set(model, guide, nesting, args, kwargs) for _ in range(repeats)]
        losses = [set_loss(traces, beams, self.baseline, nesting) for traces, beams in sets]
        return checked_loss(total(losses) / self.num_particles, [traces for traces, _ in sets])

    def _set(
        self, model: ModelOrGuide, guide: ModelOrGuide, nesting: int, args: Any, kwargs: Any
    ) -> tuple[tuple[Any, Any], Beams]:
        """Draw a set of traces; return the traces of model and guide that hold it, and its probabilities."""
        beams = Beams.root()
        while True:
            run = BeamGuide(beams, nesting)
            try:
                traces = self._get_trace(model, run(guide), args, kwargs)
            except NextSite as stop:
                site = stop.site
            except RuntimeError as error:
                if not reads_value(error):
                    raise
                raise branching(beams) from error
            else:
                run.check_complete()
                return traces, beams
            run.check_complete()
            beams = expand(beams, site, run.drawn, self.num_samples, nesting)


def set_loss(traces: tuple[Any, Any], beams: Beams, baseline: bool, nesting: int) -> Tensor:
    """Return the negative ELBO of a set of traces, with the unordered-set gradient.

    Args:
        traces: the traces of the model and the guide, run with the values of ``beams``.
        beams: the set of traces, with their log-probabilities.
        baseline: whether to subtract the built-in baseline.
        nesting: the number of plate dims.
    """
    model_trace, guide_trace = traces
    terms = log_weight_terms(model_trace, guide_trace)
    inside = [term for term in terms if _varies(term.value, nesting)]
    for term in inside:
        if not term.plates >= beams.plates:
            raise escape(term.name, beams)
    shared = [term for term in terms if not _varies(term.value, nesting)]
    values = [term.value.detach().sum() for term in shared]
    surrogates = [term.surrogate.sum() for term in shared if term.surrogate is not None]
    if inside:
        set_value, set_surrogate = _set_terms(inside, _score(guide_trace, beams), beams, baseline, nesting)
        values.append(set_value)
        surrogates.append(set_surrogate)
    return value_with_gradient_of(-total(values), -total(surrogates))


def _varies(x: Tensor, nesting: int) -> bool:
    return x.dim() > nesting and x.shape[-1 - nesting] > 1


def _score(guide_trace: Any, beams: Beams) -> Tensor:
    """Return ``log q(s)``, neither scaled nor masked, ``(k,) + plate dims``."""
    for name, site in sample_sites(guide_trace).items():
        if has_score(site) and name not in beams.discrete:
            raise NotImplementedError(
                f"guide site {name!r} is neither reparameterised nor drawn by TraceUnorderedBeam_ELBO; "
                "use Trace_ELBO, or mark a factor of reparameterised draws has_rsample=True"
            )
    return total(score_function(guide_trace.nodes[name]) for name in beams.discrete)


def _set_terms(inside: list[Term], score: Tensor, beams: Beams, baseline: bool, nesting: int) -> tuple[Tensor, Tensor]:
    """Return value and surrogate of the costs that vary over the set."""
    weight, pair_weight = (w.to(score.dtype) for w in _weights(beams))
    dead = weight == 0  # impossible traces, with infinite costs and scores
    cost = total(sum_to(t.value.detach(), beams.plates, nesting) for t in inside).masked_fill(dead, 0.0)
    finite = torch.where(cost.isfinite().all(0), cost, 0.0)  # no gradient where a trace is impossible in the model
    signal = finite - (pair_weight * finite.unsqueeze(0)).sum(1) if baseline else finite
    surrogate = (weight * signal * score.masked_fill(dead, 0.0)).sum()
    for term in inside:
        if term.surrogate is not None:
            pathwise = sum_to(term.surrogate, beams.plates, nesting).masked_fill(dead, 0.0)
            surrogate = surrogate + (weight * pathwise).sum()
    return (weight * cost).sum(), surrogate


def _weights(beams: Beams) -> tuple[Tensor, Tensor]:
    """Return ``p_s R(S, s)``, ``(k,) + plate dims``, and ``p_s' R^{D-s}(S, s')``, ``(k, k) + plate dims``."""
    first, second = first_and_second_log_ratios(beams.log_prob, beams.log_rest)
    weight = (beams.log_prob + first).exp().movedim(-1, 0)
    pair_weight = (beams.log_prob.unsqueeze(-2) + second).exp()
    return weight, pair_weight.movedim((-2, -1), (0, 1))
