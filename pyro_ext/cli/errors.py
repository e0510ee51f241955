"""What is said of bad input: one line that names the option, the value and, where there is one, the remedy."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["as_typed", "naming_options", "nearest", "one_line"]


def one_line(error: Exception) -> str | None:
    """Return what to print of an error that is the user's to mend, on one line; None of any other error."""
    if isinstance(error, ValueError | argparse.ArgumentError | NotImplementedError):
        return _shortened(str(error))
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return " ".join(f"{name}{error.strerror or error}".split())
    return None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most like ``word``, to end a message with; empty if none is alike.

    Example:
        >>> nearest("--model.num_latent", ["--model.num_latents", "--seed"])
        '; did you mean --model.num_latents?'
    """
    known = [*known]
    last = word.rpartition(".")[2].lstrip("-")
    close = [name for name in known if name.rpartition(".")[2].lstrip("-") == last]
    close = close or difflib.get_close_matches(word, known, 1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def as_typed(message: str, options: Iterable[str]) -> str:
    """Return a message in which arguments of Python are named as the options that stand for them.

    Args:
        message: what a function says of its arguments.
        options: the options, as they are typed; the last part of each is the argument's name. Of two with the same
            last part, the one without a dot is meant.

    Example:
        >>> as_typed("pass rooted=False, or names='ten'", ["--rooted", "--data.names"])
        'pass --rooted false, or --data.names ten'
        >>> as_typed("thin must be an integer of at least 1, got 0", ["--thin"])
        '--thin must be an integer of at least 1, got 0'
    """
    written: dict[str, str] = {}
    for option in options:
        if option.startswith("--"):
            name = option.lstrip("-").rpartition(".")[2]
            several = name in written and "." in option and "." in written[name]
            written[name] = "" if several else min(option, written.get(name, option), key=lambda each: "." in each)

    def replaced(match: re.Match[str]) -> str:
        option, value = written.get(match[1]), match[2].strip("'")
        if not option:
            return match[0]
        flag = value == "True" and match[1] in _FLAGS
        return option if flag else f"{option} {value.lower() if value in ('True', 'False') else value}"

    message = re.sub(r"(?<![\w.-])([a-z_]+)=('[^']*'|[\w.+-]*\w)", replaced, message)
    message = re.sub(r"(--\S+(?: \w+)?) \(\1\)", r"\1", message)  # where both names were given
    begin = re.match(r"([a-z_]+)(?= must |: )", message)
    return message if begin is None else f"{written.get(begin[1]) or begin[1]}{message[begin.end() :]}"


@contextmanager
def naming_options(options: Iterable[str]) -> Iterator[None]:
    """Let ValueErrors of a block name arguments of Python as the options that stand for them; see :func:`as_typed`."""
    try:
        yield
    except ValueError as error:
        message = as_typed(str(error), options)
        if message == str(error):
            raise
        raise ValueError(message) from error


_FLAGS = ("allow_truncated", "overwrite", "resume")
"""Options that are typed without a value."""

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
_LISTS = {"tuple": "a list such as [1, 2]", "list": "a list such as [a, b]", "dict": "options by name"}


def _shortened(message: str) -> str:
    """Return a message on one line, and in plain words where it is the parser's."""
    lacking = re.fullmatch(r"argument (--\S+): expected (?:one|at least one) argument", message)
    if lacking is not None:
        return f"{lacking[1]} needs a value"
    choice = re.fullmatch(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message, re.DOTALL)
    if choice is not None:
        return f"{choice[1]} must be one of {choice[3].replace(chr(39), '')}; got {choice[2]}"
    keys = re.findall(r'Parser key "([^"]+)":', message)
    if not keys:
        return " ".join((_most_telling(message) if "Union subtypes" in message else message).split())
    option = f"--{'.'.join(keys)}"
    text = message.rpartition(f'Parser key "{keys[-1]}":')[2]
    said = _wrong_value(option, text) or _wrong_class(option, text)
    return said or " ".join([f"{option}:", *_most_telling(text).split()])


def _wrong_value(option: str, text: str) -> str | None:
    """Return what is said of a value that is none of those an option takes; None if the message is about a class."""
    if "given class_path" in text:
        return None
    choices = re.findall(r"Expected a typing\.Literal\[([^\]]*)\]", text)
    names = [name for name in re.findall(r"Expected a <class '(\w+)'>", text) if name != "NoneType"]
    given = re.search(r"(?:Got value|Given value): (.*)", text)
    if given is None or not (choices or names):
        return None
    if choices:
        known = [name.strip(" '\"") for each in choices for name in each.split(",")]
        takes = " or ".join(known) if len(known) < 3 else f"one of {', '.join(known)}"
    else:
        kinds = list(dict.fromkeys(names))
        if "float" in kinds and "int" in kinds:
            kinds.remove("int")  # a number may be a whole one
        takes = " or ".join((_KINDS | _LISTS).get(kind, f"a {kind}") for kind in kinds)
    value = given[1].strip()
    return f"{option} takes {takes}, not {value if value[:1] in '[{' + chr(39) else repr(value)}"


def _wrong_class(option: str, text: str) -> str | None:
    """Return what is said of a class that is chosen by name: an option that it has not, or one that it needs."""
    path = re.search(r"Problem with given class_path '([^']+)'", text)
    if path is None:
        return None
    name = path[1].rpartition(".")[2]
    wrong = re.search(r"Option '([^']+)' is not accepted", text)
    if wrong is not None:
        known = _options_of(path[1])
        close = difflib.get_close_matches(wrong[1], known, 1, cutoff=0.6)
        hint = f"did you mean {option}.{close[0]}?" if close else f"it has {', '.join(known)}" if known else ""
        return f"{option}.{wrong[1]}: {name} has no option {wrong[1]!r}{hint and '; '}{hint}"
    needed = re.search(r"the following arguments are required: (.*)", text)
    if needed is not None:
        return f"{option} {name} needs {', '.join(f'{option}.{each.strip()}' for each in needed[1].split(','))}"
    reason = re.search(r"Problem with given class_path '[^']+':\s*(.*)", text)
    return f"{option}: there is no class {path[1]!r}: {reason[1]}" if reason and "no attribute" in reason[1] else None


def _options_of(path: str) -> list[str]:
    """Return the options of a class, without what it is made of by the program itself."""
    module, _, name = path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    except (ImportError, AttributeError, ValueError, TypeError):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each.name for each in parameters if each.kind in named and each.name not in ("params", "optimizer")]


def _most_telling(text: str) -> str:
    """Return the first reason why none of several possible types fits."""
    reasons = text.partition("Errors:")[2].partition("Given value type")[0]
    telling = [reason for reason in re.split(r"\n\s*- ", reasons) if reason.strip() and "NoneType'>" not in reason]
    return telling[0] if telling else text
