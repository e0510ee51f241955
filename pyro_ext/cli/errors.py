"""What is said of bad input: one line that names the option, the value and, where there is one, the remedy."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable

__all__ = ["nearest", "one_line"]


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


def _shortened(message: str) -> str:
    """Return a message on one line, with what was tried in vain for each possible type reduced to what tells."""
    keys = re.findall(r'Parser key "([^"]+)":', message)
    option = [f"--{'.'.join(keys)}:"] if keys else []
    if "Errors:" in message:
        attempts, _, given = message.rpartition("Errors:")[2].partition("Given value type")
        if len(keys) == 1:
            attempts, _, given = message.partition("Errors:")[2].partition("Given value type")
        telling = [reason for reason in re.split(r"\n\s*- ", attempts) if reason.strip() and "NoneType" not in reason]
        message = telling[0] if telling else message
        if message.startswith("Expected a <class"):
            message += ". Got value: " + given.partition("Given value: ")[2].partition("\n")[0]
    if keys and "Parser key" in message:
        message = message.rpartition(f'Parser key "{keys[-1]}":')[2]
    return " ".join([*option, *message.split()])
