"""What an interrupted run must have in common with the one that goes on with it: settings, and shapes of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from pyro_ext.inference.training.plan import TrainingPlan
from pyro_ext.inference.training.settings import FitSettings

__all__ = ["check_fits", "check_settings", "described_settings"]


def described_settings(
    plan: TrainingPlan, settings: FitSettings, seed: int, size: int, processes: int
) -> dict[str, Any]:
    """Return all settings that an interrupted run must be resumed with, as plain data by dotted names."""
    described: dict[str, Any] = {"seed": seed, "batch_size": settings.batch_size, "size": size, "processes": processes}
    for name in ("scheduler", "early_stopping"):
        value = getattr(settings, name)
        described |= _flat(name, None if value is None else asdict(value))
    for player in plan.players:
        prefix = "" if len(plan.players) == 1 else f"players.{player.name}."
        described |= _flat(f"{prefix}optimizer", player.optimizer.as_dict())
        described[f"{prefix}every"] = player.every
    return described


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
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


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
