"""The messenger of GECO: observed sites score their weighted constraints in the place of their likelihoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from pyro_ext.inference.constraints import Constraint
from pyro_ext.utils.shapes import broadcast_shapes


class _Constrained(TorchDistribution):
    """Has minus the weighted constraints of another distribution as its ``log_prob``."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        base: TorchDistribution,
        site: str,
        terms: Mapping[str, tuple[Constraint, Tensor]],
        sites: Mapping[str, Any],
        mask: Any,
    ) -> None:
        self.base, self.site, self.terms, self.sites, self.mask_of_data = base, site, terms, sites, mask
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> _Constrained:
        return _Constrained(self.base.expand(batch_shape), self.site, self.terms, self.sites, self.mask_of_data)

    def log_prob(self, value: Tensor) -> Tensor:
        value = _without_hidden_nan(value, self.mask_of_data, self.event_dim)
        batch_shape = value.shape[: value.dim() - self.event_dim]
        expected = broadcast_shapes(batch_shape, self.batch_shape)
        total: Tensor | float = 0.0
        for name, (constraint, multiplier) in self.terms.items():
            result = constraint(self.base, value, self.sites)
            if not isinstance(result, Tensor) or result.shape != expected:
                shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
                raise ValueError(
                    f"constraint {name!r} of site {self.site!r} must return a tensor of shape {tuple(expected)}, one "
                    f"number for each data point, got {shape}; sum over the event's dims"
                )
            total = total - multiplier.to(result) * result
        assert isinstance(total, Tensor)
        return total


class ConstrainMessenger(Messenger):
    """Puts constraints in the place of likelihoods."""

    def __init__(self, terms: Mapping[str, Mapping[str, tuple[Constraint, Tensor]]]) -> None:
        super().__init__()
        self.terms = terms
        self.sizes: dict[str, list[Tensor]] = {name: [] for name in terms}
        self.observed: dict[str, None] = {}
        self.values: dict[str, Any] = {}

    def __enter__(self) -> ConstrainMessenger:
        self.values = {}
        return super().__enter__()

    def _pyro_sample(self, msg: Message) -> None:
        name, fn = msg["name"], msg["fn"]
        if not msg["is_observed"] or (not isinstance(fn, TorchDistribution) and not hasattr(fn, "log_prob")):
            if name in self.terms:
                raise ValueError(f"site {name!r} has a constraint but is not observed; constrain an observed site")
            return
        self.observed[name] = None
        if name not in self.terms:
            return
        mask = msg["mask"]
        while isinstance(fn, MaskedDistribution):
            mask = fn._mask if mask is None or mask is True else fn._mask & mask
            fn = fn.base_dist
        self.sizes[name].append(_size(msg, mask))
        msg["mask"] = mask
        msg["fn"] = _Constrained(fn, name, self.terms[name], dict(self.values), mask)

    def _pyro_post_sample(self, msg: Message) -> None:
        self.values[msg["name"]] = msg["value"]

    def check_sizes(self) -> dict[str, Tensor]:
        """Return for each constrained site the number of data points it stands for.

        Raises:
            ValueError: if the model did not visit it.
        """
        for name, sizes in self.sizes.items():
            if not sizes:
                raise ValueError(
                    f"constraints must name observed sites of the model, got {name!r}; the observed sites are "
                    f"{', '.join(self.observed) or 'none'}"
                )
        return {name: torch.stack(sizes).mean(0) for name, sizes in self.sizes.items()}


def _size(msg: Message, mask: Any) -> Tensor:
    """Return the number of data points that a site stands for: the sum of scale and mask over its plates."""
    like = msg["value"]
    weight = torch.as_tensor(msg["scale"], device=like.device)
    weight = weight.to(like.dtype if like.is_floating_point() else torch.get_default_dtype())
    if mask is not None:
        weight = weight * torch.as_tensor(mask, device=like.device)
    number = 1
    for frame in msg["cond_indep_stack"]:
        number *= frame.size if frame.vectorized else 1
    return weight.detach().mean() * number


def _without_hidden_nan(value: Tensor, mask: Any, num_event_dims: int) -> Tensor:
    """Return the value with 0 where it is not a number and masked out; it would spoil gradients even there."""
    if not isinstance(mask, Tensor) or not value.is_floating_point():
        return value
    return torch.where(mask.reshape(mask.shape + (1,) * num_event_dims), value, value.nan_to_num())
