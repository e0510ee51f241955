"""The base of the distributions of draws without replacement: log-probabilities of categories, number of draws."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from pyro_ext.distributions.structure import enumerated_entropy, enumerated_kl
from pyro_ext.ops.sets import log_remaining_mass, perturb
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.shapes import broadcast_shapes

# Listing more values than this would be a mistake more often than a wish.
_MOST_VALUES = 1 << 22


class DrawsWithoutReplacement(TorchDistribution):
    """``k`` distinct categories out of ``K``; the subclasses say whether their order counts.

    Args:
        k: the number of draws.
        logits: log-probabilities up to a constant, ``batch_shape + (K,)``; -inf for a category never drawn.
        probs: probabilities up to a factor instead, ``batch_shape + (K,)``. Their gradient at a probability of
            exactly 0 is the one along the other categories.
        validate_args: whether to check arguments and values; torch's default if None.

    Raises:
        ValueError: if not exactly one of ``logits`` and ``probs`` is given; if it is no batch of vectors of
            log-probabilities or probabilities; if ``k`` is no integer from 1 to the number of positive categories.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector, "probs": constraints.simplex}

    def __init__(
        self, k: int, logits: Tensor | None, probs: Tensor | None, validate_args: bool | None, num_categories: int
    ) -> None:
        self.k, self.num_categories = k, num_categories
        given = given_parameter(logits, probs)
        if self._validate_args if validate_args is None else validate_args:
            _check_categories(k, logits, probs)
        if logits is not None:
            self.logits = logits - logits.logsumexp(-1, keepdim=True)
        else:
            self.probs = given / given.sum(-1, keepdim=True)
        super().__init__(given.shape[:-1], torch.Size([k]), validate_args=validate_args)

    @lazy_property
    def logits(self) -> Tensor:
        """Normalised log-probabilities, ``batch_shape + (K,)``."""
        positive = self.probs > 0
        return torch.where(positive, self.probs, 1).log().masked_fill(~positive, -math.inf)

    @lazy_property
    def probs(self) -> Tensor:
        """Normalised probabilities, ``batch_shape + (K,)``."""
        return self.logits.exp()

    @property
    def param_shape(self) -> torch.Size:
        """The shape of ``logits`` and ``probs``, ``batch_shape + (K,)``."""
        return self.batch_shape + torch.Size([self.num_categories])

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """Return the same distribution with its parameters broadcast to ``batch_shape``."""
        batch_shape = torch.Size(batch_shape)
        new = self._get_checked_instance(type(self), _instance)
        new.k, new.num_categories = self.k, self.num_categories
        for name in self.arg_constraints.keys() & self.__dict__.keys():
            setattr(new, name, getattr(self, name).expand((*batch_shape, self.num_categories)))
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @torch.no_grad()
    def _draw(self, sample_shape: Sequence[int]) -> Tensor:
        """Return draws in order, int64 ``sample_shape + batch_shape + (k,)``."""
        logits = self.logits.expand(torch.Size(sample_shape) + self.param_shape)
        return perturb(logits).topk(self.k, dim=-1).indices

    def _masses(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-masses of the members of ``value`` and of all the rest, both float64."""
        if self._validate_args:
            self._validate_sample(value)
        batch_shape = broadcast_shapes(value.shape[:-1], self.batch_shape)
        log_probs = self.logits.double().log_softmax(-1).expand(*batch_shape, self.num_categories)
        index = value.long().expand(*batch_shape, self.k)
        return log_probs.gather(-1, index), log_remaining_mass(log_probs, index)

    @property
    @abstractmethod
    def num_values(self) -> int:
        """The number of values in the support."""

    @abstractmethod
    def _all_values(self) -> Tensor:
        """Return every value, int64 ``(num_values, k)``, on the parameters' device."""

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the support is small enough to be listed."""
        return self.num_values <= _MOST_VALUES

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """Return every value, ``(num_values,) + batch_shape + (k,)``, batch dims being 1 unless ``expand``.

        Raises:
            NotImplementedError: if there are too many.
        """
        if not self.has_enumerate_support:
            raise NotImplementedError(
                f"{self!r} has {self.num_values} values, too many to list: sample from it instead"
            )
        values = self._all_values().reshape(-1, *(1,) * len(self.batch_shape), self.k)
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def entropy(self) -> Tensor:
        """Return the entropy in nats, ``batch_shape``, summed over the whole support.

        Raises:
            NotImplementedError: if the support is too large to list.
        """
        return enumerated_entropy(self)

    def __repr__(self) -> str:
        name = "logits" if "logits" in self.__dict__ else "probs"
        return f"{type(self).__name__}(k={self.k}, {name}: {tuple(self.param_shape)})"


def kl_of_draws(q: DrawsWithoutReplacement, p: DrawsWithoutReplacement) -> Tensor:
    """Return the divergence of ``q`` from ``p`` in nats; raise a ValueError if they draw from different categories."""
    if (q.k, q.num_categories) != (p.k, p.num_categories):
        raise ValueError(
            f"q draws {q.k} of {q.num_categories} categories but p draws {p.k} of {p.num_categories}: "
            "their supports must be the same"
        )
    return enumerated_kl(q, p)


def given_parameter(logits: Tensor | None, probs: Tensor | None) -> Tensor:
    """Return the one of ``logits`` and ``probs`` that is given; raise a ValueError unless it is a vector batch."""
    if (logits is None) == (probs is None):
        raise ValueError(f"give one of logits and probs, got {'neither' if logits is None else 'both'}")
    name, given = ("probs", probs) if logits is None else ("logits", logits)
    if not isinstance(given, Tensor) or not given.is_floating_point():
        raise ValueError(f"{name} must be a floating point tensor, got {given!r}")
    if given.dim() < 1 or given.shape[-1] < 1:
        raise ValueError(f"{name} must have shape batch_shape + (K,), got {tuple(given.shape)}")
    return given


def check_num_draws(k: int, num_categories: int) -> int:
    """Return ``k`` if it is an integer in ``1..num_categories``; raise a ValueError naming it otherwise."""
    positive_int("k", k)
    if k > num_categories:
        raise ValueError(f"k={k} exceeds the {num_categories} categories: choose k at most {num_categories}")
    return k


def _check_categories(k: int, logits: Tensor | None, probs: Tensor | None) -> None:
    """Raise a ValueError where an entry is no (log-)probability, or fewer than ``k`` categories have any."""
    given = given_parameter(logits, probs).detach()
    name, bound = ("probs", 0.0) if logits is None else ("logits", -math.inf)
    wrong = given.isnan() | (given == math.inf) | (given < bound)
    if wrong.any():
        raise ValueError(f"{name} must not hold NaN, inf or negative probabilities, got {given[wrong][0]}")
    positive = int((given > bound).sum(-1).min()) if given.numel() else k
    if positive < k:
        raise ValueError(
            f"k={k} exceeds the {positive} categories of positive probability in {name}: "
            f"choose k at most {positive} or give more categories mass"
        )
