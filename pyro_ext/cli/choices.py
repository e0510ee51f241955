"""Which ELBOs the command line knows by their short names, and optimisers and schedulers as settings."""

from __future__ import annotations

from importlib import import_module
from inspect import isabstract
from types import ModuleType

from pyro.infer import ELBO, ReweightedWakeSleep

from pyro_ext.cli.errors import nearest
from pyro_ext.inference.training.local import check_elbo

__all__ = ["check_elbo_name", "class_path", "elbo_names"]


def elbo_names() -> dict[str, str]:
    """Return short name -> class path of every ELBO in ``pyro.infer`` and ``pyro_ext.inference``.

    Example:
        >>> elbo_names()["Trace_ELBO"]
        'pyro.infer.Trace_ELBO'
    """
    import pyro.infer

    import pyro_ext.inference

    return _of(pyro.infer) | _of(pyro_ext.inference)


def class_path(name: str) -> str:
    """Return the class path that ``name``, a short name or a class path, stands for.

    Raises:
        ValueError: if a name without dots is not that of an ELBO.
    """
    if "." in name:
        return name
    known = elbo_names()
    if name not in known:
        usable = sorted(name for name, path in known.items() if _usable(path))
        hint = nearest(name, usable)
        raise ValueError(f"--elbo: there is no ELBO {name!r}; choose a class path or one of {', '.join(usable)}{hint}")
    return known[name]


def check_elbo_name(name: str) -> None:
    """Raise a ValueError if a name or class path is that of no ELBO which can be trained by."""
    path = class_path(name)
    if path in elbo_names().values():
        module, _, last = path.rpartition(".")
        kind = getattr(import_module(module), last)
        if not _usable(path):
            check_elbo(kind.__new__(kind))


def _of(module: ModuleType) -> dict[str, str]:
    exported = {name: getattr(module, name) for name in getattr(module, "__all__", dir(module))}
    return {
        name: f"{module.__name__}.{name}"
        for name, kind in exported.items()
        if isinstance(kind, type) and issubclass(kind, (ELBO, ReweightedWakeSleep)) and not isabstract(kind)
    }


def _usable(path: str) -> bool:
    """Tell whether fit takes this ELBO; it says of the others what to use instead."""
    module, _, name = path.rpartition(".")
    return not name.startswith("Jit") and hasattr(getattr(import_module(module), name), "differentiable_loss")
