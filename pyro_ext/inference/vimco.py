"""The multi-sample bound for discrete latent variables, with a leave-one-out control variate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.ops.provenance import get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ext.inference._leave_one_out import leave_one_out_loss, refuse_enumeration
from pyro_ext.inference._programs import ProgramWatch
from pyro_ext.inference._traces import (
    Plates,
    SharedSubsample,
    Term,
    common_plates,
    has_score,
    log_weight_terms,
    plate_nesting,
    refuse_guide_messenger,
    sample_sites,
    score_function,
    subsampling_scale,
    sum_to,
)
from pyro_ext.inference.elbo import DifferentiableELBO, ModelOrGuide, checked_loss, value_with_gradient_of
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["TraceVIMCO_ELBO"]

_PARTICLE_PLATE = "num_particles_vectorized"  # the name Pyro gives it
_PARTICLES = (
    "the particles, an extra dim on the left of every value",
    "Write it so that it does, or use vectorize_particles=False, which runs it once per particle",
)
_LATENT = frozenset({"latent"})

Traces = tuple[Any, Any]


class TraceVIMCO_ELBO(DifferentiableELBO, Trace_ELBO):
    r"""The multi-sample bound of importance weighted autoencoders, with low-variance gradients for any guide.

    .. math::

        \mathcal{L}_K = \mathbb{E}_{z^1 \ldots z^K \sim q} \Big[ \log \frac{1}{K} \sum_{k=1}^K w_k \Big],
        \qquad w_k = \frac{p(x, z^k)}{q(z^k)}.

    The gradient for particle ``k`` of a site that is not reparameterised is its score times the bound minus the
    same bound with :math:`w_k` replaced by the geometric mean of the other weights, plus the
    :math:`-\tilde w_k \nabla \log q(z^k)` of the weight itself, which unlike in the ELBO has no mean of zero.
    Reparameterised sites and model parameters get the pathwise gradient.

    The logarithm of the mean weight is taken *inside* every plate common to all latent sites: where all latents
    are local, each datum has a bound of its own (much tighter than the bound of the whole batch, and unbiased
    under subsampling, whose scale multiplies from outside). Other plates, sequential ones included, are summed
    first. An observed site that depends on the latents but lies outside such a plate ties its data together, and
    the bound is then taken outside that plate; one that does not depend on them is added to the bound as it is.

    One particle is the ordinary ELBO with REINFORCE, as :class:`pyro.infer.Trace_ELBO` computes it, with the terms
    of auxiliary guide sites.

    Args:
        num_particles: the number ``K`` of particles.
        max_plate_nesting: the number of plate dims; guessed from one run when infinite.
        vectorize_particles: whether the particles are one outermost plate, in one run of model and guide, which is
            fast and needs a program whose operations broadcast over dims on the left; otherwise model and guide run
            ``K`` times, whatever they do, and share the data drawn by subsampling plates.
        **kwargs: passed on to :class:`pyro.infer.ELBO`.

    Raises:
        ValueError: if ``num_particles`` is not a positive integer, or a latent site is missing in the guide; with
            ``vectorize_particles``, naming the site at which a program does not broadcast.
        NotImplementedError: if a model site is marked ``infer={"enumerate": ...}`` and not in the guide.

    References:
        | Variational inference for Monte Carlo objectives (Mnih and Rezende, 2016), equations 3 to 10
        | https://arxiv.org/abs/1602.06725

    >>> import pyro, pyro.distributions as dist
    >>> def model():
    ...     z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
    ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
    >>> def guide():
    ...     pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
    >>> exact = -math.log(0.5 * (1 + math.exp(-0.5))) + 0.5 * math.log(2 * math.pi)
    >>> many = TraceVIMCO_ELBO(num_particles=100_000, vectorize_particles=True).loss(model, guide)
    >>> abs(many - exact) < 0.005
    True
    """

    _get_traces: Callable[..., Any]
    _get_vectorized_trace: Callable[..., Any]

    def __init__(
        self,
        num_particles: int = 2,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles, **kwargs)

    def differentiable_loss(self, model: ModelOrGuide, guide: ModelOrGuide, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative multi-sample bound; its gradient is the VIMCO estimate.

        Raises:
            NotImplementedError: if the guide is a ``GuideMessenger``.
            ValueError: if a latent model site is absent from the guide.
        """
        refuse_guide_messenger(guide, self)
        if self.num_particles == 1:
            return leave_one_out_loss(list(self._checked_traces(model, guide, args, kwargs)))
        nesting = plate_nesting(self, model, guide, args, kwargs)
        run = self._run_vectorized if self.vectorize_particles else self._run_looped
        particles, traces = run(nesting, model, guide, args, kwargs)
        return checked_loss(_loss(particles), traces)

    def _checked_traces(self, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any) -> Iterator[Traces]:
        for traces in self._get_traces(model, guide, args, kwargs):
            refuse_enumeration("TraceVIMCO_ELBO", *traces)
            yield traces

    def _run_vectorized(
        self, nesting: int, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any
    ) -> tuple[_Particles, list[Traces]]:
        dependence = _ParticleDependence(self.num_particles)
        watch = ProgramWatch(model, guide, *_PARTICLES)
        with watch.explaining(args, kwargs):
            traces = self._get_vectorized_trace(dependence(watch.model), watch.guide, args, kwargs)
        refuse_enumeration("TraceVIMCO_ELBO", *traces)
        terms = [_without_particle_plate(term) for term in log_weight_terms(*traces)]
        plates = _bound_plates(terms, dependence.sites(-nesting))
        totals = _totals(terms, traces[1], plates, nesting - 1)
        log_weight, score = _in_one_shape(totals, (self.num_particles, *(1,) * (nesting - 1)))
        return _Particles(log_weight, score, totals.outside, subsampling_scale(plates)), [traces]

    def _run_looped(
        self, nesting: int, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any
    ) -> tuple[_Particles, list[Traces]]:
        shared = SharedSubsample()
        traces = list(self._checked_traces(shared(model), shared(guide), args, kwargs))
        terms = [log_weight_terms(*pair) for pair in traces]
        plates = _bound_plates([term for run in terms for term in run], set())
        dependent: set[str] = set()
        seen: set[str] = set()
        for run, (_, guide_trace) in zip(terms, traces, strict=True):
            strays = {term.name for term in run if not term.plates >= plates} - seen
            if strays:
                dependent |= _dependent_sites(shared(model), guide_trace, strays, args, kwargs)
            seen |= strays
        plates = _bound_plates([term for run in terms for term in run], dependent)
        totals = [_totals(run, pair[1], plates, nesting) for run, pair in zip(terms, traces, strict=True)]
        shaped = [_in_one_shape(total, (1,) * nesting) for total in totals]
        log_weight, score = (torch.stack(torch.broadcast_tensors(*column)) for column in zip(*shaped, strict=True))
        outside = torch.stack([total.outside for total in totals]).mean(0)
        return _Particles(log_weight, score, outside, subsampling_scale(plates)), traces


