"""The model of matching problems, its guide, and how they are trained."""

from __future__ import annotations

from typing import Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.nn import PyroModule

from pyro_ext.datasets import PointProblems
from pyro_ext.inference import OptimizerSettings, TraceUnorderedSet_ELBO, TrainingPlan
from pyro_ext.models.point_matching.evaluation import Evaluation, best_matching
from pyro_ext.models.toolkit import data_plate, mean_metrics
from pyro_ext.models.toolkit.permutations import (
    ExactStickBreakingFamily,
    MatchingFamily,
    PermutationFamily,
    PermutationGuide,
)
from pyro_ext.models.toolkit.relaxed_permutations import (
    GumbelSinkhornFamily,
    GumbelSinkhornSettings,
    RoundingFamily,
    RoundingSettings,
    StickBreakingFamily,
    StickBreakingSettings,
)
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["Guide", "Method", "Model", "Start", "build"]

Method = Literal["rounding", "stick_breaking", "gumbel_sinkhorn", "exact_stick_breaking", "matching"]
"""Name of a family of variational distributions: three relaxed ones, two exact ones."""

Start = Literal["uniform", "map"]
"""Where training starts: in the centre of all permutations, or near each problem's most probable permutation."""

_ROUNDING = RoundingSettings()
_STICK_BREAKING = StickBreakingSettings()
_GUMBEL_SINKHORN = GumbelSinkhornSettings()
_REMARKS = (
    "Each problem has variational parameters of its own, so metrics are of the problems trained on; what is held out "
    "is their true permutations. `hellinger` is the distance to the exact posteriors, 0 to 1; `accuracy` can only "
    "exceed `posterior_accuracy` by chance."
)


class Model(PyroModule):
    """The prior of the permutations and the distribution of the observations.

    Args:
        size: the number of problems that the plate stands for; a batch of b is scaled by size / b.
        family: the family of variational distributions, which decides on the prior.
        noise: the standard deviation of the observations.

    Example:
        >>> from pyro_ext.models.toolkit.permutations import MatchingFamily
        >>> model = Model(200, MatchingFamily(size=6), noise=0.5)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.zeros(50, 2, 6, 2))
        >>> trace.nodes["permutation"]["value"].shape, trace.nodes["observed"]["scale"]
        (torch.Size([50, 6, 6]), 4.0)
    """

    def __init__(self, size: int, family: PermutationFamily, noise: float) -> None:
        super().__init__()
        self.size = size
        self.family = family
        self.noise = noise

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sample the permutations, observe the observations and return the matrices X, ``(..., B, N, N)``.

        Args:
            x: points and observations, ``(B, 2, N, 2)``.
            y: the true permutations, of no use here.
            index: the problems' places in the data set, ``(B,)``; the first ones if None.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.family.size)
        with data_plate(self.size, x, index, name="problems"):
            points, observed = x.unbind(1)
            matrix = self.family.matrix(pyro.sample("permutation", self.family.prior(x)))
            pyro.sample("observed", dist.Normal(matrix @ points, self.noise).to_event(2), obs=observed)
        return matrix


