r"""Latent permutations: observations to be matched with what they are observations of.

Two models share their variational laws of a permutation, relaxed or exact (:mod:`.laws`); :func:`build` looks at the
data to tell which one is wanted.

* **Points** (:mod:`.points`, data ``point_matching``): N noisy observations of N known points in an unknown order. The
  posterior is known. Headline figures for N = 6 and noise .1 / .25 / .5 / .75, Hellinger distances to the posterior:
  rounding .06 / .21 / .32 / .38, relaxed stick-breaking .09 / .23 / .41 / .55.
* **Worms** (:mod:`.worms`, data ``celegans``): which neuron of *C. elegans* is which, by simulated activity.

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018), table 1
    | and section 5.3, https://arxiv.org/abs/1710.09508
    | Learning latent permutations with Gumbel-Sinkhorn networks (Mena et al., 2018)
    | https://arxiv.org/abs/1802.08665
"""

from __future__ import annotations

from typing import Any

from pyro_ext.datasets import Splits
from pyro_ext.datasets.point_matching import PointProblems
from pyro_ext.distributions.permutations.rounding import Gradient
from pyro_ext.inference.fit.built import Built
from pyro_ext.models.permutation_matching.laws import Method
from pyro_ext.models.permutation_matching.points import Start, build_points

__all__ = ["build"]

_OF_POINTS = ("num_samples", "start")
_OF_WORMS = ("weight_scale", "weight_unit")


def build(
    data: Splits,
    method: Method = "rounding",
    temperature: float | None = None,
    min_scale: float | None = None,
    max_scale: float | None = None,
    prior_scale: float | None = None,
    prior_temperature: float | None = None,
    num_iterations: int | None = 10,
    gradient: Gradient = "pathwise",
    num_samples: int | None = None,
    start: Start | None = None,
    weight_scale: float | None = None,
    weight_unit: float | None = None,
    evaluation_samples: int | None = None,
    evaluation_seed: int = 0,
) -> Built:
    """Build the matching model that belongs to the data, with a guide of one law per problem or worm.

    Options that are None have the default of :func:`~.points.build_points` or :func:`~.worms.build_worms`. Train with
    all items in a batch and a large learning rate, as ``pyro-ext fit permutation_matching --data.noise .25`` does by
    default: 150 epochs of batches of 200, Adam at 0.1.

    Args:
        data: point problems or worms.
        method: the family of laws; the last two are for points only, like stick-breaking.
        temperature: of relaxed laws, at most 1 for rounding.
        min_scale: the least standard deviation of Gaussian noise.
        max_scale: the largest one.
        prior_scale: the standard deviation of the prior of rounding and stick-breaking around 0 and 1.
        prior_temperature: of the prior of Gumbel-Sinkhorn.
        num_iterations: of Sinkhorn scaling; to a tolerance of 1e-8 if None.
        gradient: how gradients pass through rounding.
        num_samples: permutations per problem and step (points only).
        start: where the laws start (points only).
        weight_scale: the standard deviation of the prior of connections' weights (worms only).
        weight_unit: by how much smaller steps the weights' means learn (worms only).
        evaluation_samples: permutations drawn for each item to evaluate.
        evaluation_seed: the seed of those draws.

    Raises:
        ValueError: if the data are neither, or an option is out of range or not for these data.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name != "data" and value is not None}
    given["num_iterations"] = num_iterations
    if isinstance(data, PointProblems):
        _refuse(given, _OF_WORMS, "point problems")
        return build_points(data, **given)
    from pyro_ext.datasets.worms import WormRecordings
    from pyro_ext.models.permutation_matching.worms import build_worms

    if isinstance(data, WormRecordings):
        _refuse(given, _OF_POINTS, "worms")
        return build_worms(data, **given)
    raise ValueError(
        f"data must be point problems or worms, got {getattr(data, 'name', data)!r}; load the data sets "
        "'point_matching' or 'celegans'"
    )


def _refuse(given: dict[str, Any], names: tuple[str, ...], data: str) -> None:
    for name in names:
        if name in given:
            raise ValueError(f"{name} is not an option for {data}, got {given[name]!r}; leave it out")
