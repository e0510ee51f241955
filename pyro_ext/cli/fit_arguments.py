"""The options of ``pyro-ext fit MODEL``: found in signatures once the model, the data and the ELBO are known."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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
        configs: files of options, those of an interrupted run first.
        has_elbo: whether the words or the files name an ELBO.
    """

    model: str
    data: str
    out: Path
    configs: tuple[str, ...]
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
        seen.config.insert(0, str(earlier))
        given.insert(0, _read(str(earlier)))
    data = seen.data or _name_of(_last(given, "data")) or describe()[model].data
    _check_data(data)
    return FirstLook(model, data, out, tuple(seen.config), bool(seen.elbo or _last(given, "elbo")))


def rewritten(look: FirstLook, words: Sequence[str]) -> list[str]:
    """Return the words as the full parser wants them: short names in full, files of options first.

    Raises:
        ValueError: if an ELBO's option comes without an ELBO, or its name is unknown.
    """
    from pyro_ext.cli.elbos import class_path

    result: list[str] = []
    for position, word in enumerate(words):
        option, equals, value = word.partition("=")
        before = words[position - 1] if position else ""
        if option == "--data":
            result.append(f"--data.name{equals}{value}")
        elif option == "--elbo" and equals:
            result.append(f"--elbo={class_path(value)}")
        elif before == "--elbo":
            result.append(class_path(word))
        else:
            if option.startswith("--elbo.") and not look.has_elbo and option != "--elbo.help":
                raise ValueError(f"{option} needs --elbo NAME, the ELBO whose option it is")
            result.append(word)
    # Files of options come first, so that words override them wherever they stand.
    files = [word for path in look.configs for word in ("--config", path)]
    return [*files, *_without_configs(result)]


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
    parser.set_defaults({"trainer.max_epochs": 20})
    return parser


def _add_run_options(parser: ArgumentParser) -> None:
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    parser.add_argument("--batch_size", type=int, default=100, help="data points per step and process")
    parser.add_argument("--seed", type=int | None, default=None, help="repeats a run; by default drawn, and noted")
    parser.add_argument("--name", type=str | None, default=None, help="results go to runs/NAME; by default the model's")
    parser.add_argument("--out", type=str | None, default=None, help="the folder of results, instead of runs/NAME")
    parser.add_argument("--resume", nargs="?", const=True, type=bool, default=False, help="continue the run there")
    parser.add_argument(
        "--checkpoint_every_n_steps", type=int | None, default=None, help="write checkpoints within epochs too"
    )


def _check_data(name: str) -> None:
    import pyro_ext.datasets as datasets

    if name not in datasets.AVAILABLE:
        raise ValueError(f"--data: there is no data set {name!r}; choose one of {', '.join(datasets.AVAILABLE)}")


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


def _name_of(data: Any) -> str | None:
    return data.get("name") if isinstance(data, dict) else data


def _without_configs(words: Sequence[str]) -> list[str]:
    before = ["", *words]
    return [word for word, last in zip(words, before, strict=False) if not _names_config(word) and last != "--config"]


def _names_config(word: str) -> bool:
    return word == "--config" or word.startswith("--config=")
