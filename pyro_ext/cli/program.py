"""Which model is to be fitted to which data: names of this package, or functions of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_ext.cli.errors import nearest
from pyro_ext.models import MODELS, ModelEntry

if TYPE_CHECKING:
    from pyro_ext.inference import TrainingPlan
    from pyro_ext.inference.training import Origin

__all__ = ["Program"]


@dataclass(frozen=True)
class Program:
    """A model and a data set, before their options are known.

    Args:
        name: the model as it was written.
        build: the function that builds its training plan.
        data: the data set as it was written: a name, or the path of a function.
        load: the function that loads it.
        entry: what is known of a model of this package.
        data_options: options of the data set that follow from how it was written, the path of a file.
    """

    name: str
    build: Callable[..., TrainingPlan]
    data: str
    load: Callable[..., Any]
    entry: ModelEntry | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def named(cls, model: str, data: str | None) -> Program:
        """Return the program of a model and a data set.

        Args:
            model: a model of this package, or ``package.module:function``.
            data: a data set of this package, ``package.module:function``, or a file, where the model's own data set is
                read from one; the model's own data set if None.

        Raises:
            ValueError: if one of them does not exist, or a model of one's own is given without data.
        """
        entry = MODELS.get(model)
        if entry is None and ":" not in model:
            known = ", ".join(MODELS)
            raise ValueError(
                f"there is no model {model!r}; choose one of {known}, or a function of your own, my_module:build"
            )
        build = _function(model, "MODEL") if entry is None else import_module(entry.module).build
        first = next(iter(inspect.signature(build).parameters), None)
        if first != "data":
            raise ValueError(f"MODEL: the first argument of {model!r} must be called data, got {first!r}")
        if data is None and entry is None:
            raise ValueError("--data is needed for a model of your own: a data set's name, or my_module:load")
        name, load, options = _data(entry, entry.data if data is None and entry else str(data))
        return cls(model, build, name, load, entry, options)

    @property
    def summary(self) -> str:
        """One line on the model."""
        if self.entry is not None:
            return self.entry.summary
        return (inspect.getdoc(self.build) or self.name).partition("\n")[0]

    @property
    def files(self) -> tuple[str, ...]:
        """Arguments of ``build`` that are lists of files."""
        return () if self.entry is None else self.entry.files

    def defaults(self, prefix: str = "") -> dict[str, Any]:
        """Return the model's own defaults of options that begin with ``prefix``.

        Those of data are for the data set that the model names.
        """
        if self.entry is None:
            return {}
        own = {name: value for name, value in self.entry.defaults.items() if name.startswith(prefix)}
        same = self.data == self.entry.data
        return {name: value for name, value in own.items() if same or not name.startswith("data.")}

    def loaded(self, options: Mapping[str, Any]) -> Any:
        """Return the data; a mapping of ``"train"`` and perhaps ``"valid"`` and ``"test"`` becomes splits."""
        data = self.load(**options)
        if isinstance(data, Mapping):
            from pyro_ext.datasets import as_splits

            return as_splits(data)
        return data

    def origin(self, options: Mapping[str, Any], data_options: Mapping[str, Any]) -> Origin:
        """Return where a plan comes from that is built with these options, as they are written in files."""
        from pyro_ext.inference.training import Origin

        return Origin(_path(self.build), dict(options), _path(self.load), dict(data_options))


def _data(entry: ModelEntry | None, given: str) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    """Return the name of a data set, its loader, and the options that follow from how it was written."""
    import pyro_ext.datasets as datasets

    if given in datasets.AVAILABLE:
        return given, datasets.AVAILABLE[given], {}
    if ":" in given and not Path(given).exists():
        return given, _function(given, "--data"), {}
    own = None if entry is None else datasets.AVAILABLE[entry.data]
    from_file = own is not None and "path" in inspect.signature(own).parameters
    if entry is not None and own is not None and from_file and Path(given).is_file():
        return entry.data, own, {"path": given}
    known = ", ".join(datasets.AVAILABLE)
    file = f"neither a file ({entry.data}) nor a data set" if entry is not None and from_file else "no data set"
    hint = nearest(given, datasets.AVAILABLE)
    raise ValueError(f"--data: {given!r} is {file}; those are {known}, or a function of your own, my_module:load{hint}")


def _function(path: str, option: str) -> Callable[..., Any]:
    """Return the function at ``package.module:name``."""
    module, _, name = path.partition(":")
    try:
        function = getattr(import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{option}: {path!r} cannot be imported: {error}") from error
    if not callable(function):
        raise ValueError(f"{option}: module {module!r} has no function {name!r}")
    return function


def _path(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{function.__qualname__}"
