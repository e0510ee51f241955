r"""Matching of points with noisy observations of them in an unknown order.

.. math::  X \sim p(X), \qquad Y \mid X \sim N(X C, \sigma^2 I), \qquad q(X) = \prod_i q(X_i; \theta_i),

for every problem i, with N points as the rows of C and observations as the rows of Y. Each problem has variational
parameters of its own, and a batch of problems trains in one step.

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
    | https://arxiv.org/abs/1710.09508, section 5.1
"""

from __future__ import annotations

from typing import Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.nn import PyroModule

from pyro_ext.datasets.point_matching import PointProblems
from pyro_ext.distributions.permutations.rounding import Gradient
from pyro_ext.inference.fit.built import Built
from pyro_ext.models.permutation_matching.laws import Family, LocalGuide, Method, Settings, family
from pyro_ext.models.permutation_matching.points_assessment import Assessment, best_matching
from pyro_ext.utils.checks import positive_int

__all__ = ["Guide", "Model", "Start", "build_points"]

Start = Literal["uniform", "map"]
"""Where the laws start: in the centre of all permutations, or near each problem's best matching."""

_REMARKS = (
    "Each problem has a law of its own, so metrics are of the problems trained on; what is held out is their true "
    "permutations. `hellinger` is the distance of these laws to the exact posteriors, 0 to 1; `accuracy` cannot "
    "exceed `posterior_accuracy` but by chance."
)


class Model(PyroModule):
    """The prior of the permutations and the law of the observations.

    Args:
        size: the number of problems that the plate stands for; a batch of b is scaled by size / b.
        laws: the family of variational laws, which decides on the prior.
        noise: the standard deviation of the observations.

    Example:
        >>> from pyro_ext.models.permutation_matching.laws import family
        >>> model = Model(200, family("matching", size=6), noise=0.5)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(50, 2, 6, 2))
        >>> trace.nodes["permutation"]["value"].shape, trace.nodes["observed"]["scale"]
        (torch.Size([50, 6, 6]), 4.0)
    """

    def __init__(self, size: int, laws: Family, noise: float) -> None:
        super().__init__()
        self.size = size
        self.laws = laws
        self.noise = noise

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sample the permutations, observe the observations and return the matrices X, ``(..., B, N, N)``.

        Args:
            x: points and observations, ``(B, 2, N, 2)``.
            y: the true permutations, of no use here.
            index: the problems' places in the data set, ``(B,)``.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        with data_plate(self.size, x, self.laws.size, index):
            points, observed = x.unbind(1)
            matrix = self.laws.matrix(pyro.sample("permutation", self.laws.prior(x)))
            pyro.sample("observed", dist.Normal(matrix @ points, self.noise).to_event(2), obs=observed)
        return matrix


