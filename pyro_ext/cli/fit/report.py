"""What ``pyro-ext fit`` leaves in its folder for people to read: a report and plots."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pyro_ext.inference import TraceGECO_ELBO, TraceVIMCO_ELBO
from pyro_ext.inference.training import FitResult, OptimizerSettings, TrainingPlan, local_params
from pyro_ext.plotting import loss_curve, save
from pyro_ext.utils.files import write_text
from pyro_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyro_ext.cli.fit.arguments import Arguments

__all__ = ["history_table", "report", "write_results"]

History: TypeAlias = Sequence[Mapping[str, float]]

_ROWS = 20  # of the table of epochs, about
_NAMES = {
    "neg_elbo": "−ELBO",
    "neg_log_likelihood": "−log-likelihood",
    "nll": "negative log-likelihood",
    "penalised_nll": "the same with the penalty",
    "ece": "expected calibration error",
    "kl": "KL divergence",
    "lower_bound_1": "bound of 1 sample",
    "lower_bound_10": "bound of 10 samples",
}
_MANY = 10  # points of a curve, of which the first ones may lie outside of a plot


def write_results(arguments: Arguments, result: FitResult) -> list[str]:
    """Write ``report.md``, the plots it shows and the files that the plan names into the folder of a run.

    Returns:
        What could not be drawn or written, and why: a plot that fails leaves the others.
    """
    plan, out = result.plan, arguments.out
    model = arguments.program.name
    plots = _loss_plots(model, plan, result.history)
    for name, metrics in plan.curves.items():
        label, named = plan.curve_labels.get(name, "nats"), {metric: _words(metric) for metric in metrics}
        title = f"{model}: {next(iter(named.values())) if len(named) == 1 else name.replace('_', ' ')}"
        plots[name] = partial(_curves, result.history, named, label, title, zoom=True)
    plots |= plan.plots
    failures, drawn = [], []
    for name, draw in plots.items():
        try:
            with local_params():
                save(draw(), out / f"{name}.png")
            drawn.append(name)
        except Exception as error:
            failures.append(f"the plot {name} could not be drawn: {type(error).__name__}: {error}")
    for name, write in plan.files.items():
        try:
            write(out / name)
        except Exception as error:
            failures.append(f"the file {name} could not be written: {type(error).__name__}: {error}")
    write_text(out / "report.md", report(arguments, result, drawn))
    return failures


def report(arguments: Arguments, result: FitResult, plots: Sequence[str]) -> str:
    """Return the report as Markdown.

    Args:
        arguments: the options of the run.
        result: what came out.
        plots: names of PNG files beside the report.
    """
    import pyro
    import torch

    plan = result.plan
    last = result.history[-1] if result.history else {}
    seconds = sum(row["seconds"] for row in result.history)
    data = Path(arguments.data_options.get("path") or arguments.program.data).name
    elbos = ", ".join(type(objective.elbo).__name__ for objective in plan.elbo_objectives)
    facts = {
        "model": arguments.program.name,
        "data": data,
        **({"ELBO": elbos} if elbos else {}),
        "epochs": f"{last.get('epoch', 0):g} ({last.get('step', 0):g} steps, {seconds:.1f} s)",
        **_optimizers(plan),
        "batch size, seed": f"{arguments.options.batch_size}, {result.seed}",
        "machine": f"{platform.machine()}, torch {torch.__version__}, pyro {pyro.__version__}",
    }
    metrics = {name: f"{value:.6g}" for name, value in result.metrics.items()}
    parts = [
        f"# {arguments.program.name} on {data}",
        markdown_table([*facts.items()], ("", ""), left=(0, 1)),
        "## Final metrics",
        _losses(plan),
        *([plan.remarks] if plan.remarks else []),
        *(f"**Warning:** {message}." for message in result.warnings),
        markdown_table([*metrics.items()], ("metric", "value")),
        "## Epochs",
        history_table(result.history),
        "All epochs are in `metrics.csv`, all options in `config.yaml`, the parameters in `last.ckpt`; "
        f"`pyro_ext.inference.load_run({str(arguments.out)!r})` gives the trained modules.",
        *([f"Results are also in {', '.join(f'`{name}`' for name in plan.files)}."] if plan.files else []),
        "## Plots",
        *(f"![{name}]({name}.png)" for name in plots),
    ]
    return "\n\n".join(parts) + "\n"


def history_table(history: Sequence[Mapping[str, float]], rows: int = _ROWS) -> str:
    """Return a Markdown table of about ``rows`` epochs evenly chosen, the last among them.

    Example:
        >>> print(history_table([{"epoch": 1, "train_loss": 3.25}]))
        | epoch | train_loss |
        |------:|-----------:|
        |     1 |       3.25 |
    """
    stride = -(-len(history) // rows) if history else 1
    chosen = [row for number, row in enumerate(reversed(history)) if number % stride == 0][::-1]
    columns = list(dict.fromkeys(name for row in history for name in row))
    cells = [[f"{row[name]:.6g}" if name in row else "" for name in columns] for row in chosen]
    return markdown_table(cells, columns, left=())


def _optimizers(plan: TrainingPlan) -> dict[str, str]:
    if len(plan.players) == 1:
        return {"optimiser": _told(plan.players[0].optimizer)}
    return {f"optimiser of {player.name}": _told(player.optimizer) for player in plan.players}


def _told(settings: OptimizerSettings) -> str:
    """Return an optimiser and its scheduler in words."""
    scheduler = settings.scheduler
    falling = "" if scheduler is None else f", {_options(scheduler.name, scheduler.options)} per {scheduler.interval}"
    return _options(settings.name, settings.options) + falling


def _options(name: str, options: Mapping[str, object]) -> str:
    return f"{name}({', '.join(f'{option}={value}' for option, value in options.items())})"


def _losses(plan: TrainingPlan) -> str:
    if len(plan.players) > 1:
        names = ", ".join(f"`train_{player.name}`" for player in plan.players)
        return f"{names} are the losses of the players, averaged over the last epoch; the others are held-out."
    what, _ = _what_is_minimised(plan)
    return f"`train_loss` is {what}, averaged over the last epoch; metrics without `train_` are held-out."


def _what_is_minimised(plan: TrainingPlan) -> tuple[str, bool]:
    """Return what the loss of a single player is in words, and whether it is minus the ELBO."""
    if not plan.elbo_objectives or plan.elbo_objectives[0] is not plan.players[0].objective:
        return "the training loss", False
    elbo = plan.elbo_objectives[0].elbo
    if isinstance(elbo, TraceGECO_ELBO):
        said = "minus the terms of the ELBO that are no constraints, plus multipliers times constraints"
        return f"{said}, per training point", False
    number = elbo.num_particles if isinstance(elbo, TraceVIMCO_ELBO) else 1
    if number > 1:
        return f"minus the bound of {number} samples per training point", False
    return "minus the bound per training point", True


def _loss_plots(name: str, plan: TrainingPlan, history: History) -> dict[str, Callable[..., Axes]]:
    """Return a plot of the loss of each player, with the held-out one where the headline metric is of the same kind."""
    if len(plan.players) > 1:
        titles = {player.name: f"{name}: loss of the {player.name}" for player in plan.players}
        return {
            f"loss_{player.name}": partial(
                _curves, history, {f"train_{player.name}": "training"}, player.objective.loss_label, titles[player.name]
            )
            for player in plan.players
        }
    curves = {"train_loss": "training, mean over the epoch"}
    if plan.headline == "neg_elbo" and _what_is_minimised(plan)[1]:
        curves[plan.headline] = "held out, after the epoch"
    return {"loss": partial(_curves, history, curves, plan.players[0].objective.loss_label, f"{name}: training loss")}


def _curves(
    history: History, metrics: Mapping[str, str], label: str, title: str, ax: Axes | None = None, *, zoom: bool = False
) -> Axes:
    """Plot metrics by epoch under their labels.

    With ``zoom`` a long run is scaled to what it is in its second half, since many metrics begin far off; the title
    says so where values lie outside then.
    """
    late: list[float] = []
    every: list[float] = []
    for name, named in metrics.items():
        rows = [row for row in history if name in row]
        if rows:
            values = [row[name] for row in rows]
            ax = loss_curve({named: values}, ax, epochs=[row["epoch"] for row in rows], ylabel=label, title=title)
            ax.lines[-1].set(marker="o" if len(values) <= _MANY else "", markersize=4)
            every += values
            late += values[len(values) // 2 if len(values) >= _MANY else 0 :]
    if ax is None:
        return loss_curve({}, ylabel=label, title=title)
    margin = 0.5 * (max(late) - min(late)) or 1.0
    low, high = min(late) - margin, max(late) + margin
    if zoom and (min(every) < low or max(every) > high):
        ax.set_ylim(low, high)
        ax.set_title(f"{title} (early values lie outside)", fontsize=9)
    return ax


def _words(metric: str) -> str:
    """Return the name of a metric as a person reads it."""
    name = metric.removeprefix("train_")
    return _NAMES.get(name, name.replace("_", " "))
