"""What ``pyro-ext fit`` leaves in its folder for people to read: a report and plots."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyro_ext.inference.fit import Built, FitResult

__all__ = ["history_table", "report", "write_results"]

_ROWS = 20  # of the table of epochs, about
_NOT_METRICS = ("epoch", "step", "seconds")


def write_results(out: Path, model: str, options: Any, built: Built, result: FitResult) -> None:
    """Write ``report.md``, the plots it shows and the files that the model has to leave into the folder of a run."""
    from pyro_ext.inference.fit import local_params
    from pyro_ext.inference.fit.folder import write_atomically
    from pyro_ext.plotting import save

    plots: dict[str, Callable[..., Axes]] = {"loss": partial(_loss_plot, result.history)}
    plots |= {name: partial(_curves, result.history, metrics) for name, metrics in built.curves.items()}
    plots |= built.plots
    for name, draw in plots.items():
        with local_params():
            save(draw(), out / f"{name}.png")
    for name, write in built.files.items():
        write(out / name)
    write_atomically(out / "report.md", report(model, options, built, result, [*plots]))


def report(model: str, options: Any, built: Built, result: FitResult, plots: Sequence[str]) -> str:
    """Return the report as Markdown.

    Args:
        model: the model's name.
        options: the options of the run.
        built: what was fitted.
        result: what came out.
        plots: names of PNG files beside the report.
    """
    import pyro
    import torch

    last = result.history[-1] if result.history else {}
    seconds = sum(row["seconds"] for row in result.history)
    data = Path(options.data.get("path") or options.data.name).name
    decay = f" (times {options.lr_decay:g} every {options.lr_decay_every} steps)" if options.lr_decay != 1 else ""
    facts = {
        "model": model,
        "data": data,
        "ELBO": type(built.elbo).__name__,
        "epochs": f"{last.get('epoch', 0):g} ({last.get('step', 0):g} steps, {seconds:.1f} s)",
        "learning rate, batch size, seed": f"{options.lr:g}{decay}, {options.batch_size}, {result.seed}",
        "machine": f"{platform.machine()}, torch {torch.__version__}, pyro {pyro.__version__}",
    }
    metrics = {name: f"{value:.6g}" for name, value in result.metrics.items()}
    parts = [
        f"# {model} on {data}",
        _table(("", ""), facts.items()),
        "## Final metrics",
        "`train_loss` is minus the bound per training point, averaged over the last epoch; the others are held-out.",
        *([built.remarks] if built.remarks else []),
        _table(("metric", "value"), metrics.items()),
        "## Epochs",
        history_table(result.history),
        "All epochs are in `metrics.csv`, all options in `config.yaml`, the parameters in `last.ckpt`.",
        *([f"Results are also in {', '.join(f'`{name}`' for name in built.files)}."] if built.files else []),
        "## Plots",
        *(f"![{name}]({name}.png)" for name in plots),
    ]
    return "\n\n".join(parts) + "\n"


def history_table(history: Sequence[Mapping[str, float]], rows: int = _ROWS) -> str:
    """Return a Markdown table of about ``rows`` epochs evenly chosen, the last among them.

    Example:
        >>> print(history_table([{"epoch": 1, "train_loss": 3.25}]))
        | epoch | train_loss |
        |---|---|
        | 1 | 3.25 |
    """
    stride = -(-len(history) // rows) if history else 1
    chosen = [row for number, row in enumerate(reversed(history)) if number % stride == 0][::-1]
    columns = list(dict.fromkeys(name for row in history for name in row))
    cells = [[f"{row[name]:.6g}" if name in row else "" for name in columns] for row in chosen]
    return _table(columns, cells)


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("|" + "|".join(c if c == "---" else f" {c} " for c in map(str, line)) + "|" for line in lines)


def _curves(history: Sequence[Mapping[str, float]], metrics: Sequence[str], ax: Axes | None = None) -> Axes:
    """Plot metrics by epoch, scaled to what they are in the second half, since many begin far off."""
    from pyro_ext.plotting import loss_curve

    late: list[float] = []
    for name in metrics:
        rows = [row for row in history if name in row]
        if rows:
            values = [row[name] for row in rows]
            ax = loss_curve({name: values}, ax, epochs=[row["epoch"] for row in rows], ylabel="nats")
            late += values[len(values) // 2 :]
    if ax is None:
        return loss_curve({})
    for line in ax.lines:
        line.set_marker(".")
    margin = 0.5 * (max(late) - min(late)) or 1.0
    ax.set_ylim(min(late) - margin, max(late) + margin)
    return ax


def _loss_plot(history: Sequence[Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Plot the training loss, with the held-out one where the model reports it by the same name as the bound's."""
    from pyro_ext.plotting import loss_curve

    for label, name in (("train", "train_loss"), ("held out", "neg_elbo")):
        rows = [row for row in history if name in row]
        if rows:
            ax = loss_curve({label: [row[name] for row in rows]}, ax, epochs=[row["epoch"] for row in rows])
    if ax is None:
        ax = loss_curve({})
    return ax
