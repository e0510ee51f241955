"""The options of ``pyro-ext fit MODEL``: found in signatures once the model, the data and the ELBO are known."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from pyro_ext.models import AVAILABLE, describe

__all__ = ["FirstLook", "builder", "first_look", "full_parser", "rewritten"]

_WITHOUT_EFFECT = {
    "enable_autolog_hparams",
    "enable_model_summary",
    "inference_mode",
    "limit_predict_batches",
    "limit_test_batches",
    "limit_val_batches",
    "model_registry",
    "num_sanity_val_steps",
    "val_check_interval",
}
"""Trainer flags about validation loops, which the engine does not use, and about services."""


@dataclass(frozen=True)
class FirstLook:
    """What has to be known before the parser can be made.

    Args:
        model: the model's name.
        data: the data set's name.
        out: the folder of the run.
        configs: options of files, those of an interrupted run first.
        has_elbo: whether the words or the files name an ELBO.
    """

    model: str
    data: str
    out: Path
    configs: tuple[dict[str, Any], ...]
    has_elbo: bool


def first_look(model: str, words: Sequence[str]) -> FirstLook:
    """Read from the words after MODEL what the other options depend on.

    Raises:
        ValueError: if the model or the data set does not exist, or a file of options cannot be read.
    """
    if model not in AVAILABLE:
        raise ValueError(f"there is no model {model!r}; choose one of {', '.join(AVAILABLE)}")
    scan = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--name", "--out", "--elbo"):
        scan.add_argument(option)
    scan.add_argument("--data", "--data.name", dest="data")
    scan.add_argument("--config", action="append", default=[])
    scan.add_argument("--resume", nargs="?", const="true", default="false")
    seen, _ = scan.parse_known_args(words)
    given = [_read(path) for path in seen.config]
    named = _last(given, "name") if seen.name is None else seen.name
    out = Path(seen.out or _last(given, "out") or Path("runs") / (named or model))
    earlier = out / "config.yaml"
    if seen.resume.lower() in ("true", "yes") and earlier.is_file():
        given.insert(0, _read(str(earlier)))
    given = [_with_data_in_full(model, options) for options in given]
    data = _data_of(model, seen.data) if seen.data else _last(given, "data") or {}
    name = data.get("name") or describe()[model].data
    return FirstLook(model, name, out, tuple(given), bool(seen.elbo or _last(given, "elbo")))


def rewritten(look: FirstLook, words: Sequence[str]) -> list[str]:
    """Return the words as the full parser wants them: short names in full, files of options first.

    Raises:
        ValueError: if an ELBO's option comes without an ELBO, or its name is unknown.
    """
    import yaml

    from pyro_ext.cli.elbos import class_path

    files: dict[str, list[str]] = {}
    result: list[str] = []
    for option, values, written in _options(words):
        if option.removeprefix("--") in describe()[look.model].files:
            files.setdefault(option.removeprefix("--"), []).extend(values)
        elif option == "--data" and values:
            found = _data_of(look.model, values[0])
            result += [f"--data.{name}={value}" for name, value in found.items()] + values[1:]
        elif option == "--elbo" and values:
            result += [f"--elbo={class_path(values[0])}", *values[1:]]
        elif option == "--config":
            result += values[1:]
        else:
            if option.startswith("--elbo.") and not look.has_elbo and option != "--elbo.help":
                raise ValueError(f"{option} needs --elbo NAME, the ELBO whose option it is")
            result += written
    # Options of files come first, so that words override them wherever they stand.
    configs = [word for options in look.configs for word in ("--config", yaml.safe_dump(options))]
    return [*configs, *result, *(f"--model.{name}={json.dumps(paths)}" for name, paths in files.items())]


def builder(model: str) -> Callable[..., Any]:
    """Return a model's ``build``."""
    build: Callable[..., Any] = import_module(AVAILABLE[model]).build
    return build


