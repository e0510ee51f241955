"""Kullback-Leibler divergences between relaxed distributions: three things that the literature calls the KL term."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Distribution, Independent, register_kl
from torch.distributions import kl_divergence as torch_kl_divergence

from pyro_ext.distributions.relaxed.bernoulli import (
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliBase,
)
from pyro_ext.distributions.relaxed.one_hot import (
    ExpRelaxedOneHotCategorical,
    RelaxedCategoricalBase,
    RelaxedOneHotCategorical,
)
from pyro_ext.distributions.relaxed.top_k import RelaxedTopK
from pyro_ext.ops.relaxed import bernoulli_score, categorical_score
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["OBJECTIVES", "Objective", "kl_divergence", "log_space"]

Objective = Literal["relaxed_density", "relaxed_categorical", "categorical"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


def kl_divergence(
    q: Distribution, p: Distribution, objective: Objective = "relaxed_density", num_samples: int = 1
) -> Tensor:
    r"""Return one of three divergences of one relaxed distribution from another; torch's own for all others.

    With probabilities Q and P of the categories, and x drawn from the relaxed distribution q:

    * ``"relaxed_density"``: :math:`\mathbb{E}_q[\log q(x) - \log p(x)]`, the divergence of the relaxed distributions.
      The only one with which the evidence lower bound of a relaxed model is a bound. Estimated from ``num_samples``
      draws, in log space, where no weight underflows.
    * ``"relaxed_categorical"``: :math:`\mathbb{E}_q[\sum_k x_k \log (Q_k / P_k)]`, estimated likewise. No bound on
      the relaxed model.
    * ``"categorical"``: :math:`\sum_k Q_k \log (Q_k / P_k)`, exact. That of the discrete model, and no bound on the
      relaxed one.

    Args:
        q: a relaxed one-hot or binary distribution (straight-through ones included), or ``.to_event`` of one.
        p: another distribution of the same kind; for the last two objectives any categorical or Bernoulli one.
        objective: which of the three divergences.
        num_samples: the number of draws from which the first two are estimated.

    Returns:
        ``batch_shape``, differentiable in the parameters of both.

    Raises:
        ValueError: if ``objective`` is not one of the three, ``num_samples`` is no positive integer, or the two are
            of different kinds.

    References:
        | The Concrete distribution (Maddison et al., 2017), appendix C.2, equations 20-22
        | https://arxiv.org/abs/1611.00712

    >>> q = RelaxedOneHotCategorical(0.5, probs=torch.tensor([0.9, 0.1]))
    >>> p = RelaxedOneHotCategorical(0.5, probs=torch.tensor([0.5, 0.5]))
    >>> kl_divergence(q, p, "categorical")
    tensor(0.3681)
    >>> kl_divergence(q, p, "relaxed_density", num_samples=10_000).round(decimals=1)
    tensor(0.8000)
    """
    one_of("objective", objective, OBJECTIVES)
    positive_int("num_samples", num_samples)
    if isinstance(q, Independent) and isinstance(p, Independent):
        depth = q.reinterpreted_batch_ndims
        if depth != p.reinterpreted_batch_ndims:
            raise ValueError(f"q has {depth} dims made into event dims but p {p.reinterpreted_batch_ndims}")
        return sum_rightmost(kl_divergence(q.base_dist, p.base_dist, objective, num_samples), depth)
    if isinstance(q, RelaxedTopK) or not isinstance(q, RelaxedCategoricalBase | RelaxedBernoulliBase):
        return torch_kl_divergence(q, p)
    if objective == "relaxed_density":
        return _of_densities(q, p, num_samples)
    return _of_scores(q, p, None if objective == "categorical" else num_samples)


def log_space(d: Any) -> ExpRelaxedOneHotCategorical | LogitRelaxedBernoulli:
    """Return the distribution of the log-weights, or log-odds, behind the relaxed values of ``d``.

    >>> log_space(RelaxedBernoulli(0.5, logits=torch.zeros(3)))
    LogitRelaxedBernoulli(temperature: (3,), logits: (3,))
    """
    family = ExpRelaxedOneHotCategorical if isinstance(d, RelaxedCategoricalBase) else LogitRelaxedBernoulli
    return family(d.temperature, logits=d.logits, validate_args=False)


def _of_densities(q: Any, p: Any, num_samples: int) -> Tensor:
    kind = RelaxedCategoricalBase if isinstance(q, RelaxedCategoricalBase) else RelaxedBernoulliBase
    if not isinstance(p, kind):
        raise ValueError(
            f"objective='relaxed_density' compares two relaxed distributions of one kind, got {type(q).__name__} and "
            f"{type(p).__name__}; make p a {type(q).__name__}, or choose another objective"
        )
    inner_q, inner_p = log_space(q), log_space(p)
    y = inner_q.rsample((num_samples,))
    return (inner_q.log_prob(y) - inner_p.log_prob(y)).mean(0)


def _of_scores(q: Any, p: Any, num_samples: int | None) -> Tensor:
    binary = isinstance(q, RelaxedBernoulliBase)
    if not hasattr(p, "logits") or len(q.event_shape) != len(p.event_shape):
        kind = "Bernoulli" if binary else "one-hot categorical"
        raise ValueError(f"p must be a {kind} distribution like q, got {type(q).__name__} and {type(p).__name__}")
    score = bernoulli_score if binary else categorical_score
    if num_samples is None:
        return score(q.probs, q.logits) - score(q.probs, p.logits)
    soft = (RelaxedBernoulli if binary else RelaxedOneHotCategorical)(q.temperature, logits=q.logits)
    x = soft.rsample((num_samples,))
    return (score(x, q.logits) - score(x, p.logits)).mean(0)


@register_kl(ExpRelaxedOneHotCategorical, ExpRelaxedOneHotCategorical)
@register_kl(RelaxedOneHotCategorical, RelaxedOneHotCategorical)
@register_kl(LogitRelaxedBernoulli, LogitRelaxedBernoulli)
@register_kl(RelaxedBernoulli, RelaxedBernoulli)
def _kl_without_objective(q: Distribution, p: Distribution) -> Tensor:
    # ELBOs that ask for closed forms then use the terms of the value sampled, which is what is wanted
    raise NotImplementedError(
        f"the divergence of one {type(q).__name__} from another has no closed form; "
        "pyro_ext.distributions.kl_divergence(q, p, objective=...) estimates it or one of its two substitutes"
    )
