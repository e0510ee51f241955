"""One-hot sites whose log-probabilities are linear in their values, and so have derivatives there."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import OneHotCategorical
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ext.distributions.structure import unwrap, with_base
from pyro_ext.ops.relaxed import categorical_score

__all__ = ["LinearOneHots", "linear_one_hot"]


class _LinearOneHotCategorical(OneHotCategorical):
    """The categorical distribution of one-hot vectors, its log-probability linear in the value."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return categorical_score(value, self.logits)


def linear_one_hot(fn: Any) -> Any:
    """Return a distribution with a log-probability that is differentiable in one-hot values, if it is one of those."""
    base = unwrap(fn).base
    if not isinstance(base, torch.distributions.OneHotCategorical) or base.has_rsample:
        return fn
    return with_base(fn, _LinearOneHotCategorical(logits=base.logits, validate_args=base._validate_args))


class LinearOneHots(Messenger):
    """Makes the log-probabilities of latent one-hot sites differentiable in their values."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and hasattr(msg["fn"], "event_dim"):
            msg["fn"] = linear_one_hot(msg["fn"])