class _Particles(NamedTuple):
    """What the bound is made of.

    Attributes:
        log_weight: the log-weights, ``(K,) + plate dims``, without the subsampling scale of the bound's plates.
        score: the log-probabilities of the sites that are not reparameterised, in the shape of ``log_weight``.
        outside: the terms that are added to the bound as they are, ``()``.
        scale: the subsampling scale of the bound's plates.
    """

    log_weight: Tensor
    score: Tensor
    outside: Tensor
    scale: Any


def _without_particle_plate(term: Term) -> Term:
    return term._replace(plates=frozenset(f for f in term.plates if f.name != _PARTICLE_PLATE))


def _bound_plates(terms: list[Term], dependent: set[str]) -> Plates:
    """Return the plates inside which the bound is taken: those around all latent and all dependent sites."""
    return common_plates(term.plates for term in terms if term.latent or term.name in dependent)


class _Totals(NamedTuple):
    """What one pair of traces adds to the bound; the first two still have shapes of their own.

    Attributes:
        log_weight: the sum of the log-weight's terms inside the bound's plates.
        score: the log-probabilities of the sites that are not reparameterised.
        outside: the sum of the terms outside the bound's plates, ``()``.
    """

    log_weight: Tensor
    score: Tensor
    outside: Tensor


def _totals(terms: list[Term], guide_trace: Any, plates: Plates, nesting: int) -> _Totals:
    """Return log weight, score and the sum of what lies outside ``plates`` for one pair of traces."""
    like = terms[0].value if terms else torch.zeros(())
    scale = subsampling_scale(plates)
    log_weight, score, outside = like.new_zeros(()), like.new_zeros(()), like.new_zeros(())
    for term in terms:
        if term.plates >= plates:
            log_weight = log_weight + sum_to(term.value, plates, nesting) / scale
        else:
            copies = term.value.shape[: term.value.dim() - nesting].numel() if term.value.dim() > nesting else 1
            outside = outside + term.value.sum() / copies
    for site in sample_sites(guide_trace).values():
        if has_score(site):
            score = score + sum_to(score_function(site), plates, nesting)
    return _Totals(log_weight, score, outside)


