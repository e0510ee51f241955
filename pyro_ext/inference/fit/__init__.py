"""Fitting a model and its guide on Lightning: checkpoints, exact resume, progress, CPU, GPU or several of them.

Lightning is imported when :func:`fit`, :class:`FitModule` or :class:`FitDataModule` is first asked for, not before.
The package itself may be called: ``pyro_ext.inference.fit(built, data, max_epochs=10)`` is
``pyro_ext.inference.fit.fit(built, data, max_epochs=10)``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyro_ext.inference.fit.built import Built, ExtraLoss
from pyro_ext.inference.fit.local import LocalELBOModule, local_params

if TYPE_CHECKING:
    from pyro_ext.inference.fit.data import FitDataModule
    from pyro_ext.inference.fit.engine import FitResult, Run, fit, prepare
    from pyro_ext.inference.fit.module import FitModule

__all__ = [
    "Built",
    "ExtraLoss",
    "FitDataModule",
    "FitModule",
    "FitResult",
    "LocalELBOModule",
    "Run",
    "fit",
    "local_params",
    "prepare",
]

_LAZY = {
    "FitDataModule": "data",
    "FitModule": "module",
    "FitResult": "engine",
    "Run": "engine",
    "fit": "engine",
    "prepare": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallablePackage(ModuleType):
    """Lets ``from pyro_ext.inference import fit`` give both the package and the function of that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> FitResult:
        return self.fit(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
