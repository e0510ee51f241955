"""The training plan of a graph convolutional network, from a graph and options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal

from pyro_ext.datasets import LabelledGraph
from pyro_ext.inference import ELBOObjective, OptimizerSettings, Player, TrainingPlan
from pyro_ext.models.gcn.evaluation import Evaluation, diagnose
from pyro_ext.models.gcn.model import GCN, Propagation, SelfLoops, init_to_glorot
from pyro_ext.utils.checks import nonnegative_number, one_of, positive_int, positive_number

__all__ = ["Posterior", "build", "weight_decay_scale"]

Posterior = Literal["map", "normal", "last_layer"]

_INIT_SCALE = 0.1

_REMARKS = (
    "`accuracy` is the share of held-out nodes whose class is right, `nll` the mean negative log-probability of the "
    "right class in nats, `ece` the expected calibration error, the mean distance between `confidence` (the "
    "probability of the predicted class) and accuracy. `train_loss` is minus the bound per labelled node, with the "
    "normalising constants of the priors."
)


def build(
    data: LabelledGraph,
    hidden: Sequence[int] = (16,),
    dropout: float = 0.5,
    weight_decay: float = 5e-4,
    propagation: Propagation = "renormalised",
    self_loops: SelfLoops = "add",
    posterior: Posterior = "map",
    later_prior_scale: float = 1.0,
    likelihood_power: float = 1.0,
    monte_carlo_dropout: bool = False,
    evaluation_samples: int = 30,
    evaluation_seed: int = 0,
) -> TrainingPlan:
    r"""Build a network that gives the nodes of a graph classes, and a posterior of its weights.

    With ``posterior="map"`` it is trained as in the publication: the gradient of the loss is that of the mean cross
    entropy of labelled nodes plus :math:`\frac{\lambda}{2} \lVert W_0 \rVert^2`, where the weight decay
    :math:`\lambda` of the first layer's weights is a normal prior of scale :math:`(n \lambda)^{-1/2}`. The optimiser is
    Adam with a learning rate of 0.01, for 200 steps; the publication's early stopping is
    ``--early_stopping.monitor penalised_nll --early_stopping.window 10 --early_stopping.patience 1``.

    The other posteriors are a swap of the guide. Their ELBO is ``Trace_ELBO``, for independent normal weights
    ``TraceMeanField_ELBO``; ``with_elbo`` of the plan takes another one.

    Args:
        data: a graph with labels, as the data sets ``karate_club`` and ``planetoid`` or ``from_networkx`` have it.
        hidden: the widths of the hidden layers.
        dropout: the probability that an input of a layer is dropped in training, in [0, 1).
        weight_decay: the weight decay of the first layer's weights beside the mean cross entropy; 0 for none, with the
            posterior ``map`` only.
        propagation: how features reach neighbours: by the renormalised adjacency matrix (``renormalised``), Chebyshev
            polynomials of the Laplacian of order 3 or 2 (``chebyshev_3``, ``chebyshev_2``), a weight for the node and
            one for its neighbours (``first_order``), one for both (``single_parameter``), neighbours alone
            (``first_order_term``), or not at all (``mlp``).
        self_loops: what ``renormalised`` does with edges from a node to itself: ``add`` counts them besides the
            identity that it adds, as the publication's program does, ``remaining`` adds the identity for other nodes
            only, ``none`` not at all.
        posterior: ``map`` is the most probable weights; ``normal`` are independent normal weights; ``last_layer`` the
            most probable weights of the first layers and jointly normal ones of the last layer.
        later_prior_scale: the standard deviation of the prior of the weights after the first layer, which the posterior
            ``map`` does not have.
        likelihood_power: the power of the likelihood, besides the prior. 1 is Bayes' rule. Few labels say little about
            thousands of weights, so that predictions are then much less certain than they are right; 10 to 100 gives
            calibrated ones on Cora.
        monte_carlo_dropout: whether units are dropped in evaluation too, and probabilities averaged over draws.
        evaluation_samples: the number of draws of weights or dropped units that probabilities are averaged over; one
            is enough where there is nothing to draw, and is all that is taken.
        evaluation_seed: the seed of the draws of the evaluation.

    Raises:
        ValueError: if the data are no graph with labels, or an option is out of range.
    """
    if not isinstance(data, LabelledGraph):
        raise ValueError(
            f"data must be a graph with labels, got {getattr(data, 'name', data)!r}; load it by 'karate_club' or "
            "'planetoid', or make it by from_networkx"
        )
    one_of("posterior", posterior, ("map", "normal", "last_layer"))
    positive_number("later_prior_scale", later_prior_scale)
    positive_int("evaluation_samples", evaluation_samples)
    size = len(data.train[0][0])
    first = weight_decay_scale(weight_decay, size)
    if posterior != "map" and math.isinf(first):
        raise ValueError("weight_decay must be positive for a posterior other than 'map', got 0: weights need a prior")
    later = [math.inf if posterior == "map" else later_prior_scale] * len(hidden)
    gcn = GCN(
        data.adjacency,
        data.features,
        data.num_classes,
        size,
        hidden,
        dropout,
        propagation,
        self_loops,
        prior_scales=[first, *later],
        likelihood_power=likelihood_power,
    )
    guide, elbo = _guide(gcn, posterior)
    has_draws = posterior != "map" or (monte_carlo_dropout and dropout > 0)
    evaluation = Evaluation(
        gcn, guide, data, evaluation_samples if has_draws else 1, monte_carlo_dropout, evaluation_seed
    )
    objective = ELBOObjective(gcn, guide, elbo, size=size)
    return TrainingPlan(
        [Player("model", objective, optimizer=OptimizerSettings("Adam", lr=0.01))],
        evaluate=evaluation.metrics,
        headline="accuracy",
        headline_mode="max",
        plots=evaluation.plots(),
        curves={"accuracy_curve": ("accuracy",), "calibration_curve": ("ece",), "nll_curve": ("nll", "penalised_nll")},
        curve_labels={
            "accuracy_curve": "share of held-out nodes classified correctly",
            "calibration_curve": "expected calibration error",
        },
        diagnose=diagnose,
        remarks=_REMARKS,
    )


def weight_decay_scale(weight_decay: float, size: int) -> float:
    r"""Return the scale of the normal prior that equals a weight decay beside the mean loss of ``size`` points.

    .. math::  s = (n \lambda)^{-1/2}

    Args:
        weight_decay: the factor :math:`\lambda` of half the squared norm; infinity is returned for 0.
        size: the number n of points.

    Raises:
        ValueError: if the weight decay is negative.

    Example:
        >>> round(weight_decay_scale(5e-4, 140), 2)
        3.78
    """
    nonnegative_number("weight_decay", weight_decay)
    return math.inf if weight_decay == 0 else (size * weight_decay) ** -0.5


def _guide(gcn: GCN, posterior: Posterior) -> tuple[Any, ELBO]:
    names = [f"layers.{at}.weight" for at, scale in enumerate(gcn.prior_scales) if math.isfinite(scale)]
    start = {"init_loc_fn": init_to_glorot}
    if posterior == "normal":
        return AutoNormal(gcn, init_scale=_INIT_SCALE, **start), TraceMeanField_ELBO(max_plate_nesting=1)
    elbo = Trace_ELBO(max_plate_nesting=1)
    if posterior == "map":
        return (AutoDelta(gcn, **start) if names else _nothing), elbo
    guide = AutoGuideList(gcn)
    if names[:-1]:
        guide.append(AutoDelta(poutine.block(gcn, expose=names[:-1]), **start))
    guide.append(AutoMultivariateNormal(poutine.block(gcn, expose=names[-1:]), init_scale=_INIT_SCALE, **start))
    return guide, elbo


def _nothing(*batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Guide a model without latent sites."""
    return {}