def _in_one_shape(totals: _Totals, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return log weight and score, both in the shape to which they broadcast together with ``shape``.

    A score that is a scalar because the site is outside all plates, and a log-weight with the dims of a plate that
    was summed, stand for the same number of data; only shapes that agree may be stacked.
    """
    shape = broadcast_shapes(totals.log_weight.shape, totals.score.shape, shape)
    return totals.log_weight.expand(shape), totals.score.expand(shape)


def _loss(particles: _Particles) -> Tensor:
    """Return the negative bound, with the gradient of equation 5 and the control variate of equations 7 to 10."""
    log_weight = particles.log_weight.detach()
    num_particles = log_weight.shape[0]
    bound = log_weight.logsumexp(0) - math.log(num_particles)
    normalised = (log_weight - log_weight.logsumexp(0)).exp().nan_to_num(0.0)  # all weights zero: no gradient
    pathwise = particles.log_weight.masked_fill(normalised == 0, 0.0) * normalised
    signal = bound - _leave_one_out_bound(log_weight)
    signal = signal.masked_fill(bound == -math.inf, 0.0)
    surrogate = (signal * particles.score + pathwise).sum() * particles.scale + particles.outside
    value = bound.sum() * particles.scale + particles.outside
    return value_with_gradient_of(-value, -surrogate)


def _leave_one_out_bound(log_weight: Tensor) -> Tensor:
    """Return the bound with each weight replaced by the geometric mean of the others, 0 where that is no number.

    Sums over the others are a prefix and a suffix, so nothing is subtracted.

    Args:
        log_weight: ``(K,) + plate dims`` with ``K`` at least 2.

    Returns:
        A tensor of the same shape; entry ``k`` does not depend on ``log_weight[k]``.
    """
    num_particles = log_weight.shape[0]
    mean = _of_others(log_weight, torch.cumsum, 0.0, torch.add) / (num_particles - 1)
    log_sum = _of_others(log_weight, torch.logcumsumexp, -math.inf, torch.logaddexp)
    bound = torch.logaddexp(log_sum, mean) - math.log(num_particles)
    return bound.masked_fill(bound == -math.inf, 0.0)


def _of_others(x: Tensor, scan: Any, empty: float, join: Any) -> Tensor:
    """Return, for each entry of dim 0, the scans of the entries before it and after it, joined."""
    nothing = torch.full_like(x[:1], empty)
    before = torch.cat([nothing, scan(x[:-1], 0)])
    after = torch.cat([scan(x[1:].flip(0), 0).flip(0), nothing])
    return join(before, after)


class _ParticleDependence(Messenger):
    """Records which sites vary over the particles, seen from inside the particle plate.

    The plate is about to expand every distribution. Before it does, only distributions computed from a latent value
    have a batch dim of the plate's size.

    Args:
        size: the number of particles.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._leading: dict[str, list[torch.Size]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn, value = msg["fn"], msg["value"]
        shapes = [getattr(fn, "batch_shape", torch.Size())]
        if isinstance(value, Tensor):
            shapes.append(value.shape[: value.dim() - getattr(fn, "event_dim", 0)])
        shapes += [x.shape for x in (msg["mask"], msg["scale"]) if isinstance(x, Tensor)]
        self._leading[msg["name"]] = shapes

    def sites(self, particle_dim: int) -> set[str]:
        """Return the names of the sites that vary along ``particle_dim`` (negative)."""
        return {
            name
            for name, shapes in self._leading.items()
            if any(len(shape) >= -particle_dim and shape[particle_dim] == self._size for shape in shapes)
        }


def _dependent_sites(model: ModelOrGuide, guide_trace: Any, names: Iterable[str], args: Any, kwargs: Any) -> set[str]:
    """Return those of ``names`` whose log-probability depends on a latent value, by one more run of the model."""
    tracked = guide_trace.copy()
    for name, site in sample_sites(guide_trace).items():
        tracked.nodes[name] = {**site, "value": track_provenance(site["value"].detach(), _LATENT)}
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(poutine.replay(model, trace=tracked)).get_trace(*args, **kwargs)
        trace.compute_log_prob(lambda name, site: name in names)
    return {name for name in names if get_provenance(trace.nodes[name]["log_prob"])}
