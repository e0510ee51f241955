"""What ``pyro-ext compare`` writes: a table to read, a file to load, a plot."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyro_ext.cli.machine import machine
from pyro_ext.inference.compare import GradientFigures
from pyro_ext.utils.tables import csv_table, markdown_table

__all__ = ["Row", "as_csv", "report", "table", "variance_plot"]

_NOTE = 70  # characters of a note in a table


@dataclass(frozen=True)
class Row:
    """One estimator's results.

    Args:
        estimator: its label.
        figures: those of its gradient, if it applies to the model.
        final: the held-out headline metric after training by it, if that was asked for.
        note: what else there is to say; why it does not apply, for example.
        remarks: what is to be said of the model that was trained by it.
    """

    estimator: str
    figures: GradientFigures | None = None
    final: float | None = None
    note: str = ""
    remarks: tuple[str, ...] = ()

    def cells(self, metric: str) -> dict[str, str]:
        """Return what a person reads in each column.

        Args:
            metric: the name of the headline metric; empty if there is none.
        """
        note = textwrap.shorten(self.note, _NOTE, placeholder=" ...")
        if self.figures is None:
            return {"estimator": self.estimator, "note": note}
        errors = self.figures.log_variance_error
        cells = {"estimator": self.estimator}
        cells["bias z"] = "-" if self.figures.bias_z is None else f"{self.figures.bias_z:.2f}"
        for name, log_variance in self.figures.log_variance.items():
            cells[f"log var {name}"] = _plus_minus(log_variance, errors[name])
        cells["ms/step"] = f"{self.figures.milliseconds:.1f}"
        if metric:
            cells[_title(metric)] = "-" if self.final is None else f"{self.final:.3f}"
        return cells | {"note": note}

    def values(self, metric: str) -> dict[str, float | str]:
        """Return what a program reads in each column.

        Args:
            metric: the name of the headline metric; empty if there is none.
        """
        values: dict[str, float | str] = {"estimator": self.estimator, "note": self.note}
        if self.figures is None:
            return values
        values["bias_z"] = "" if self.figures.bias_z is None else self.figures.bias_z
        values |= {f"log_variance_{name}": value for name, value in self.figures.log_variance.items()}
        values |= {f"log_variance_{name}_error": value for name, value in self.figures.log_variance_error.items()}
        values["ms_per_step"] = self.figures.milliseconds
        return values | ({f"final_{metric}": "" if self.final is None else self.final} if metric else {})


def table(rows: Sequence[Row], metric: str) -> str:
    """Return the rows as a Markdown table with straight columns; the notes are left out if there are none.

    Args:
        rows: the results.
        metric: the name of the headline metric; empty if there is none.

    Example:
        >>> figures = GradientFigures({"encoder": 0.17}, {"encoder": 0.04}, 20.0, 1.2)
        >>> rows = [Row("TraceUnorderedSet_ELBO", figures, 20.3), Row("TraceDisARM_ELBO", note="n/a: no bits")]
        >>> print(table(rows, "neg_elbo"))
        | estimator              | bias z | log var encoder | ms/step | final −ELBO | note         |
        |:-----------------------|-------:|----------------:|--------:|------------:|:-------------|
        | TraceUnorderedSet_ELBO |   1.20 |     0.17 ± 0.04 |    20.0 |      20.300 |              |
        | TraceDisARM_ELBO       |        |                 |         |             | n/a: no bits |
    """
    cells = [row.cells(metric) for row in rows]
    header = [name for name in _columns(cells) if name != "note" or any(row["note"] for row in cells)]
    left = [at for at, name in enumerate(header) if name in ("estimator", "note")]
    return markdown_table([[row.get(name, "") for name in header] for row in cells], header, left)


def as_csv(rows: Sequence[Row], metric: str) -> str:
    """Return the rows as comma-separated values, minus infinity for the log-variance of an exact gradient.

    Args:
        rows: the results.
        metric: the name of the headline metric; empty if there is none.
    """
    values = [row.values(metric) for row in rows]
    return csv_table(values, _columns(values))


def variance_plot(rows: Sequence[Row], path: Path) -> None:
    """Plot the log-variances of the estimators that apply into a PNG file."""
    from pyro_ext.plotting import gradient_variance, save

    figures = {row.estimator: row.figures for row in rows if row.figures}
    variances = {name: own.log_variance for name, own in figures.items()}
    errors = {name: own.log_variance_error for name, own in figures.items()}
    save(gradient_variance(variances, errors=errors, title="gradients of −ELBO per data point"), path)


def report(
    title: str,
    rows: Sequence[Row],
    facts: Mapping[str, str],
    evaluations: int,
    metric: tuple[str, str] | None,
    fit_epochs: int,
    complaint: str = "",
) -> str:
    """Return the report as Markdown.

    Args:
        title: the headline.
        rows: the results.
        facts: what was measured on what, as a list.
        evaluations: how often each estimator evaluates the model.
        metric: the name of the headline metric and its mode, ``"min"`` or ``"max"``, if there is one.
        fit_epochs: the number of epochs that each estimator trained for.
        complaint: why estimators may not differ at these weights, if there is a reason.
    """
    columns = [
        "- **bias z**: how many standard errors the mean gradient is away from the exact one, at most, along the exact "
        "gradient and random directions; below 4 there is no sign of a bias. `-`: too many values to enumerate, or "
        "a bound other than the ELBO.",
        "- **log var**: logarithm of the variance of the gradient of −ELBO per data point, summed over the parameters "
        "of the guide (encoder) or the model (decoder), ± its standard error; `exact`: no variance but rounding.",
        "- **ms/step**: median time of a forward and a backward pass.",
    ]
    name, mode = metric or ("", "")
    if name and fit_epochs:
        what = "−ELBO per data point (nats)" if name == "neg_elbo" else f"`{name}`"
        good = "small" if mode == "min" else "large"
        columns.append(
            f"- **{_title(name)}**: held-out {what} after {fit_epochs} epochs of training by the estimator from the "
            f"same fresh weights; {good} values are good."
        )
    parts = [
        f"# {title}",
        f"Every estimator evaluates the model {evaluations} times for each datum and step. Gradients are compared at "
        "the same weights, on the same batch.",
        *([f"**Note: {complaint}.**"] if complaint else []),
        table(rows, name),
        *(f"- `{row.estimator}`: {row.note}" for row in rows if row.note),
        *(f"- After training by `{row.estimator}`: {remark}." for row in rows for remark in row.remarks),
        "\n".join(columns),
        "![log gradient variance](variance.png)",
        "\n".join(f"- {fact}: {value}" for fact, value in {**facts, "machine": machine()}.items()),
        "All digits are in `compare.csv`, all options in `config.yaml`.",
    ]
    return "\n\n".join(parts) + "\n"


def _title(metric: str) -> str:
    return "final −ELBO" if metric == "neg_elbo" else f"final {metric}"


def _columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return [*max(rows, key=len)]


def _plus_minus(value: float, error: float) -> str:
    return "exact" if math.isinf(value) else f"{value:.2f} ± {error:.2f}"
