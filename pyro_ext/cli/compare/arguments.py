"""The options of ``pyro-ext compare MODEL``, and the estimators that they name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from pyro.infer import ELBO

from pyro_ext.cli.fit_arguments import FirstLook, builder
from pyro_ext.inference import TraceDisARM_ELBO
from pyro_ext.models import describe

__all__ = ["Estimator", "checkpoint_in", "compare_parser", "estimators", "with_data_of_run"]

_DEFAULT = "Trace_ELBO,TraceLeaveOneOut_ELBO,TraceSumAndSample_ELBO,TraceUnorderedSet_ELBO"
_SET_HERE = {
    "max_plate_nesting": "the model's",
    "num_particles": "set by --evaluations",
    "num_samples": "set by --evaluations",
    "vectorize_particles": "set by --evaluations",
}


@dataclass(frozen=True)
class Estimator:
    """An ELBO to compare.

    Args:
        label: as it was written.
        kind: its class.
        options: further arguments of the class.
    """

    label: str
    kind: type[ELBO]
    options: dict[str, Any]

    def make(self, evaluations: int, max_plate_nesting: float = math.inf) -> ELBO:
        """Return the ELBO that evaluates the model ``evaluations`` times for each datum and step.

        Raises:
            ValueError: if the class does not take its options.
            NotImplementedError: if it cannot be made to do so many evaluations.
        """
        arguments = {**_spending(self.kind, evaluations), "max_plate_nesting": max_plate_nesting}
        try:
            return self.kind(**arguments, **self.options)
        except (TypeError, ValueError) as error:
            if self.options:
                raise ValueError(f"--elbos: {self.label}: {error}") from error
            raise NotImplementedError(str(error)) from error


def estimators(text: str) -> list[Estimator]:
    """Read ``NAME,NAME:option=value:option=value,...``.

    Args:
        text: short names of ELBOs or class paths, each with options of its own if need be.

    Raises:
        ValueError: if there are none, one is named twice, a name is unknown, or an option is malformed.

    Example:
        >>> [(each.kind.__name__, each.options) for each in estimators("Trace_ELBO,TraceUnorderedSet_ELBO:baseline=no")]
        [('Trace_ELBO', {}), ('TraceUnorderedSet_ELBO', {'baseline': False})]
    """
    found = [_estimator(label.strip()) for label in text.split(",") if label.strip()]
    labels = [each.label for each in found]
    if not found:
        raise ValueError("--elbos must name at least one ELBO, as in --elbos Trace_ELBO,TraceUnorderedSet_ELBO")
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"--elbos names {twice} twice")
    return found


def compare_parser(look: FirstLook, checkpoint: str | None) -> ArgumentParser:
    """Return the parser of everything that can be said after MODEL.

    Args:
        look: the model and the data.
        checkpoint: the folder of a run, whose model and data are the defaults.
    """
    import pyro_ext.datasets as datasets

    parser = ArgumentParser(description=describe()[look.model].summary, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file of options, as --print_config prints them")
    _add_own_options(parser)
    parser.add_function_arguments(builder(look.model), "model", skip={"data"})
    parser.add_argument(
        "--data.name", default=look.data, choices=[*datasets.AVAILABLE], help="also written --data NAME"
    )
    parser.add_function_arguments(datasets.AVAILABLE[look.data], "data")
    known = parser.get_defaults()
    run = _noted(checkpoint)
    if run.get("data", {}).get("name", look.data) != look.data:
        run.pop("data")  # options of another data set
    given = {f"{section}.{name}": value for section, options in run.items() for name, value in options.items()}
    parser.set_defaults({key: value for key, value in given.items() if key in known})
    return parser


def with_data_of_run(words: Sequence[str]) -> list[str]:
    """Return the words after MODEL with the data of the run that ``--checkpoint`` names, unless they name their own."""
    name = _noted(checkpoint_in(words)).get("data", {}).get("name")
    if name is None or any(word.partition("=")[0] in ("--data", "--data.name") for word in words):
        return [*words]
    return ["--data", name, *words]


def _noted(checkpoint: str | None) -> dict[str, dict[str, Any]]:
    """Return the ``model`` and ``data`` options that a run's folder notes, if any."""
    path = Path(checkpoint or "") / "config.yaml"
    if checkpoint is None or not path.is_file():
        return {}
    try:
        noted = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--checkpoint: {str(path)!r} cannot be read: {error}") from error
    noted = noted if isinstance(noted, dict) else {}
    return {section: noted[section] for section in ("model", "data") if isinstance(noted.get(section), dict)}


def checkpoint_in(words: Sequence[str]) -> str | None:
    """Return what the words give ``--checkpoint``, if anything."""
    for word, following in zip_longest(words, words[1:]):
        option, equals, value = word.partition("=")
        if option == "--checkpoint":
            return value if equals else following
    return None


def _add_own_options(parser: ArgumentParser) -> None:
    def add(name: str, kind: Any, default: Any, text: str) -> None:
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)

    add("elbos", str, _DEFAULT, "ELBOs by name or class path, with commas between; options as in NAME:baseline=false")
    add("evaluations", int, 4, "of the model, for each datum and step: the samples or particles of every estimator")
    add("epochs", int | None, None, "train so long by leave-one-out before measuring, 20 by default; 0: fresh weights")
    add("checkpoint", str | None, None, "measure at the weights in this folder of a run instead")
    add("repeats", int, 200, "gradients of each estimator")
    add("fit_epochs", int, 20, "train so long by each estimator, to compare final bounds; 0: do not")
    add("max_leaves", int, 4096, "enumerate up to so many joint values to find the bias")
    add("lr", float, 1e-3, "Adam's learning rate")
    add("batch_size", int, 100, "data points per step")
    add("seed", int | None, None, "repeats a comparison; by default drawn, and noted")
    add("device", str | None, None, "cpu or cuda; by default cuda where there is one")
    add("out", str, "runs/compare", "the folder of results")


def _estimator(label: str) -> Estimator:
    name, *settings = label.split(":")
    return Estimator(label, _kind(name), dict(_options(label, settings)))


def _kind(name: str) -> type[ELBO]:
    from pyro_ext.cli.elbos import elbo_names

    known = elbo_names()
    if "." not in name and name not in known:
        raise ValueError(f"--elbos: there is no ELBO {name!r}; choose class paths or from {', '.join(sorted(known))}")
    module, _, attribute = known.get(name, name).rpartition(".")
    try:
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--elbos: {name!r} cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, ELBO)):
        raise ValueError(f"--elbos: {name!r} is not an ELBO")
    return kind


def _options(label: str, settings: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not (equals and option.isidentifier()):
            raise ValueError(f"--elbos: {label}: {setting!r} must have the form option=value")
        if option in _SET_HERE:
            raise ValueError(f"--elbos: {label}: {option} is {_SET_HERE[option]}")
        yield option, yaml.safe_load(value)


def _spending(kind: type[ELBO], evaluations: int) -> dict[str, Any]:
    """Return the arguments that make an ELBO of this class evaluate the model so many times."""
    if issubclass(kind, TraceDisARM_ELBO):
        if evaluations % 2:
            raise NotImplementedError(f"it evaluates in pairs, and --evaluations={evaluations} is odd")
        evaluations //= 2
    elif "num_samples" in inspect.signature(kind).parameters:
        return {"num_samples": evaluations}
    return {"num_particles": evaluations, "vectorize_particles": evaluations > 1}
