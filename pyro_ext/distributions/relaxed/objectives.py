"""Kullback-Leibler divergences between relaxed laws: three things that the literature calls the KL term."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Distribution, Independent, register_kl
from torch.distributions import kl_divergence as torch_kl_divergence

from pyro_ext.distributions.relaxed._categorical import RelaxedCategoricalBase
from pyro_ext.distributions.relaxed.bernoulli import (
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliBase,
)
from pyro_ext.distributions.relaxed.one_hot import ExpRelaxedOneHotCategorical, RelaxedOneHotCategorical
from pyro_ext.distributions.relaxed.top_k import RelaxedTopK
from pyro_ext.ops.relaxed import bernoulli_score, categorical_score

__all__ = ["OBJECTIVES", "Objective", "check_objective", "kl_divergence", "log_space"]

Objective = Literal["relaxed_density", "relaxed_categorical", "categorical"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


def check_objective(objective: str) -> None:
    """Raise a ValueError unless ``objective`` is one of the three names."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")


def kl_divergence(
    q: Distribution, p: Distribution, objective: Objective = "relaxed_density", num_samples: int = 1
) -> Tensor:
    r"""Return one of three divergences of a relaxed law from another; torch's own for all other laws.

    With probabilities Q and P of the categories, and x drawn from the relaxed law q:

    * ``"relaxed_density"``: :math:`\mathbb{E}_q[\log q(x) - \log p(x)]`, the divergence of the relaxed laws. The only
      one with which the evidence lower bound of a relaxed model is a bound. Estimated from ``num_samples`` draws, in
      log space, where no weight underflows.
    * ``"relaxed_categorical"``: :math:`\mathbb{E}_q[\sum_k x_k \log (Q_k / P_k)]`, estimated likewise. No bound on
      the relaxed model.
    * ``"categorical"``: :math:`\sum_k Q_k \log (Q_k / P_k)`, exact. That of the discrete model, and no bound on the
      relaxed one.

    Args:
        q: a relaxed one-hot or binary law (straight-through ones included), or ``.to_event`` of one.
        p: another of the same kind; for the last two objectives any categorical or Bernoulli law.
        objective: which of the three.
        num_samples: the number of draws of the first two.

    Returns:
        ``batch_shape``, differentiable in the parameters of both.

    Raises:
        ValueError: if ``objective`` is not one of the three, ``num_samples`` is no positive integer, or the laws are
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
    check_objective(objective)
    if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(f"num_samples must be an integer of at least 1, got {num_samples!r}")
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
    """Return the law of the log-weights, or log-odds, behind the relaxed values of ``d``.

    >>> log_space(RelaxedBernoulli(0.5, logits=torch.zeros(3)))
    LogitRelaxedBernoulli(temperature: (3,), logits: (3,))
    """
    law = ExpRelaxedOneHotCategorical if isinstance(d, RelaxedCategoricalBase) else LogitRelaxedBernoulli
    return law(d.temperature, logits=d.logits, validate_args=False)


def _of_densities(q: Any, p: Any, num_samples: int) -> Tensor:
    kind = RelaxedCategoricalBase if isinstance(q, RelaxedCategoricalBase) else RelaxedBernoulliBase
    if not isinstance(p, kind):
        raise ValueError(
            f"objective='relaxed_density' compares two relaxed laws of one kind, got {type(q).__name__} and "
            f"{type(p).__name__}; make p a {type(q).__name__}, or choose another objective"
        )
    inner_q, inner_p = log_space(q), log_space(p)
    y = inner_q.rsample((num_samples,))
    return (inner_q.log_prob(y) - inner_p.log_prob(y)).mean(0)


def _of_scores(q: Any, p: Any, num_samples: int | None) -> Tensor:
    binary = isinstance(q, RelaxedBernoulliBase)
    if not hasattr(p, "logits") or len(q.event_shape) != len(p.event_shape):
        laws = f"{type(q).__name__} and {type(p).__name__}"
        raise ValueError(f"p must be a {'Bernoulli' if binary else 'one-hot categorical'} law like q, got {laws}")
    score = bernoulli_score if binary else categorical_score
    if num_samples is None:
        return score(q.probs, q.logits) - score(q.probs, p.logits)
    law = (RelaxedBernoulli if binary else RelaxedOneHotCategorical)(q.temperature, logits=q.logits)
    x = law.rsample((num_samples,))
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
