r"""Gradient estimators measured at the same weights, on the same batch: variance, bias, time.

The figures are those of the gradient of the loss that training sees, minus the bound per data point. The *total
variance* of a group of parameters is the sum of the variances of their components, which is what slows stochastic
optimisation down.

References:
    | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020), section 6
    | https://arxiv.org/abs/2002.06043
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor

from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.sample_sets import TraceSampleSet_ELBO
from pyro_ext.inference.sample_sets.draw import SampleSet, SetOptions
from pyro_ext.inference.training.local import LocalELBOModule, check_elbo, local_params
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.random_state import isolated_random_state, mixed_seed

__all__ = ["ExactELBO", "GradientFigures", "Subject", "compare_gradients", "refusal"]

_ROUNDS = 10  # estimators are measured in turn, so that a change of the machine's load affects all of them
_DIRECTIONS = 8  # the number of random directions along which a bias is looked for, in each group of parameters
_ROUNDING = 64  # the size of rounding errors, in units in the last place


class ExactELBO(TraceSampleSet_ELBO):
    """The ELBO and its gradient by enumeration of all discrete guide sites, whatever their marks say.

    Args:
        max_leaves: the largest number of joint values; a site with more raises a ValueError in use.
        **kwargs: further arguments of :class:`~pyro_ext.inference.TraceSampleSet_ELBO`.

    Example:
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        ...     pyro.sample("x", dist.Normal(z.float(), 1.0), obs=torch.tensor(2.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Categorical(torch.ones(3)), infer={"estimator": "leave_one_out"})
        >>> round(ExactELBO().loss(model, guide), 4)
        1.7523
    """

    def __init__(self, max_leaves: int = 4096, **kwargs: Any) -> None:
        super().__init__(estimator="exact", max_leaves=max_leaves, **kwargs)

    def _draw(self, fn: Any, options: SetOptions) -> SampleSet:
        return super()._draw(fn, replace(options, estimator="exact"))


@dataclass(frozen=True)
class GradientFigures:
    """What was measured of one estimator.

    Args:
        log_variance: group of parameters (``"encoder"``: the guide's, ``"decoder"``: the model's) -> logarithm of the
            total variance; minus infinity where the gradient is exact up to rounding.
        log_variance_error: group of parameters -> standard error of its ``log_variance``.
        milliseconds: the median time of a forward and a backward pass.
        bias_z: the largest deviation of the mean from the exact gradient in standard errors, over the direction of
            the exact gradient and random directions, in each group; ``None`` where the exact gradient is not known.
            An unbiased estimator exceeds 4 in fewer than one comparison out of 500 (at 200 repeats).
    """

    log_variance: dict[str, float]
    log_variance_error: dict[str, float]
    milliseconds: float
    bias_z: float | None = None


class Subject:
    """A model, its guide and a batch, whose loss can be differentiated by one estimator or another.

    Args:
        model: the model, called as ``model(*batch)``: a PyroModule, or a function without parameters.
        guide: the guide, called like the model.
        batch: the arguments of model and guide.
        size: the number that the loss is divided by: the number N of data points, where a plate scales to them.

    Raises:
        ValueError: if model and guide hold no parameters.
    """

    def __init__(self, model: ModelOrGuide, guide: ModelOrGuide, batch: Sequence[Any], size: float = 1.0) -> None:
        self.model, self.guide, self.batch, self.size = model, guide, tuple(batch), size
        module = LocalELBOModule(model, guide, Trace_ELBO())
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        with isolated_random_state(0, device), torch.no_grad(), local_params():
            guide_trace = poutine.trace(guide).get_trace(*self.batch)  # creates lazy parameters
            poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*self.batch)
        groups: dict[str, list[Tensor]] = {"encoder": [], "decoder": []}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                groups["encoder" if name.startswith("guide.") else "decoder"].append(parameter)
        self.groups = {name: parameters for name, parameters in groups.items() if parameters}
        if not self.groups:
            raise ValueError("model and guide hold no parameters to train; make them PyroModules")
        self.parameters = [parameter for parameters in self.groups.values() for parameter in parameters]
        self.device = self.parameters[0].device

    def sizes(self) -> dict[str, int]:
        """Return the number of components of each group's gradient."""
        return {name: sum(p.numel() for p in parameters) for name, parameters in self.groups.items()}

    def gradient(self, elbo: ELBO) -> tuple[dict[str, Tensor], float]:
        """Return one estimate of each group's gradient, as a vector, and the seconds it took."""
        self._wait()
        start = time.perf_counter()
        with local_params():
            loss = elbo.differentiable_loss(self.model, self.guide, *self.batch) / self.size
        gradients = iter(torch.autograd.grad(loss, self.parameters, allow_unused=True))
        self._wait()
        seconds = time.perf_counter() - start
        return {
            name: torch.cat([_flat(next(gradients), parameter) for parameter in parameters])
            for name, parameters in self.groups.items()
        }, seconds

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def refusal(elbo: ELBO, subject: Subject) -> str | None:
    """Return in one line why an estimator cannot be used, or ``None`` if it gives a gradient.

    Args:
        elbo: the estimator.
        subject: the model, the guide and the batch to use it on.
    """
    try:
        check_elbo(elbo)
        with isolated_random_state(0, subject.device):
            subject.gradient(elbo)
    except Exception as error:  # Pyro's ELBOs and users' models raise errors of many types
        lines = str(error).strip().splitlines() or [""]
        plain = isinstance(error, (ValueError, NotImplementedError)) and lines[0]
        return lines[0] if plain else f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
    return None


def compare_gradients(
    elbos: Mapping[str, ELBO],
    subject: Subject,
    *,
    reference: ELBO | None = None,
    repeats: int = 200,
    seed: int = 0,
    advance: Callable[[int], Any] | None = None,
) -> dict[str, GradientFigures]:
    """Measure estimators at the present weights of a model and its guide.

    Gradients are not kept, and no parameter's ``.grad`` is touched. Each estimator sees the same seeds, so its
    figures do not depend on which others are compared.

    Args:
        elbos: the estimators by label.
        subject: the model, the guide and the batch.
        reference: an ELBO with the exact gradient, usually :class:`ExactELBO`; without it there is no ``bias_z``.
            It may be random where the model has reparameterised sites; its gradients are then averaged too.
        repeats: the number of gradients of each estimator.
        seed: the seed of the noise.
        advance: a function that reports progress; it is called with the number of gradients measured since its last
            call.

    Raises:
        ValueError: if ``repeats`` is less than 4.

    Example:
        >>> class Guide(pyro.nn.PyroModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.logits = torch.nn.Parameter(torch.tensor([0.0, 0.5, 1.0]))
        ...     def forward(self):
        ...         pyro.sample("z", dist.Categorical(logits=self.logits))
        >>> def model():
        ...     z = pyro.sample("z", dist.Categorical(torch.ones(3)))
        ...     pyro.sample("x", dist.Normal(z.float(), 1.0), obs=torch.tensor(2.0))
        >>> from pyro_ext.inference import TraceUnorderedSet_ELBO
        >>> elbos = {f"k={k}": TraceUnorderedSet_ELBO(num_samples=k) for k in (2, 3)}
        >>> result = compare_gradients(elbos, Subject(model, Guide(), ()), reference=ExactELBO(), repeats=40)
        >>> {name: figures.log_variance["encoder"] for name, figures in result.items()}
        {'k=2': -2.72, 'k=3': -inf}
        >>> result["k=2"].bias_z < 4
        True
    """
    positive_int("repeats", repeats, minimum=4)
    exact = None if reference is None else _ExactGradient.from_reference(reference, subject, seed)
    measurements = {name: _Measurement(elbo, subject, exact) for name, elbo in elbos.items()}
    known = None
    if reference is not None and exact is not None and exact.noisy:
        known = _Measurement(reference, subject, exact)
    rounds = min(_ROUNDS, repeats // 2)
    for number in range(rounds):
        turns = repeats // rounds + (number < repeats % rounds)
        for measurement in [*measurements.values(), *([known] if known else [])]:
            measurement.run(turns, mixed_seed(seed, number))
            if advance is not None:
                advance(turns)
    return {name: measurement.figures(known) for name, measurement in measurements.items()}


class Moments:
    """Running mean and variance of vectors, in double precision where the device has it; no vector is kept.

    Args:
        size: the length P of the vectors.
        device: the device of the vectors.

    References:
        | Note on a method for calculating corrected sums of squares and products (Welford, 1962)
        | Algorithms for computing the sample variance (Chan, Golub and LeVeque, 1983), for :meth:`merge`
    """

    def __init__(self, size: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.count = 0
        self.mean = torch.zeros(size, dtype=dtype, device=device)
        self.squares = torch.zeros_like(self.mean)

    def add(self, vector: Tensor) -> None:
        """Include one more vector, shape ``(P,)``."""
        self.count += 1
        change = vector.to(self.mean.dtype) - self.mean
        self.mean += change / self.count
        self.squares.addcmul_(change, vector - self.mean)

    def merge(self, other: Moments) -> None:
        """Include all vectors that ``other`` includes."""
        if other.count == 0:
            return
        count = self.count + other.count
        change = other.mean - self.mean
        self.squares += other.squares + change.square() * (self.count * other.count / count)
        self.mean += change * (other.count / count)
        self.count = count

    @property
    def variance(self) -> Tensor:
        """The unbiased variance of every component, shape ``(P,)``; at least two vectors are needed."""
        return self.squares / (self.count - 1)


@dataclass(frozen=True)
class _ExactGradient:
    """The exact gradient, and the unit directions along which a bias is looked for.

    Args:
        center: the exact gradient of each group of parameters, or a first estimate of it.
        directions: the directions of each group as rows, the first along ``center``.
        noisy: whether the reference is random.
    """

    center: dict[str, Tensor]
    directions: dict[str, Tensor]
    noisy: bool

    @classmethod
    def from_reference(cls, reference: ELBO, subject: Subject, seed: int) -> _ExactGradient:
        with isolated_random_state(mixed_seed(seed, _ROUNDS), subject.device):
            first, second = (subject.gradient(reference)[0] for _ in range(2))
            center = {name: (first[name] + second[name]) / 2 for name in first}
            noisy = any(((first[n] - second[n]).norm() > _rounding(center[n])).item() for n in center)
            rows = {
                name: torch.cat([c[None], c.new_empty(_DIRECTIONS, len(c)).normal_()]) for name, c in center.items()
            }
        return cls(center, {name: torch.nn.functional.normalize(u, dim=-1) for name, u in rows.items()}, noisy)

    def deviation(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """Return how far a gradient is from the center, along each direction of each group."""
        return torch.cat([u @ (gradient[name] - self.center[name]) for name, u in self.directions.items()])

    def rounding(self) -> Tensor:
        """Return the size of rounding errors, in the shape of :meth:`deviation`."""
        return torch.cat([_rounding(self.center[n]).expand(len(u)) for n, u in self.directions.items()])


class _Measurement:
    """One estimator and the gradients measured so far."""

    def __init__(self, elbo: ELBO, subject: Subject, exact: _ExactGradient | None) -> None:
        self.elbo, self.subject, self.exact = elbo, subject, exact
        self.moments = self._new_moments()
        self.variances: dict[str, list[Tensor]] = {name: [] for name in self.moments}
        self.seconds: list[float] = []
        number = 0 if exact is None else sum(len(rows) for rows in exact.directions.values())
        self.deviations = Moments(number, subject.device)
        self._eps = torch.finfo(subject.parameters[0].dtype).eps

    def _new_moments(self) -> dict[str, Moments]:
        return {name: Moments(size, self.subject.device) for name, size in self.subject.sizes().items()}

    def run(self, turns: int, seed: int) -> None:
        """Measure some more gradients."""
        own = self._new_moments()
        with isolated_random_state(seed, self.subject.device):
            self.subject.gradient(self.elbo)  # warms the caches after another estimator's turn
        with isolated_random_state(seed, self.subject.device):
            for _ in range(turns):
                gradient, seconds = self.subject.gradient(self.elbo)
                self.seconds.append(seconds)
                for name, vector in gradient.items():
                    own[name].add(vector)
                if self.exact is not None:
                    self.deviations.add(self.exact.deviation(gradient))
        for name, moments in own.items():
            self.variances[name].append(moments.variance.sum())
            self.moments[name].merge(moments)

    def figures(self, known: _Measurement | None) -> GradientFigures:
        """Return what was measured; ``known`` is the measurement of the reference if that is random."""
        log_variance, error = {}, {}
        for name, moments in self.moments.items():
            total = moments.variance.sum()
            rounds = torch.stack(self.variances[name])
            exact = total.sqrt() <= _ROUNDING * self._eps * moments.mean.norm()
            log_variance[name] = -math.inf if exact else total.log().item()
            error[name] = 0.0 if exact else (rounds.std() / total / math.sqrt(len(rounds))).item()
        milliseconds = 1000 * statistics.median(self.seconds)
        return GradientFigures(log_variance, error, milliseconds, self._bias_z(known))

    def _bias_z(self, known: _Measurement | None) -> float | None:
        if self.exact is None:
            return None
        off, variance = self.deviations.mean, self.deviations.variance / self.deviations.count
        if known is not None:
            off = off - known.deviations.mean
            variance = variance + known.deviations.variance / known.deviations.count
        # An exact estimator has no variance, yet its last digits differ from the reference's.
        floor = self.exact.rounding().to(variance.dtype).clamp(min=torch.finfo(variance.dtype).tiny)
        return (off.abs() / (variance + floor.square()).sqrt()).max().item()


def _rounding(vector: Tensor) -> Tensor:
    return _ROUNDING * torch.finfo(vector.dtype).eps * vector.norm()


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return parameter.new_zeros(parameter.numel()) if gradient is None else gradient.reshape(-1)
