"""Runs a guide with a weighted sample set, instead of one draw, at each of its non-reparameterised sites."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _ENUM_ALLOCATOR
from torch import Tensor

from pyro_ext.distributions.distinct import SamplesWithoutReplacement
from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._programs import SiteError
from pyro_ext.inference.sample_sets.draw import SampleSet, SetOptions, draw_sample_set
from pyro_ext.inference.sample_sets.finite import InfiniteSupportError, finite_distribution
from pyro_ext.inference.sample_sets.options import is_set_site, site_options

__all__ = [
    "SET_KEY",
    "ModelEnumMessenger",
    "OneDrawMessenger",
    "ProbabilityCheckMessenger",
    "SampleSetMessenger",
    "SiteSet",
]

SET_KEY = "_sample_set"


class SiteSet:
    """The sample set of a site, laid out along the site's enumeration dim.

    Attributes:
        dim: the enumeration dim, a negative number; None for a plain draw, which has no such dim.
        log_weight: the log-weights, in the shape of the site's ``log_prob``, of size k at ``dim``.
        perturbation: zeros of the shape of ``log_weight``, with gradient; the gradient of an expectation with respect
            to them is weight times cost.
        baseline: the baseline matrix, ``(k,) + log_weight.shape`` or broadcastable to it; the rows s' are leftmost,
            with a single row where all rows are the same.
    """

    def __init__(self, drawn: SampleSet, batch_shape: torch.Size, dim: int | None) -> None:
        self.dim = dim
        num_batch_dims = len(batch_shape)
        if dim is None:
            self.log_weight = drawn.log_weight[0].expand(batch_shape)
            self.baseline = drawn.baseline[0]
            self.perturbation = torch.zeros_like(self.log_weight).requires_grad_()
            return
        log_weight = drawn.log_weight.expand(drawn.log_weight.shape[:1] + batch_shape)
        self.log_weight = _placed(log_weight, num_batch_dims, dim)
        self.baseline = _placed(drawn.baseline, num_batch_dims, dim)
        self.perturbation = torch.zeros_like(self.log_weight).requires_grad_()

    def minus_baseline(self, weighted_cost: Tensor) -> Tensor:
        """Return w (f - b), given w f in the shape of ``log_weight``."""
        if self.dim is None:
            return weighted_cost
        if self.baseline.shape[0] == 1:
            return weighted_cost - weighted_cost.sum(self.dim, keepdim=True) * self.baseline[0]
        rows = weighted_cost.unsqueeze(0).transpose(0, self.dim)
        return weighted_cost - (rows * self.baseline).sum(0)


def _placed(tensor: Tensor, num_batch_dims: int, dim: int) -> Tensor:
    """Move the dim left of the batch dims to ``dim``, where a value of the site has it."""
    actual = -1 - num_batch_dims
    if actual < dim:
        return tensor.transpose(actual, dim)
    split = tensor.dim() - num_batch_dims
    return tensor.reshape(tensor.shape[:split] + (1,) * (actual - dim) + tensor.shape[split:])


class ProbabilityCheckMessenger(Messenger):
    """Checks the probabilities of discrete sites before Pyro draws from them, for an error that names the site."""

    def _pyro_sample(self, msg: Any) -> None:
        if not is_set_site(msg) or not isinstance(msg["fn"], TorchDistributionMixin):
            return
        if isinstance(unwrap(msg["fn"]).base, SamplesWithoutReplacement):
            return  # its support may be too long to enumerate
        with contextlib.suppress(InfiniteSupportError), naming_site(msg["name"]):
            finite_distribution(msg["fn"])


@contextlib.contextmanager
def naming_site(name: str) -> Iterator[None]:
    """Put the name of the site before the message of a ValueError."""
    try:
        yield
    except InfiniteSupportError:
        raise
    except ValueError as error:
        raise SiteError(f"site {name!r}: {error}") from error


class OneDrawMessenger(Messenger):
    """Refuses guide sites whose marks ask for what runs with one draw per site cannot give.

    Args:
        options: the estimator and the number of runs.
    """

    def __init__(self, options: SetOptions) -> None:
        super().__init__()
        self._options = options

    def _pyro_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or getattr(msg["fn"], "has_rsample", True):
            return
        mark = {key: msg["infer"][key] for key in ("enumerate",) if msg["infer"].get(key)}
        options = self._options if mark else site_options(msg, self._options)
        allowed = [replace(self._options, estimator=name) for name in (self._options.estimator, "reinforce")]
        if mark or options not in allowed:
            asked = mark or {"estimator": options.estimator, "num_samples": options.num_samples}
            raise SiteError(
                f"site {msg['name']!r} is marked infer={asked}, but vectorize_samples=False draws every site once in "
                f"each of {self._options.num_samples} runs: remove the mark, or use vectorize_samples=True"
            )


class _Drawn(TorchDistribution):
    """Stands in for a site's distribution while Pyro lays its values out along an enumeration dim."""

    def __init__(self, fn: Any, values: Tensor) -> None:
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)
        self._values = values

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self._values


