"""The options of a parser as reStructuredText."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pages import plain, title


def describe(parser: Any, program: str, keep: Callable[[str], bool] = lambda name: True, line: str = "-") -> str:
    """Return the options of a parser, group by group.

    Args:
        parser: the parser.
        program: the words of the command, for links and search.
        keep: which options to describe, by their first name.
        line: the underline of headings.
    """
    formatter = parser._get_formatter()
    parts = [f".. program:: {program}\n"]
    for group in parser._action_groups:
        entries = [_entry(action, formatter) for action in group._group_actions if _wanted(action, keep)]
        if entries:
            name = (group.title or "options").replace("positional arguments", "arguments")
            parts += [title(plain(name[0].upper() + name[1:]), line), *entries]
            if group.description:
                parts.insert(-len(entries), plain(group.description) + "\n")
    return "\n".join(parts)


def _wanted(action: argparse.Action, keep: Callable[[str], bool]) -> bool:
    name = (action.option_strings or [action.dest])[0]
    return action.help is not argparse.SUPPRESS and name not in ("-h", "--help") and keep(name)


def _entry(action: argparse.Action, formatter: Any) -> str:
    text = " ".join(formatter._expand_help(action).split()) if action.help else ""
    if not action.option_strings:
        return f".. option:: {action.metavar or action.dest}\n\n   {plain(text)}\n"
    value = ""
    if action.nargs != 0:
        chosen = "{" + ",".join(map(str, action.choices)) + "}" if action.choices is not None else None
        value = " " + str(action.metavar or chosen or action.dest.rpartition(".")[2].upper())
        value = "".join(character for character in value if character.isprintable())
    names = ", ".join(name + value for name in action.option_strings)
    return f".. option:: {names}\n\n   {plain(text)}\n"