class Guide(LocalGuide):
    """A variational law for every problem.

    Args:
        laws: the family.
        num_items: the number of problems.

    Example:
        >>> from pyro_ext.models.permutation_matching.laws import family
        >>> guide = Guide(family("rounding", size=6), num_items=200)
        >>> guide(torch.zeros(2, 2, 6, 2), index=torch.tensor([198, 199])).shape
        torch.Size([2, 6, 6])
    """

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sample the permutations of problems ``(B, 2, N, 2)`` at the places ``index``; all in order if None."""
        with data_plate(self.num_items, x, self.laws.size, index) as places:
            return pyro.sample("permutation", self.posterior(places))


def data_plate(size: int, x: torch.Tensor, num_points: int, index: torch.Tensor | None) -> pyro.plate:
    """Return the plate of the problems, as subsampled by ``index``; by the first ones if None."""
    if x.dim() != 4 or x.shape[1:] != (2, num_points, 2):
        raise ValueError(f"x must have shape (batch, 2, {num_points}, 2), got {tuple(x.shape)}")
    subsample = torch.arange(len(x), device=x.device) if index is None else index
    return pyro.plate("problems", size, subsample=subsample, dim=-1)


def build_points(
    data: PointProblems,
    method: Method = "rounding",
    temperature: float = 1.0,
    min_scale: float = 0.1,
    max_scale: float | None = None,
    prior_scale: float = 0.55,
    prior_temperature: float = 0.5,
    num_iterations: int | None = 10,
    gradient: Gradient = "pathwise",
    num_samples: int | None = None,
    start: Start = "map",
    evaluation_samples: int = 1000,
    evaluation_seed: int = 0,
) -> Built:
    """Build the model of point problems and its guide.

    Train it with all problems in a batch and a large learning rate: the defaults are made for 150 steps of Adam at
    0.1. Relaxed laws train with ``Trace_ELBO``, exact ones with ``TraceUnorderedSet_ELBO``. Metrics are those of
    :meth:`~pyro_ext.models.permutation_matching.points_assessment.Assessment.metrics`.

    Args:
        data: the problems.
        method: the family of laws.
        temperature: of relaxed laws, at most 1 for rounding.
        min_scale: the least standard deviation of the noise of rounding and stick-breaking.
        max_scale: the largest one; 0.25, or 1 for stick-breaking, if None.
        prior_scale: the standard deviation of their prior around 0 and 1.
        prior_temperature: of the prior of Gumbel-Sinkhorn.
        num_iterations: of Sinkhorn scaling; to a tolerance of 1e-8 if None.
        gradient: how gradients pass through rounding.
        num_samples: permutations per problem and step, 4 relaxed or 16 exact ones if None.
        start: near the best matching, or in the centre of all permutations.
        evaluation_samples: permutations drawn for each problem to evaluate relaxed laws; 1000 of them make
            ``hellinger`` too large by up to 0.03 where posteriors are wide (N = 6, noise 0.75).
        evaluation_seed: the seed of those draws.

    Raises:
        ValueError: if an option is out of range, or the parts of the data hold different problems.
    """
    _check(data, start)
    size, n = len(data.train), data.train.x.shape[2]
    if max_scale is None:
        max_scale = 1.0 if method == "stick_breaking" else 0.25
    settings = Settings(temperature, min_scale, max_scale, prior_scale, prior_temperature, num_iterations, gradient)
    laws = family(method, n, settings)
    positive_int("evaluation_samples", evaluation_samples)
    elbo = _elbo(laws, num_samples)
    # Modules made under local parameters serve engines that use them and users who do not.
    with pyro.settings.context(module_local_params=True):
        model, guide = Model(size, laws, data.noise), Guide(laws, size)
    if start == "map":
        guide.start_near(best_matching(data.train.x))
    found = Assessment(guide, data.noise, evaluation_samples, evaluation_seed)
    return Built(
        model=model,
        guide=guide,
        elbo=elbo,
        evaluate=found.metrics,
        plots=found.plots(data.train.x),
        remarks=_REMARKS,
    )


def _elbo(laws: Family, num_samples: int | None) -> ELBO:
    from pyro_ext.inference import TraceUnorderedSet_ELBO

    if laws.relaxed:
        number = positive_int("num_samples", 4 if num_samples is None else num_samples)
        return Trace_ELBO(num_particles=number, vectorize_particles=True, max_plate_nesting=1)
    number = positive_int("num_samples", 16 if num_samples is None else num_samples)
    return TraceUnorderedSet_ELBO(num_samples=number, max_plate_nesting=1)


def _check(data: PointProblems, start: str) -> None:
    if start not in get_args(Start):
        raise ValueError(f"start must be one of {', '.join(get_args(Start))}; got {start!r}")
    x = data.train.x
    if x.dim() != 4 or x.shape[1] != 2 or x.shape[3] != 2:
        raise ValueError(f"data.train.x must have shape (num_problems, 2, N, 2), got {tuple(x.shape)}")
    for name, part in (("valid", data.valid), ("test", data.test)):
        if part is not None and not torch.equal(part.x, x):
            raise ValueError(f"data.{name} must hold the problems of data.train: parameters belong to a problem")
