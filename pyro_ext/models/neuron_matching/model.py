"""The model of the worms' activity, its guide, and how they are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer import TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_ext.datasets import WormRecordings
from pyro_ext.datasets.worms import lag_moments, simulate_activity
from pyro_ext.inference import OptimizerSettings, TrainingPlan
from pyro_ext.models.neuron_matching.evaluation import Evaluation
from pyro_ext.models.toolkit import data_plate
from pyro_ext.models.toolkit.permutations import PermutationFamily, PermutationGuide
from pyro_ext.models.toolkit.relaxed_permutations import (
    GumbelSinkhornFamily,
    GumbelSinkhornSettings,
    RoundingFamily,
    RoundingSettings,
)
from pyro_ext.ops.assignment import has_perfect_matching
from pyro_ext.utils.checks import one_of, positive_int, positive_number

__all__ = ["Guide", "LinearDynamics", "Method", "Model", "build"]

Method = Literal["rounding", "gumbel_sinkhorn"]
"""Name of a relaxed family of variational distributions."""

# The publication bounds the variance of rounding by 0.005 and has a prior variance of 0.1.
_ROUNDING = RoundingSettings(min_scale=1e-4, max_scale=0.07, prior_scale=0.3)
_GUMBEL_SINKHORN = GumbelSinkhornSettings(prior_temperature=1.0)
_INITIAL_WEIGHT_SCALE = 0.05
_REMARKS = (
    "Each worm has variational parameters of its own, so metrics are of the worms trained on; what is held out is "
    "which neuron is which. `accuracy` is that of neurons with several candidates, `accuracy_all` counts the others "
    "too, as published."
)


class Model(PyroModule):
    """The priors of weights and permutations, and the dynamics.

    Args:
        data: the recordings: their connections, candidates and number of time steps.
        family: the family of variational distributions, which decides on the prior of the permutations.
        weight_scale: the standard deviation of the prior of the weights.

    Example:
        >>> from pyro_ext.datasets import simulated_worms
        >>> data = simulated_worms(num_worms=2)
        >>> model = Model(data, RoundingFamily(20, RoundingSettings()))
        >>> trace = pyro.poutine.trace(model).get_trace(data.train.x[:1])
        >>> trace.nodes["weights"]["value"].shape, trace.nodes["permutation"]["value"].shape
        (torch.Size([120]), torch.Size([1, 20, 20]))
    """

    candidates: Tensor
    connections: Tensor
    like: Tensor

    def __init__(self, data: WormRecordings, family: PermutationFamily, weight_scale: float = 1.0) -> None:
        super().__init__()
        self.family = family
        self.size = len(data.train)
        self.num_steps = data.num_steps
        self.weight_scale = weight_scale
        self.register_buffer("candidates", data.candidates, persistent=False)
        self.register_buffer("connections", data.connectome.flatten().nonzero().squeeze(-1), persistent=False)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample weights and permutations, observe the moments, and return the matrices X, ``(..., B, N, N)``.

        Args:
            x: moments of the activity, ``(B, 2N, 2N)``.
            y: the true identities, of no use here.
            index: the worms' places in the data set, ``(B,)``; the first ones if None.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.family.size)
        prior = dist.Normal(self.like, self.weight_scale).expand([len(self.connections)]).to_event(1)
        weights = self.weight_matrix(pyro.sample("weights", prior))
        with data_plate(self.size, x, index, name="worms") as worms:
            candidates = self.candidates[worms]
            site = pyro.sample("permutation", self.family.prior(self.like, candidates))
            matrix = _with_known(self.family.matrix(site, candidates), candidates)
            transition = matrix @ weights @ matrix.mT
            pyro.sample("activity", LinearDynamics(transition, self.num_steps), obs=x)
        return matrix

    def weight_matrix(self, weights: Tensor) -> Tensor:
        """Return the matrix W, ``(..., N, N)``, for the weights of the connections, ``(..., E)``."""
        n = self.family.size
        empty = weights.new_zeros(*weights.shape[:-1], n * n)
        return empty.index_copy(-1, self.connections, weights).unflatten(-1, (n, n))


class Guide(PermutationGuide):
    """A Gaussian for each weight and a distribution of the permutation for each worm.

    Args:
        data: the recordings, as for the model.
        family: the family of the distributions of permutations.
        weight_unit: the means of the Gaussians are this number times their parameters. Below 1, weights change more
            slowly than everything else under an optimiser with steps of a fixed size, such as Adam.

    Example:
        >>> from pyro_ext.datasets import simulated_worms
        >>> data = simulated_worms(num_worms=2)
        >>> guide = Guide(data, GumbelSinkhornFamily(20, GumbelSinkhornSettings()))
        >>> guide(data.train.x[:1], index=torch.tensor([1])).shape, guide.weights().batch_shape
        (torch.Size([1, 20, 20]), torch.Size([120]))
    """

    candidates: Tensor

    def __init__(self, data: WormRecordings, family: PermutationFamily, weight_unit: float = 1.0) -> None:
        super().__init__(family, len(data.train))
        num_connections = int(data.connectome.sum())
        self.weight_unit = weight_unit
        self.weight_loc = nn.Parameter(torch.zeros(num_connections))
        self.weight_log_scale = nn.Parameter(torch.full((num_connections,), math.log(_INITIAL_WEIGHT_SCALE)))
        self.register_buffer("candidates", data.candidates, persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample weights and permutations, and return the values of the permutations' site, ``(..., B, N, N)``.

        Args:
            x: moments of the activity, ``(B, 2N, 2N)``.
            y: the true identities, of no use here.
            index: the worms' places in the data set, ``(B,)``; the first ones if None.

        Raises:
            ValueError: if ``x`` has another shape.
        """
        _check_batch(x, self.family.size)
        pyro.sample("weights", self.weights().to_event(1))
        with data_plate(self.num_items, x, index, name="worms") as worms:
            return pyro.sample("permutation", self.posterior(worms, self.candidates[worms]))

    def weights(self) -> Any:
        """Return the distribution of the weights, batch shape ``(E,)``."""
        return dist.Normal(self.weight_unit * self.weight_loc, self.weight_log_scale.exp())


