"""The options of a model and its data, which several commands share: added to a parser, read from files and words."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from pyro_ext.cli.parsing import flat_names
from pyro_ext.cli.program import Program

__all__ = ["ProgramArguments", "add_data_options", "add_model_options", "data_name", "last_given", "with_data_of"]


@dataclass(frozen=True)
class ProgramArguments:
    """What words and files say of a model, its data and a command's own options, parsed.

    Args:
        program: the model and the data.
        options: all options, with their types.
        parts: the same with ELBOs and dataclasses made.
        noted: all options as they are written in files.
    """

    program: Program
    options: Namespace
    parts: Namespace
    noted: dict[str, Any]

    @property
    def model_options(self) -> dict[str, Any]:
        """The arguments of ``build`` besides the data."""
        files = {name: self.parts[name] for name in self.program.files if self.parts[name] is not None}
        return {**vars(self.parts.get("model") or Namespace()), **files}

    @property
    def data_options(self) -> dict[str, Any]:
        """The arguments of the function that loads the data."""
        return {name: value for name, value in vars(self.parts.data).items() if name != "name"}

    @property
    def option_names(self) -> list[str]:
        """All options of the model, the data and the command, as they are typed."""
        return [f"--{name.replace('.init_args.', '.')}" for name in flat_names(self.noted) if "class_path" not in name]

    def plain_options(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options of the model and those of the data, as they are written in files."""
        files = {name: self.noted[name] for name in self.program.files if self.noted.get(name)}
        data = {name: value for name, value in self.noted["data"].items() if name != "name"}
        return {**(self.noted.get("model") or {}), **files}, data

    def check_program(self) -> None:
        """Raise a ValueError if the options of a file are for another model."""
        if self.options.program not in (None, self.program.name):
            raise ValueError(
                f"--config: the options are for the model {self.options.program!r}, not for {self.program.name!r}"
            )


def add_model_options(parser: ArgumentParser, program: Program) -> None:
    """Add the options of the model's ``build``; lists of files as ``--NAME FILE FILE``."""
    parser.add_function_arguments(program.build, "model", skip={"data", *program.files})
    for name, group in (parser.groups or {}).items():
        if name == "model":
            group.title = f"options of {program.name}"
    signature = inspect.signature(program.build).parameters
    for name in program.files:
        required = signature[name].default is inspect.Parameter.empty
        parser.add_argument(f"--{name}", nargs="+", required=required, help=_help_of(program.build, name))


def add_data_options(parser: ArgumentParser, program: Program) -> None:
    """Add the options of the function that loads the data."""
    if "name" in inspect.signature(program.load).parameters:
        raise ValueError(f"--data: {program.data!r} has an argument 'name', which stands for the data set; rename it")
    parser.add_argument("--data.name", default=program.data, help="a data set, or my_module:load; written --data NAME")
    # Not as a group: that would take --data for the name of a file.
    parser.add_function_arguments(program.load, "data", as_group=False)


def last_given(files: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> Any:
    """Return the value of an option in the last of several files that has it, or None."""
    return next((options[name] for _, options in reversed(files) if options.get(name) is not None), None)


def data_name(data: Any) -> str | None:
    """Return the name of a data set in a file of options: the whole value, or its part ``name``."""
    return data.get("name") if isinstance(data, Mapping) else data


def with_data_of(program: Program, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's options as those of the parser.

    Data that are given by one word get a name; options of other data than the program's are left out; lists of files
    may stand among the options of the model, too.
    """
    result = dict(options)
    data = result.pop("data", None)
    if isinstance(data, str):
        data = {"name": data}
    if isinstance(data, Mapping):
        name = data.get("name", program.data)
        if name in (program.data, program.data_options.get("path")):
            result["data"] = {**data, "name": program.data}
    model = result.get("model")
    if isinstance(model, Mapping):
        result["model"] = {name: value for name, value in model.items() if name not in program.files}
        result |= {name: model[name] for name in program.files if name in model}
    return result


def _help_of(function: Any, name: str) -> str:
    """Return what a function's docstring says of an argument."""
    parsed = docstring_parser.parse(inspect.getdoc(function) or "")
    text = next((each.description for each in parsed.params if each.arg_name == name), None)
    return " ".join((text or "").split())
