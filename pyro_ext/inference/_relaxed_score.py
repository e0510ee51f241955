"""Relaxed values whose score in a bound is categorical: not a density, but what two of three objectives sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_ext.distributions.relaxed.bernoulli import RelaxedBernoulliBase
from pyro_ext.ops.relaxed import bernoulli_score, categorical_score

__all__ = ["RelaxedScore"]


class RelaxedScore(TorchDistribution):
    r"""Draws from a relaxed law, and scores :math:`\sum_k w_k \log p_k` with its probabilities p.

    Args:
        law: the relaxed law.
        weights: w, of the shape of the law's values; the value itself if None.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, law: Any, weights: Tensor | None = None) -> None:
        if weights is not None:
            split = weights.dim() - law.event_dim
            law = law.expand(torch.broadcast_shapes(law.batch_shape, weights.shape[:split]))
        self.law = law
        self.weights = weights
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    @property
    def support(self) -> Constraint:
        """That of the relaxed law."""
        return self.law.support

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same with the law broadcast to ``batch_shape``."""
        return RelaxedScore(self.law.expand(torch.Size(batch_shape)), self.weights)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw from the relaxed law, ``sample_shape + batch_shape + event_shape``."""
        return self.law.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the score of ``value``, ``(...)``."""
        weights = value if self.weights is None else self.weights
        score = bernoulli_score if isinstance(self.law, RelaxedBernoulliBase) else categorical_score
        found = score(weights, self.law.logits)
        split = value.dim() - self.law.event_dim
        return found.expand(torch.broadcast_shapes(found.shape, value.shape[:split]))
