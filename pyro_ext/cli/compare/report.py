"""What ``pyro-ext compare`` found: rows, a table to read, a file to load, a picture."""

from __future__ import annotations

import csv
import io
import math
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyro_ext.inference.compare import GradientFigures

_NOTE = 70  # characters of a note in a table

__all__ = ["Row", "as_csv", "report", "table", "variance_plot"]


@dataclass(frozen=True)
class Row:
    """One estimator's results.

    Args:
        estimator: its label.
        figures: those of its gradient, if it applies to the model.
        bound: held-out -ELBO per data point after training by it (nats), if that was asked for.
        note: what else there is to say; why it does not apply, for example.
    """

    estimator: str
    figures: GradientFigures | None = None
    bound: float | None = None
    note: str = ""

    def cells(self) -> dict[str, str]:
        """Return what a person reads in each column."""
        note = textwrap.shorten(self.note, _NOTE, placeholder=" ...")
        if self.figures is None:
            return {"estimator": self.estimator, "note": note}
        found = self.figures
        errors = found.log_variance_error
        logs = {f"log var {name}": _plus_minus(log, errors[name]) for name, log in found.log_variance.items()}
        z = "-" if found.bias_z is None else f"{found.bias_z:.2f}"
        bound = "-" if self.bound is None else f"{self.bound:.3f}"
        time = {"ms/step": f"{found.milliseconds:.1f}"}
        return {"estimator": self.estimator, "bias z": z} | logs | time | {"final −ELBO": bound, "note": note}

    def values(self) -> dict[str, float | str]:
        """Return what a program reads in each column."""
        values: dict[str, float | str] = {"estimator": self.estimator, "note": self.note}
        if self.figures is None:
            return values
        found = self.figures
        values["bias_z"] = "" if found.bias_z is None else found.bias_z
        values |= {f"log_variance_{name}": value for name, value in found.log_variance.items()}
        values |= {f"log_variance_{name}_error": value for name, value in found.log_variance_error.items()}
        return values | {"ms_per_step": found.milliseconds, "final_neg_elbo": "" if self.bound is None else self.bound}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table with straight columns; columns without content are left out.

    Example:
        >>> figures = GradientFigures({"encoder": 0.17}, {"encoder": 0.04}, 20.0, 1.2)
        >>> print(table([Row("TraceUnorderedSet_ELBO", figures, 20.3), Row("TraceDisARM_ELBO", note="n/a: no bits")]))
        | estimator              | bias z | log var encoder | ms/step | final −ELBO | note         |
        |------------------------|--------|-----------------|---------|-------------|--------------|
        | TraceUnorderedSet_ELBO |   1.20 |     0.17 ± 0.04 |    20.0 |      20.300 |              |
        | TraceDisARM_ELBO       |        |                 |         |             | n/a: no bits |
    """
    cells = [row.cells() for row in rows]
    header = [name for name in _columns(cells) if name != "note" or any(row.get("note") for row in cells)]
    lines = [header, *([row.get(name, "") for name in header] for row in cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    first, *others = ("| " + " | ".join(_aligned(header, line, widths)) + " |" for line in lines)
    return "\n".join([first, ruler, *others])


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as comma-separated values, minus infinity for the log-variance of an exact gradient."""
    values = [row.values() for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(values), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    return text.getvalue()


def variance_plot(rows: Sequence[Row], path: Path) -> None:
    """Draw the log-variances of the estimators that apply into a PNG file."""
    from pyro_ext.plotting import gradient_variance, save

    save(gradient_variance({row.estimator: row.figures.log_variance for row in rows if row.figures}), path)


def report(title: str, rows: Sequence[Row], facts: Mapping[str, str], evaluations: int, fit_epochs: int) -> str:
    """Return the report as Markdown.

    Args:
        title: the headline.
        rows: the results.
        facts: what was measured on what, as a list.
        evaluations: how often each estimator evaluates the model.
        fit_epochs: how long each trained.
    """
    columns = [
        "- **bias z**: how many standard errors the mean gradient is away from the exact one, at most, along the exact "
        "gradient and random directions; below 4 there is no sign of a bias. `-`: too many values to enumerate, or "
        "a bound other than the ELBO.",
        "- **log var**: logarithm of the variance of the gradient of −ELBO per data point, summed over the parameters "
        "of the guide (encoder) or the model (decoder), ± its standard error; `exact`: no variance but rounding.",
        "- **ms/step**: median time of a forward and a backward pass.",
    ]
    if fit_epochs:
        columns.append(
            f"- **final −ELBO**: held-out, per data point (nats), after {fit_epochs} epochs of training by the "
            "estimator from the same fresh weights."
        )
    parts = [
        f"# {title}",
        f"Every estimator evaluates the model {evaluations} times for each datum and step. Gradients are compared at "
        "the same weights, on the same batch.",
        table(rows),
        *(f"- `{row.estimator}`: {row.note}" for row in rows if row.note),
        "\n".join(columns),
        "![log gradient variance](variance.png)",
        "\n".join(f"- {name}: {value}" for name, value in {**facts, **_machine()}.items()),
        "All digits are in `compare.csv`, all options in `config.yaml`.",
    ]
    return "\n\n".join(parts) + "\n"


def _machine() -> dict[str, str]:
    import pyro
    import torch

    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}, Pyro {pyro.__version__}"
    return {"machine": f"{versions}, {torch.get_num_threads()} thread(s) on {os.cpu_count()} CPU core(s)"}


def _columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return [*max(rows, key=len)]


def _aligned(header: Sequence[str], line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if name in ("estimator", "note") else cell.rjust(width)
        for name, cell, width in zip(header, line, widths, strict=True)
    ]


def _plus_minus(value: float, error: float) -> str:
    return "exact" if math.isinf(value) else f"{value:.2f} ± {error:.2f}"
