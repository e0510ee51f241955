r"""Identification of the neurons of *C. elegans* by their activity, in several worms at once.

Activity follows linear dynamics whose connections are known and whose weights are not. Worm j's neurons come in an
order of their own,

.. math::

    W_{mn} \sim N(0, 1) \text{ where connected, else } 0, \qquad X_j \sim p(X), \qquad
    y^{(j)}_t = X_j W X_j^\top y^{(j)}_{t-1} + \epsilon_t, \qquad \epsilon_t \sim N(0, I),

and a neuron may only be what lies near it along the body, or what it is known to be. The guide has a Gaussian for each
weight, shared by all worms, and a relaxed law of the permutation for each worm, by rounding or Gumbel-Sinkhorn.

The sums over time collapse to moments: a step costs a few products of matrices ``(N, N)`` per worm, whatever T is.

Headline figures, the published share of all 279 neurons identified, 25 of them known, at about 10 and 30 candidates:
rounding .77 and .33 with one worm, .93 and .70 with four; Gumbel-Sinkhorn .79 and .40, .94 and .69. For example::

    pyro-ext fit permutation_matching --data celegans --data.num_worms 4 --lr .1 --trainer.max_epochs 200

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
    | https://arxiv.org/abs/1710.09508, section 5.3
    | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018)
    | https://arxiv.org/abs/1802.08665
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.datasets.worms import WormRecordings
from pyro_ext.distributions.permutations.rounding import Gradient
from pyro_ext.inference.fit.built import Built
from pyro_ext.models.permutation_matching.laws import Family, LocalGuide, Settings, family
from pyro_ext.models.permutation_matching.worms_dynamics import LinearDynamics
from pyro_ext.models.permutation_matching.worms_identities import Identification
from pyro_ext.ops.assignment import has_perfect_matching
from pyro_ext.utils.checks import positive_int

__all__ = ["Guide", "Model", "build_worms"]

_METHODS = ("rounding", "gumbel_sinkhorn")
_FIRST_WEIGHT_SCALE = 0.05
_REMARKS = (
    "Each worm has a law of its own, so metrics are of the worms trained on; what is held out is which neuron is "
    "which. `accuracy` is that of neurons with several candidates, `accuracy_all` counts the others too, as published."
)


class Model(PyroModule):
    """The priors of weights and permutations, and the dynamics.

    Args:
        data: the recordings: their connections, candidates and number of steps.
        laws: the family of variational laws, which decides on the prior of the permutations.
        weight_scale: the standard deviation of the prior of the weights.

    Example:
        >>> from pyro_ext.datasets.worms import simulated_worms
        >>> data = simulated_worms(num_worms=2)
        >>> model = Model(data, family("rounding", size=20))
        >>> trace = pyro.poutine.trace(model).get_trace(data.train.x[:1])
        >>> trace.nodes["weights"]["value"].shape, trace.nodes["permutation"]["value"].shape
        (torch.Size([120]), torch.Size([1, 20, 20]))
    """

    candidates: Tensor
    connections: Tensor
    like: Tensor

    def __init__(self, data: WormRecordings, laws: Family, weight_scale: float = 1.0) -> None:
        super().__init__()
        self.laws = laws
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
        prior = dist.Normal(self.like, self.weight_scale).expand([len(self.connections)]).to_event(1)
        weights = self.weight_matrix(pyro.sample("weights", prior))
        with worm_plate(self.size, x, self.laws.size, index) as worms:
            candidates = self.candidates[worms]
            site = pyro.sample("permutation", self.laws.prior(self.like, candidates))
            matrix = certain(self.laws.matrix(site, candidates), candidates)
            transition = matrix @ weights @ matrix.mT
            pyro.sample("activity", LinearDynamics(transition, self.num_steps), obs=x)
        return matrix

    def weight_matrix(self, weights: Tensor) -> Tensor:
        """Return the matrix W, ``(..., N, N)``, for the weights of the connections, ``(..., E)``."""
        n = self.laws.size
        empty = weights.new_zeros(*weights.shape[:-1], n * n)
        return empty.index_copy(-1, self.connections, weights).unflatten(-1, (n, n))


class Guide(LocalGuide):
    """A Gaussian for each weight and a law of the permutation for each worm.

    Args:
        data: the recordings, as for the model.
        laws: the family of laws of the permutations.
        weight_unit: what one unit of the parameters of the Gaussians' means stands for. Below 1, weights move slower
            than everything else under an optimiser with steps of a fixed size, like Adam.

    Example:
        >>> from pyro_ext.datasets.worms import simulated_worms
        >>> data = simulated_worms(num_worms=2)
        >>> guide = Guide(data, family("gumbel_sinkhorn", size=20))
        >>> guide(data.train.x[:1], index=torch.tensor([1])).shape, guide.weights().batch_shape
        (torch.Size([1, 20, 20]), torch.Size([120]))
    """

    candidates: Tensor

    def __init__(self, data: WormRecordings, laws: Family, weight_unit: float = 1.0) -> None:
        super().__init__(laws, len(data.train))
        num_connections = int(data.connectome.sum())
        self.weight_unit = weight_unit
        self.weight_loc = nn.Parameter(torch.zeros(num_connections))
        self.weight_log_scale = nn.Parameter(torch.full((num_connections,), math.log(_FIRST_WEIGHT_SCALE)))
        self.register_buffer("candidates", data.candidates, persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """Sample weights and the permutations of worms ``(B, 2N, 2N)`` at the places ``index``; return the latter."""
        pyro.sample("weights", self.weights().to_event(1))
        with worm_plate(self.num_items, x, self.laws.size, index) as worms:
            return pyro.sample("permutation", self.posterior(worms, self.candidates[worms]))

    def weights(self) -> Any:
        """Return the law of the weights, batch shape ``(E,)``."""
        return dist.Normal(self.weight_unit * self.weight_loc, self.weight_log_scale.exp())


def build_worms(
    data: WormRecordings,
    method: str = "rounding",
    temperature: float = 1.0,
    min_scale: float = 1e-4,
    max_scale: float = 0.07,
    prior_scale: float = 0.3,
    prior_temperature: float = 1.0,
    num_iterations: int | None = 10,
    gradient: Gradient = "pathwise",
    weight_scale: float = 1.0,
    weight_unit: float = 0.2,
    evaluation_samples: int = 32,
    evaluation_seed: int = 0,
) -> Built:
    r"""Build the model of the worms and its guide.

    Train it with all worms in a batch and a large learning rate, Adam's 0.1 for 200 steps in the publication. Metrics
    are ``accuracy``, of the neurons that have several candidates, and ``accuracy_all``, of all of them as published.
    They are those of the permutation with the most neurons expected to be right under samples of the guide.

    Args:
        data: the recordings.
        method: ``"rounding"`` or ``"gumbel_sinkhorn"``.
        temperature: of the relaxed permutations, at most 1 for rounding.
        min_scale: the least standard deviation of the noise of rounding.
        max_scale: the largest one; the publication bounds the variance by 0.005.
        prior_scale: the standard deviation of rounding's prior around 0 and 1; a variance of 0.1 in the publication.
        prior_temperature: of the prior of Gumbel-Sinkhorn.
        num_iterations: of Sinkhorn scaling; to a tolerance of 1e-8 if None.
        gradient: how gradients pass through rounding.
        weight_scale: the standard deviation of the prior of the weights.
        weight_unit: by how much smaller steps the means of the weights learn than all other parameters.
        evaluation_samples: permutations drawn for each worm to evaluate.
        evaluation_seed: the seed of those draws.

    Raises:
        ValueError: if an option is out of range, or the candidates of a worm hold no permutation.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be {' or '.join(_METHODS)} for worms, got {method!r}")
    for name, value in (("weight_scale", weight_scale), ("weight_unit", weight_unit)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
    positive_int("evaluation_samples", evaluation_samples)
    if not bool(has_perfect_matching(data.candidates).all()):
        raise ValueError("data.candidates must hold a permutation for each worm: allow more cells")
    settings = Settings(temperature, min_scale, max_scale, prior_scale, prior_temperature, num_iterations, gradient)
    laws = family(method, len(data.connectome), settings)
    # Modules made under local parameters serve engines that use them and users who do not.
    with pyro.settings.context(module_local_params=True):
        model, guide = Model(data, laws, weight_scale), Guide(data, laws, weight_unit)
    found = Identification(guide, data.candidates, evaluation_samples, evaluation_seed)
    return Built(
        model=model,
        guide=guide,
        elbo=TraceMeanField_ELBO(max_plate_nesting=1),
        evaluate=found.accuracy if data.valid.y is not None else None,
        plots=found.plots(data.valid.y),
        remarks=_REMARKS if data.valid.y is not None else "",
    )


def certain(matrix: Tensor, candidates: Tensor) -> Tensor:
    """Return the matrices with a one in cells that are the only candidate of their row."""
    return torch.where(candidates & (candidates.sum(-1, keepdim=True) == 1), 1, matrix)


def worm_plate(size: int, x: Tensor, num_neurons: int, index: Tensor | None) -> pyro.plate:
    """Return the plate of the worms, as subsampled by ``index``; by the first ones if None."""
    if x.dim() != 3 or x.shape[1:] != (2 * num_neurons, 2 * num_neurons):
        raise ValueError(f"x must have shape (batch, {2 * num_neurons}, {2 * num_neurons}), got {tuple(x.shape)}")
    subsample = torch.arange(len(x), device=x.device) if index is None else index
    return pyro.plate("worms", size, subsample=subsample, dim=-1)