class LinearDynamics(TorchDistribution):
    r"""Activity of N neurons that follow a linear model of first order with standard Gaussian noise.

    .. math::

        \log p(y_1 \dots y_T \mid y_0) = -\tfrac12 \left[ \mathrm{tr}\, S_{11} - 2 \langle A, S_{10} \rangle
        + \langle A S_{00}, A \rangle + T N \log 2\pi \right], \qquad S_{ab} = \sum_t y_{t-1+a} y_{t-1+b}^\top.

    A value holds the moments, as :func:`~pyro_ext.datasets.worms.lag_moments` returns them, so that the cost does not
    depend on T. Its log-probability is that of any activity with these moments.

    Args:
        transition: the matrix A, ``batch_shape + (N, N)``.
        num_steps: the number T of time steps.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if ``transition`` is no batch of square matrices or ``num_steps`` no positive integer.

    Example:
        >>> d = LinearDynamics(0.5 * torch.eye(2), num_steps=100)
        >>> d.log_prob(d.sample())
        tensor(-276.0079)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"transition": constraints.independent(constraints.real, 2)}
    support: ClassVar[Any] = constraints.independent(constraints.real, 2)

    def __init__(self, transition: Tensor, num_steps: int, validate_args: bool | None = None) -> None:
        if transition.dim() < 2 or transition.shape[-1] != transition.shape[-2]:
            raise ValueError(f"transition must have shape batch_shape + (N, N), got {tuple(transition.shape)}")
        self.transition = transition
        self.num_steps = positive_int("num_steps", num_steps)
        size = 2 * transition.shape[-1]
        super().__init__(transition.shape[:-2], torch.Size([size, size]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameter broadcast to ``batch_shape``."""
        new = self._get_checked_instance(LinearDynamics, _instance)
        batch_shape = torch.Size(batch_shape)
        new.transition = self.transition.expand(batch_shape + self.transition.shape[-2:])
        new.num_steps = self.num_steps
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Simulate activity from a standard Gaussian start and return its moments, ``(..., 2N, 2N)``."""
        return lag_moments(simulate_activity(self.transition, self.num_steps, sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of activity with these moments, ``(..., 2N, 2N)``."""
        if self._validate_args:
            self._validate_sample(value)
        n = self.transition.shape[-1]
        cross, before = value[..., :n, n:], value[..., n:, n:]
        now = value[..., :n, :n].diagonal(dim1=-2, dim2=-1).sum(-1)
        fit = (self.transition * (self.transition @ before - 2 * cross)).sum((-2, -1))
        return -0.5 * (now + fit + self.num_steps * n * math.log(2 * math.pi))