class Guide(PermutationGuide):
    """A variational distribution for every problem.

    Args:
        family: the family of the distributions.
        num_items: the number of problems.

    Example:
        >>> from pyro_ext.models.toolkit.permutations import MatchingFamily
        >>> guide = Guide(MatchingFamily(size=6), num_items=200)
        >>> guide(torch.zeros(2, 2, 6, 2), index=torch.tensor([198, 199])).shape
        torch.Size([2, 6, 6])
    """

    def forward(
        self, x: torch.Tensor, y: torch.Tensor | None = None, index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Sample permutations, or matrices near them, and return the values of the site, ``(..., B, N, N)``.

        Args:
            x: points and observations, ``(B, 2, N, 2)``.
            y: the true permutations, of no use here.
            index: the problems' places in the data set, ``(B,)``; the first ones if None.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.family.size)
        with data_plate(self.num_items, x, index, name="problems") as places:
            return pyro.sample("permutation", self.posterior(places))


def build(
    data: PointProblems,
    method: Method = "rounding",
    rounding: RoundingSettings = _ROUNDING,
    stick_breaking: StickBreakingSettings = _STICK_BREAKING,
    gumbel_sinkhorn: GumbelSinkhornSettings = _GUMBEL_SINKHORN,
    start: Start = "map",
    evaluation_samples: int = 1000,
    evaluation_seed: int = 0,
) -> TrainingPlan:
    """Build the model of point problems and its guide.

    Train them with all problems in a batch: the defaults are made for 150 steps. Relaxed families are trained by
    ``Trace_ELBO`` with 4 particles, exact ones by ``TraceUnorderedSet_ELBO(num_samples=16)``; ``with_elbo`` of the plan
    takes another one. Metrics are those of :meth:`~pyro_ext.models.point_matching.evaluation.Evaluation.metrics`.

    Args:
        data: the problems.
        method: the family of variational distributions; the last two are exact, the others relaxed.
        rounding: settings of the family ``rounding``.
        stick_breaking: settings of the family ``stick_breaking``.
        gumbel_sinkhorn: settings of the family ``gumbel_sinkhorn``.
        start: whether to start near the most probable permutation, or in the centre of all permutations.
        evaluation_samples: the number of permutations drawn for each problem to evaluate relaxed families; with 1000
            of them ``hellinger`` is too large by up to 0.03 where posteriors are wide (N = 6, noise 0.75).
        evaluation_seed: the seed of the permutations drawn to evaluate.

    Raises:
        ValueError: if the data are no point problems, their parts hold different problems, or an option is out of
            range.
    """
    _check_data(data)
    one_of("start", start, get_args(Start))
    positive_int("evaluation_samples", evaluation_samples)
    size, n = len(data.train), data.train.x.shape[2]
    families: dict[str, PermutationFamily] = {
        "rounding": RoundingFamily(n, rounding),
        "stick_breaking": StickBreakingFamily(n, stick_breaking),
        "gumbel_sinkhorn": GumbelSinkhornFamily(n, gumbel_sinkhorn),
        "exact_stick_breaking": ExactStickBreakingFamily(n),
        "matching": MatchingFamily(n),
    }
    family = families[one_of("method", method, families)]
    model, guide = Model(size, family, data.noise), Guide(family, size)
    if start == "map":
        guide.start_near(best_matching(data.train.x))
    evaluation = Evaluation(guide, data.noise, evaluation_samples, evaluation_seed)
    return TrainingPlan.of(
        model,
        guide,
        _elbo(family),
        optimizer=OptimizerSettings("Adam", lr=0.1),
        evaluate=mean_metrics(guide, evaluation.metrics, evaluation_seed),
        headline="accuracy",
        headline_mode="max",
        plots=evaluation.plots(data.train.x),
        remarks=_REMARKS,
    )


def _elbo(family: PermutationFamily) -> ELBO:
    if family.relaxed:
        return Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    return TraceUnorderedSet_ELBO(num_samples=16, max_plate_nesting=1)


def _check_data(data: PointProblems) -> None:
    if not isinstance(data, PointProblems):
        name = getattr(data, "name", type(data).__name__)
        raise ValueError(f"data must be point problems, got {name!r}; load the data set 'point_matching'")
    x = data.train.x
    if x.dim() != 4 or x.shape[1] != 2 or x.shape[3] != 2:
        raise ValueError(f"data.train.x must have shape (num_problems, 2, N, 2), got {tuple(x.shape)}")
    for name, part in (("valid", data.valid), ("test", data.test)):
        if part is not None and not torch.equal(part.x, x):
            raise ValueError(f"data.{name} must hold the problems of data.train: parameters belong to a problem")


def _check_batch(x: torch.Tensor, num_points: int) -> None:
    if x.dim() != 4 or x.shape[1:] != (2, num_points, 2):
        raise ValueError(f"x must have shape (batch, 2, {num_points}, 2), got {tuple(x.shape)}")
