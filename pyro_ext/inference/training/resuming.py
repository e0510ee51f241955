"""What an interrupted run must have in common with the one that goes on with it: settings, and shapes of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from pyro_ext.inference.training.objectives import SumObjective
from pyro_ext.inference.training.plan import TrainingPlan
from pyro_ext.inference.training.settings import FitSettings

__all__ = ["check_example", "check_fits", "check_settings", "described_settings", "storable"]


def described_settings(
    plan: TrainingPlan, settings: FitSettings, seed: int, size: int, processes: int
) -> dict[str, Any]:
    """Return all settings that an interrupted run must be resumed with, as plain data by dotted names."""
    described: dict[str, Any] = {"seed": seed, "batch_size": settings.batch_size}
    if plan.origin is not None:  # before all that follows from options of the model and of the data
        described |= _flat("model", {"build": plan.origin.build, **plan.origin.options})
        described |= _flat("data", {"load": plan.origin.load, **plan.origin.data_options})
    described |= {"size": size, "processes": processes}
    for name in ("scheduler", "early_stopping"):
        value = getattr(settings, name)
        described |= _flat(name, None if value is None else asdict(value))
    for player in plan.players:
        prefix = "" if len(plan.players) == 1 else f"players.{player.name}."
        described |= _flat(f"{prefix}optimizer", player.optimizer.as_dict())
        described[f"{prefix}every"] = player.every
        for part in player.objective.parts():
            if isinstance(part, SumObjective):
                described |= _flat(f"{prefix}weights", part.weights)
        for number, objective in enumerate(plan.elbo_objectives_of(player)):
            described |= _flat(f"{prefix}elbo{number or ''}", _described_elbo(objective.elbo))
    return described


def check_example(saved: Mapping[str, Any] | None, example: Any) -> None:
    """Raise a ValueError if the first batch is another one than that of the run to resume.

    Args:
        saved: the checkpoint, if there is one.
        example: the first batch, which depends on the data and the seed.
    """
    if saved is not None and saved["fit"]["example"] is not None and not _equal(saved["fit"]["example"], example):
        raise ValueError(
            "the data differ from those that the run to resume began with: the first batch is another; use the same "
            "data and options of data"
        )


def _described_elbo(elbo: Any) -> dict[str, Any]:
    """Return the class of an ELBO and its options; the plates' number is left out, since it is found in use."""
    plain = {
        name: value
        for name, value in vars(elbo).items()
        if not name.startswith("_") and name not in ("training", "max_plate_nesting") and _is_plain(value)
    }
    return {"name": type(elbo).__name__, "options": dict(sorted(plain.items()))}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and _same_values(one, other.to(one.device))
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other) if _is_plain(one) and _is_plain(other) else type(one) is type(other)


def _same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    both_nan = (one != one) & (other != other)
    return bool((torch.eq(one, other) | both_nan).all())


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Return nested data by dotted names; what is no plain value is told by its text."""
    if isinstance(value, Mapping) and value:
        result: dict[str, Any] = {}
        for key, inner in value.items():
            result |= _flat(name if key == "options" else f"{name}.{key}", inner)
        return result
    if isinstance(value, tuple | list):
        return {name: [_plain(part) for part in value]}
    return {name: _plain(value)}


def _plain(value: Any) -> Any:
    if _is_plain(value):
        return value
    name = getattr(value, "__qualname__", None)  # of functions and classes, whose text has an address in it
    return str(value) if name is None else f"{value.__module__}:{name}"


def storable(batch: Any) -> Any:
    """Return a batch as plain data that a checkpoint can hold, or None where it holds anything else than tensors.

    Example:
        >>> storable((torch.zeros(2), None, [object()])) is None
        True
    """
    if batch is None or isinstance(batch, torch.Tensor | bool | int | float | str):
        return batch
    if isinstance(batch, tuple | list):
        parts = [storable(part) for part in batch]
        lost = any(part is None and given is not None for part, given in zip(parts, batch, strict=True))
        return None if lost else tuple(parts)
    return None


def check_settings(saved: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> None:
    """Raise a ValueError that names the first setting in which a run to resume differs.

    Args:
        saved: the checkpoint, if there is one.
        settings: those given now, by dotted names.
    """
    began_with = settings if saved is None else saved["fit"]["settings"]
    for name in (*began_with, *settings):
        began, given = began_with.get(name), settings.get(name)
        if given != began:
            raise ValueError(f"{name}={given}, but the run to resume began with {name}={began}; use the same")


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def check_fits(saved_state: Mapping[str, Any], own_state: Mapping[str, Any]) -> None:
    """Raise a ValueError unless two states hold tensors of the same names and shapes.

    Args:
        saved_state: the state in a checkpoint.
        own_state: the state of what it is to be loaded into.
    """
    saved, own = _shapes(saved_state), _shapes(own_state)
    differing = sorted(name for name in saved.keys() | own.keys() if saved.get(name) != own.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"the checkpoint does not fit this model: {name!r} has shape {saved.get(name)} there and {own.get(name)} "
            f"here ({len(differing)} of {len(saved)} differ); resume with the options the run began with"
        )