def build(
    data: WormRecordings,
    method: Method = "rounding",
    rounding: RoundingSettings = _ROUNDING,
    gumbel_sinkhorn: GumbelSinkhornSettings = _GUMBEL_SINKHORN,
    weight_scale: float = 1.0,
    weight_unit: float = 0.2,
    evaluation_samples: int = 32,
    evaluation_seed: int = 0,
) -> TrainingPlan:
    r"""Build the model of the worms and its guide.

    Train them with all worms in a batch, for 200 steps in the publication. The ELBO is ``TraceMeanField_ELBO`` with one
    particle; ``with_elbo`` of the plan takes another one. Metrics are those of
    :meth:`~pyro_ext.models.neuron_matching.evaluation.Evaluation.metrics`, if the true identities are known.

    Args:
        data: the recordings.
        method: the family of the distributions of permutations.
        rounding: settings of the family ``rounding``.
        gumbel_sinkhorn: settings of the family ``gumbel_sinkhorn``.
        weight_scale: the standard deviation of the prior of the weights.
        weight_unit: the means of the weights take steps this many times as large as all other parameters.
        evaluation_samples: the number of permutations drawn for each worm to evaluate.
        evaluation_seed: the seed of the permutations drawn to evaluate.

    Raises:
        ValueError: if the data are no recordings of worms, an option is out of range, or the candidates of a worm hold
            no permutation.
    """
    if not isinstance(data, WormRecordings):
        name = getattr(data, "name", type(data).__name__)
        raise ValueError(
            f"data must be recordings of worms, got {name!r}; load the data set 'simulated_worms' or 'celegans'"
        )
    positive_number("weight_scale", weight_scale)
    positive_number("weight_unit", weight_unit)
    positive_int("evaluation_samples", evaluation_samples)
    if not bool(has_perfect_matching(data.candidates).all()):
        raise ValueError("data.candidates must hold a permutation for each worm: allow more cells")
    n = len(data.connectome)
    families: dict[str, PermutationFamily] = {
        "rounding": RoundingFamily(n, rounding),
        "gumbel_sinkhorn": GumbelSinkhornFamily(n, gumbel_sinkhorn),
    }
    family = families[one_of("method", method, families)]
    model, guide = Model(data, family, weight_scale), Guide(data, family, weight_unit)
    evaluation = Evaluation(guide, data.candidates, evaluation_samples, evaluation_seed)
    labelled = data.valid.y is not None
    return TrainingPlan.of(
        model,
        guide,
        TraceMeanField_ELBO(max_plate_nesting=1),
        optimizer=OptimizerSettings("Adam", lr=0.1),
        evaluate=evaluation.metrics if labelled else None,
        headline="accuracy" if labelled else "",
        headline_mode="max",
        plots=evaluation.plots(data.valid.y),
        remarks=_REMARKS if labelled else "",
    )


def _with_known(matrix: Tensor, candidates: Tensor) -> Tensor:
    """Return the matrices with a one in cells that are the only candidate of their row."""
    return torch.where(candidates & (candidates.sum(-1, keepdim=True) == 1), 1, matrix)


def _check_batch(x: Tensor, num_neurons: int) -> None:
    if x.dim() != 3 or x.shape[1:] != (2 * num_neurons, 2 * num_neurons):
        raise ValueError(f"x must have shape (batch, {2 * num_neurons}, {2 * num_neurons}), got {tuple(x.shape)}")
