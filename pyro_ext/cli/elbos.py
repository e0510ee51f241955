"""Which ELBOs the command line knows by their short names."""

from __future__ import annotations

from importlib import import_module
from inspect import isabstract
from types import ModuleType

from pyro.infer import ELBO, ReweightedWakeSleep

__all__ = ["class_path", "elbo_names"]


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
        choice = ", ".join(sorted(name for name, path in known.items() if _usable(path)))
        raise ValueError(f"--elbo: there is no ELBO {name!r}; choose a class path or one of {choice}")
    return known[name]


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
