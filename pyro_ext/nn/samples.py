"""Samples that remember what they were drawn from, and are drawn when their values are first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.ops.provenance import detach_provenance, track_provenance
from torch import Tensor
from torch.utils._pytree import tree_map_only

__all__ = ["TAG", "LazySample", "LocalParameters", "recall", "remember"]

TAG = "_pyro_ext_local_parameters"
"""The attribute of samples of normal distributions that holds their parameters."""


class LocalParameters(NamedTuple):
    """The parameters of the normal distribution that a weight was drawn from.

    Attributes:
        loc: the means, of the event shape of the weight.
        log_variance: the log-variances, of the same shape.
    """

    loc: Tensor
    log_variance: Tensor


class _Memory(NamedTuple):
    """What a sample was drawn from, and how often values and parameters had changed in place then."""

    parameters: LocalParameters
    versions: tuple[int, ...]


def remember(value: Tensor, name: str, parameters: LocalParameters) -> None:
    """Let a sample know its parameters, as long as nothing of either changes in place.

    Args:
        value: the sample.
        name: the attribute that holds them.
        parameters: what it was drawn from.
    """
    # changes of tensors made in inference mode are not counted
    if not torch.is_inference_mode_enabled() and not any(x.is_inference() for x in parameters):
        setattr(value, name, _Memory(parameters, _versions(value, parameters)))


def recall(value: Tensor, name: str) -> LocalParameters | None:
    """Return the parameters of a sample, or None if it is none or has changed since.

    Args:
        value: any tensor.
        name: the attribute that holds them.
    """
    value = detach_provenance(value)
    memory: _Memory | None = getattr(value, name, None)
    if memory is None or _versions(value, memory.parameters) != memory.versions:
        return None
    return memory.parameters


def _versions(value: Tensor, parameters: LocalParameters) -> tuple[int, ...]:
    values = value._real if isinstance(value, LazySample) else value
    return (0 if values is None else values._version, *(x._version for x in parameters))


class LazySample(Tensor):
    """A sample that is drawn when its values are first needed; shape, type and device are known before."""

    _draw: Callable[[], Tensor]
    _real: Tensor | None
    _with_grad: bool

    @staticmethod
    def __new__(cls: Any, draw: Callable[[], Tensor], shape: torch.Size, like: Tensor) -> Any:
        """Return a tensor of this shape, and of the type and device of another, without values."""
        return Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)

    def __init__(self, draw: Callable[[], Tensor], shape: torch.Size, like: Tensor) -> None:
        super().__init__()
        self._draw, self._real, self._with_grad = draw, None, torch.is_grad_enabled()

    def _drawn(self) -> Tensor:
        if self._real is None:
            if hasattr(self, TAG) and recall(self, TAG) is None:
                raise RuntimeError(
                    "the parameters of a sample of LocalNormal have changed, by a step of an optimiser for example, "
                    "before its values were drawn: ask for value.clone() at once where values are needed later"
                )
            with torch.set_grad_enabled(self._with_grad):
                self._real = self._draw()
        return self._real

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _OF_SHAPES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        args, kwargs = tree_map_only(cls, cls._drawn, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise NotImplementedError(
            f"{func} reached a sample of LocalNormal whose values are not drawn yet: give it value.clone()"
        )


@track_provenance.register(LazySample)
def _track_provenance_of_sample(x: LazySample, provenance: frozenset[Any]) -> Any:
    values = x._drawn()
    if recall(x, TAG) is not None:
        setattr(values, TAG, getattr(x, TAG))
    return track_provenance(values, provenance)


# what is known of a sample before its values are
_OF_SHAPES = frozenset(
    [
        Tensor.dim,
        Tensor.size,
        Tensor.numel,
        Tensor.is_floating_point,
        *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
    ]
)
