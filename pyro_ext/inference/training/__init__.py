"""Training on Lightning: objectives, players, plans; checkpoints, exact resume, progress, CPU, GPU or several of them.

Lightning is imported when :func:`fit` is called or :func:`prepare`, :class:`Run` or :class:`FitModule` is asked for,
not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyro_ext.inference.training.local import LocalELBOModule, local_params
from pyro_ext.inference.training.objectives import ELBOObjective, Losses, LossObjective, Objective, SumObjective
from pyro_ext.inference.training.plan import Origin, Player, TrainingPlan
from pyro_ext.inference.training.pruning import PruningObjective
from pyro_ext.inference.training.results import FitResult, FitWarning
from pyro_ext.inference.training.runs import LoadedRun, fit, load_run
from pyro_ext.inference.training.settings import EarlyStopping, FitSettings, OptimizerSettings, SchedulerSettings

if TYPE_CHECKING:
    from pyro_ext.inference.training.data import FitDataModule
    from pyro_ext.inference.training.engine import Run, prepare
    from pyro_ext.inference.training.module import FitModule

__all__ = [
    "ELBOObjective",
    "EarlyStopping",
    "FitDataModule",
    "FitModule",
    "FitResult",
    "FitSettings",
    "FitWarning",
    "LoadedRun",
    "LocalELBOModule",
    "LossObjective",
    "Losses",
    "Objective",
    "OptimizerSettings",
    "Origin",
    "Player",
    "PruningObjective",
    "Run",
    "SchedulerSettings",
    "SumObjective",
    "TrainingPlan",
    "fit",
    "load_run",
    "local_params",
    "prepare",
]

_LAZY = {"FitDataModule": "data", "FitModule": "module", "Run": "engine", "prepare": "engine"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