class ModelEnumMessenger(EnumMessenger):
    """Enumerates sites along dims that no site inside ``pyro.markov`` uses, unless it is inside too.

    Pyro recycles the dims of a Markov chain for the sites after it; since the model runs when the guide has taken all
    its dims, it would then take a value in the chain for one of those sites, and the expectation would be wrong.

    Args:
        first_available_dim: the rightmost dim that may be used; None to go on from the guide's.
        guide: the messenger of the guide, whose chains are heeded too.
    """

    def __init__(self, first_available_dim: int | None = None, guide: ModelEnumMessenger | None = None) -> None:
        super().__init__(first_available_dim)
        self._guide = guide
        self._lowest = 0  # the leftmost dim of a site inside pyro.markov

    def __enter__(self) -> Any:
        self._lowest = 0 if self._guide is None else self._guide._lowest
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        inside = msg["infer"].get("_markov_scope") is not None
        if not inside and self._lowest < 0:
            free = min(_ENUM_ALLOCATOR.next_available_dim, self._lowest - 1)
            _ENUM_ALLOCATOR.next_available_dim = free
        super()._pyro_sample(msg)
        if inside:
            self._lowest = min(self._lowest, msg["infer"].get("_enumerate_dim", 0))


class SampleSetMessenger(ModelEnumMessenger):
    """Gives each site that wants one a sample set along a fresh enumeration dim; leaves all others to Pyro.

    Args:
        first_available_dim: the rightmost dim that sample sets may use, left of all plates.
        options: the estimator and sizes of every site that is not marked otherwise.
        draw: a function that draws the set of a site, ``(distribution, options) -> SampleSet``.
    """

    def __init__(
        self,
        first_available_dim: int,
        options: SetOptions,
        draw: Callable[[Any, SetOptions], SampleSet] = draw_sample_set,
    ) -> None:
        super().__init__(first_available_dim)
        self._options = options
        self._draw = draw

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or not is_set_site(msg) or not isinstance(msg["fn"], TorchDistributionMixin):
            super()._pyro_sample(msg)
            return
        fn, options = msg["fn"], site_options(msg, self._options)
        if options.estimator == "reinforce":
            super()._pyro_sample(msg)  # gives the site no dim, but notes which it may get from sets it depends on
            drawn = draw_sample_set(fn, replace(options, estimator="leave_one_out", num_samples=1))
            msg["value"], msg["done"] = drawn.values[0], True
            infer = {key: value for key, value in msg["infer"].items() if key not in ("enumerate", "num_samples")}
            msg["infer"] = {**infer, SET_KEY: SiteSet(drawn, fn.batch_shape, None)}
            return
        drawn = self._draw_named(msg["name"], fn, options)
        self._check_leaves(msg["name"], fn, drawn, options)
        msg["fn"] = _Drawn(fn, drawn.values)
        msg["infer"] = {**msg["infer"], "enumerate": "parallel", "num_samples": None}
        super()._pyro_sample(msg)
        msg["fn"] = fn
        infer = {key: value for key, value in msg["infer"].items() if key not in ("enumerate", "num_samples")}
        msg["infer"] = {**infer, SET_KEY: SiteSet(drawn, fn.batch_shape, infer["_enumerate_dim"])}

    def _draw_named(self, name: str, fn: Any, options: SetOptions) -> SampleSet:
        try:
            with naming_site(name):
                return self._draw(fn, options)
        except InfiniteSupportError as error:
            raise SiteError(
                f"site {name!r}: {error}, as the {options.estimator} estimator needs; "
                'mark it infer={"estimator": "leave_one_out"}, or use TraceLeaveOneOut_ELBO'
            ) from error

    def _check_leaves(self, name: str, fn: Any, drawn: SampleSet, options: SetOptions) -> None:
        """Refuse a site whose sample sets, multiplied with those it depends on, are too many to evaluate."""
        num_plates = -1 - (self.first_available_dim or 0)
        upstream = math.prod(fn.batch_shape[: max(len(fn.batch_shape) - num_plates, 0)])
        leaves = upstream * drawn.values.shape[0]
        if leaves > options.max_leaves:
            raise SiteError(
                f"site {name!r} depends on sample sets upstream of it: {leaves} joint values are more than "
                f"max_leaves={options.max_leaves}. Use fewer samples, pyro.markov where the dependence is local, "
                "or TraceUnorderedBeam_ELBO, whose cost does not grow with the number of sites"
            )