def full_parser(look: FirstLook) -> ArgumentParser:
    """Return the parser of everything that can be said after MODEL."""
    from lightning.pytorch import Trainer
    from pyro.infer import ELBO

    import pyro_ext.datasets as datasets
    from pyro_ext.inference.fit.engine import RESERVED

    usage = f"pyro-ext fit {look.model} [options]"
    parser = ArgumentParser(usage=usage, description=describe()[look.model].summary, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file of options, like config.yaml of an earlier run")
    _add_run_options(parser)
    parser.add_function_arguments(builder(look.model), "model", skip={"data"})
    known = [*datasets.AVAILABLE]
    parser.add_argument("--data.name", default=look.data, choices=known, help="a data set; also written --data NAME")
    # Not as a group: that would take --data for the name of a file.
    parser.add_function_arguments(datasets.AVAILABLE[look.data], "data", as_group=False)
    help_elbo = "an ELBO of pyro.infer or pyro_ext.inference by name, or any by class path; by default the model's own"
    parser.add_subclass_arguments(ELBO, "elbo", required=False, help=help_elbo)
    skip = {*RESERVED, *_WITHOUT_EFFECT}
    parser.add_class_arguments(Trainer, "trainer", skip=skip, instantiate=False)
    model = describe()[look.model]
    # a model's defaults for data are for the data set that it names
    own = {name: value for name, value in model.defaults.items() if name[:5] != "data." or look.data == model.data}
    parser.set_defaults({"trainer.max_epochs": 20, **own})
    return parser


def _add_run_options(parser: ArgumentParser) -> None:
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    parser.add_argument("--lr_decay", type=float, default=1.0, help="what it is multiplied by, again and again")
    parser.add_argument("--lr_decay_every", type=int, default=1, help="after so many steps each time")
    parser.add_argument("--batch_size", type=int, default=100, help="data points per step and process")
    parser.add_argument("--seed", type=int | None, default=None, help="repeats a run; by default drawn, and noted")
    parser.add_argument("--name", type=str | None, default=None, help="results go to runs/NAME; by default the model's")
    parser.add_argument("--out", type=str | None, default=None, help="the folder of results, instead of runs/NAME")
    parser.add_argument("--resume", nargs="?", const=True, type=bool, default=False, help="continue the run there")
    parser.add_argument(
        "--checkpoint_every_n_steps", type=int | None, default=None, help="write checkpoints within epochs too"
    )


def _data_of(model: str, given: str) -> dict[str, str]:
    """Return the data set that a word stands for: its name, or the path of a file where the model's is read from one.

    Raises:
        ValueError: if it is neither.
    """
    import pyro_ext.datasets as datasets

    own, known = describe()[model].data, ", ".join(datasets.AVAILABLE)
    if given in datasets.AVAILABLE:
        return {"name": given}
    if "path" not in inspect.signature(datasets.AVAILABLE[own]).parameters:
        raise ValueError(f"--data: there is no data set {given!r}; choose one of {known}")
    if not Path(given).is_file():
        raise ValueError(f"--data: {given!r} is neither a file ({own}) nor a data set; those are {known}")
    return {"name": own, "path": given}


def _with_data_in_full(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a file with a data set that is given by one word as those of the full parser."""
    data = options.get("data")
    if isinstance(data, dict) and "name" in data:
        return {**options, "data": {**data, **_data_of(model, data["name"])}}
    return {**options, "data": _data_of(model, data)} if isinstance(data, str) else options


def _options(words: Sequence[str]) -> Iterator[tuple[str, list[str], Sequence[str]]]:
    """Yield each option, the words that follow or are joined to it, and all of this as it was written."""
    begins = [at for at, word in enumerate(words) if re.match("--?[a-zA-Z]", word)]
    starts = [*dict.fromkeys([0, *begins])] if words else []
    for start, stop in itertools.pairwise([*starts, len(words)]):
        written = words[start:stop]
        option, equals, value = written[0].partition("=")
        yield option, [*([value] if equals else []), *written[1:]], written


def _read(path: str) -> dict[str, Any]:
    import yaml

    try:
        options = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config: {path!r} cannot be read: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"--config: {path!r} must hold options by name, as --print_config prints them")
    return options


def _last(configs: Sequence[dict[str, Any]], name: str) -> Any:
    return next((options[name] for options in reversed(configs) if options.get(name) is not None), None)
