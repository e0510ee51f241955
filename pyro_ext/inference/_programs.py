"""Programs that are run with extra dims on the left of their values: what goes wrong, and where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pyro_ext.inference.elbo import ModelOrGuide

__all__ = ["ProgramWatch", "SiteError"]


_NOT_OF_SHAPE = ("within the support", "to satisfy the constraint")  # torch's checks of values and parameters


class SiteError(ValueError):
    """An error of a site that names it, says what is wrong with it, and how to mend it."""


class _Progress(Messenger):
    """Records the names of the sites that a program has sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.names.append(msg["name"])


class ProgramWatch:
    """Explains errors of a model and a guide that do not broadcast over dims on the left of their values.

    Args:
        model: the model.
        guide: the guide.
        reason: what put the dims there; the sentence ends after it.
        remedy: how to run the program without them.
    """

    def __init__(self, model: ModelOrGuide, guide: ModelOrGuide, reason: str, remedy: str) -> None:
        self._programs = {"guide": guide, "model": model}
        self._seen = {role: _Progress() for role in self._programs}
        self._reason, self._remedy = reason, remedy

    @property
    def model(self) -> ModelOrGuide:
        """The model, watched."""
        watched: ModelOrGuide = self._seen["model"](self._programs["model"])
        return watched

    @property
    def guide(self) -> ModelOrGuide:
        """The guide, watched."""
        watched: ModelOrGuide = self._seen["guide"](self._programs["guide"])
        return watched

    @contextlib.contextmanager
    def explaining(self, args: Any, kwargs: Any) -> Iterator[None]:
        """Name the site in an error that running the watched programs raises and running them plainly does not.

        Args:
            args: the positional arguments of model and guide.
            kwargs: the keyword arguments of model and guide.

        Raises:
            ValueError: with the site, the reason, the error and the remedy.
        """
        try:
            yield
        except (SiteError, NotImplementedError):
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            plain = None if any(phrase in str(error) for phrase in _NOT_OF_SHAPE) else self._plain_run(args, kwargs)
            if plain is None:
                raise
            raise ValueError(
                f"{self._place(plain)} does not broadcast over {self._reason}: {error}. {self._remedy}"
            ) from (error)

    def _plain_run(self, args: Any, kwargs: Any) -> dict[str, list[str]] | None:
        """Return the names of the sites of one plain run of guide and model, None where that fails too."""
        plain = {role: _Progress() for role in self._programs}
        try:
            with torch.no_grad():
                trace = poutine.trace(plain["guide"](self._programs["guide"])).get_trace(*args, **kwargs)
                poutine.replay(plain["model"](self._programs["model"]), trace=trace)(*args, **kwargs)
        except Exception:  # the caller raises the first error
            return None
        return {role: progress.names for role, progress in plain.items()}

    def _place(self, plain: dict[str, list[str]]) -> str:
        """Return where the watched run stopped: before the first site of the plain run that it did not reach."""
        for role, names in plain.items():
            missing = [name for name in names if name not in self._seen[role].names]
            if missing:
                return f"the {role} at or before site {missing[0]!r}"
        return (
            f"the log-probability of site {plain['model'][-1]!r} or of one before it" if plain["model"] else "the model"
        )
