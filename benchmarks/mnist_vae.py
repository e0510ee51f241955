"""The categorical autoencoder of Kool et al. on the whole of MNIST: bounds, the variance along training, surrogates.

20 latent variables of 10 categories, networks of 512 and 256 units, pixels thresholded at .5, batches of 200, Adam.

Parts: ``bounds`` trains by the unordered set and by leave-one-out for 120 epochs, by Pyro's Trace_ELBO and by
straight-through Gumbel samples for 60, all with four evaluations but the last, which has one; the learning rates are
the published ones. ``along`` measures the variance of the gradient on one batch of 200 by each estimator at weights
that the run of leave-one-out has passed. ``surrogates`` needs no MNIST: on the 8 x 8 digits with two latent variables,
leave-one-out and unordered set plain, with the control variate ``"linear"`` that learns from the draws, and with the
best linear one, which is computed from the costs of all 100 codes.

A finished run is a row of ``runs/mnist_vae/runs.csv``; an unfinished one continues from the checkpoint of its last
epoch, and its curve so far is reported too. ``--save`` writes the report, its plots and rows into benchmarks/results.
The first two parts need ``PYRO_EXT_DATA``, a folder that holds MNIST.

References:
    | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020), section 6
    | https://arxiv.org/abs/2002.06043
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
import torch
from support import linear_surrogates, mnist_runs
from support.mnist_runs import COMPARED, METHODS
from support.report import Report
from support.rows import FinishedRuns

from pyro_ext.datasets import MissingDataError, Splits, digits, load
from pyro_ext.inference import FitWarning

WORK = Path(__file__).resolve().parents[1] / "runs" / "mnist_vae"
PARTS = ("bounds", "along", "surrogates")
POINTS = (10, 20, 60, 120)
PUBLISHED = {
    "leave-one-out": (70.4, 89.8),
    "unordered set": (71.2, 91.3),
    "straight-through Gumbel": (94.4, 97.2),
}
"""Minus the bound on training and held-out images after 1,000 epochs, the least average of 100 epochs."""

PUBLISHED_VARIANCE = {"leave-one-out": 7.06, "unordered set": 7.05, "Trace_ELBO": 13.81}
"""Log-variance of the gradient in all weights after 900 epochs of leave-one-out."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)
    warnings.simplefilter("ignore", FitWarning)  # a code that has collapsed shows in the bounds
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    runs = FinishedRuns(options.work / "runs.csv", ("method", "seed"))
    along = FinishedRuns(options.work / "along.csv", ("epoch", "seed"))
    surrogates = FinishedRuns(options.work / "surrogates.csv", ("setting",))
    if not options.report_only:
        carry_out(runs, along, surrogates, options)
    report = Report("mnist_vae", "The categorical autoencoder of Kool et al. on the whole of MNIST")
    plots = tabulate_bounds(report, runs, options.work, options.seeds)
    plots += tabulate_along(report, along, options.work)
    tabulate_surrogates(report, surrogates)
    if options.save:
        path = report.save(beside={file.name: file for file in (*plots, runs.path, along.path)})
        print(f"\nwritten to {path}")


def carry_out(runs: FinishedRuns, along: FinishedRuns, surrogates: FinishedRuns, options: argparse.Namespace) -> None:
    """Carry out what has not been, the part that takes minutes first."""
    if "surrogates" in options.parts:
        surrogates.get(
            "digits, N = 2",
            lambda: linear_surrogates.measure(
                digits(), options.digits_epochs, options.learning, options.repeats, options.rounds
            ),
        )
    data = _mnist() if {"bounds", "along"} & {*options.parts} else None
    if data is None:
        return
    for seed in range(options.seeds) if "bounds" in options.parts else ():
        for method in options.methods:
            runs.get((method, seed), lambda run=(method, seed): mnist_runs.train(data, *run, options.work))
    for epoch in mnist_runs.kept_epochs(options.work, 0) if "along" in options.parts else ():
        along.get(
            (epoch, 0),
            lambda epoch=epoch: mnist_runs.variances(data, epoch, 0, options.work, options.repeats),
        )


def _mnist() -> Splits | None:
    try:
        return load("mnist", protocol="full")
    except MissingDataError:
        print("The whole of MNIST is left out: PYRO_EXT_DATA does not name a folder that holds it.")
        return None


def tabulate_bounds(report: Report, runs: FinishedRuns, work: Path, seeds: int) -> list[Path]:
    """Tabulate minus the bounds on training and held-out images, finished or not; return the path of the plot."""
    curves: dict[str, list[list[float]]] = {}
    lines = []
    for method in METHODS:
        for seed in range(seeds):
            row = runs.find((method, seed))
            points = mnist_runs.curve(work, row, method, seed)
            if not points:
                continue
            curves.setdefault(method, points)
            at = {int(epoch): f"{train:.2f} / {valid:.2f}" for epoch, train, valid in points}
            lines.append((method, str(seed), *_bound_cells(method, row, points), *(at.get(e, "-") for e in POINTS)))
    if not lines:
        return []
    header = ["method", "seed", "epochs", "training / held out", "published", "distance"]
    header += [f"after {epoch}" for epoch in POINTS]
    report.table("Minus the bound (nats)", header, lines)
    report.text(
        "'training / held out': the least average of 10 epochs; 'published': the least average of 100 out of 1,000;",
        "'distance': ours less theirs. Bounds on training images are means over an epoch of training; those on 10,000",
        "held-out images have four codes for each. Nothing was published of four samples without a baseline, which",
        "Trace_ELBO stands for. Learning rates: 1e-3, and 1e-4 for straight-through Gumbel samples.",
        "",
    )
    return [_draw_bounds(curves, work)]


def _bound_cells(method: str, row: Mapping[str, Any] | None, points: list[list[float]]) -> list[str]:
    """Return the epochs, the bounds, the published ones and how far they are; of unfinished runs what there is."""
    if row is None:
        epoch, train, valid = points[-1]
        return [f"{epoch:.0f}, unfinished", f"{train:.2f} / {valid:.2f}", *_distance(method, train, valid)]
    train, valid = row["train"], row["valid"]
    return [f"{row['epochs']:.0f}", f"{train:.2f} / {valid:.2f}", *_distance(method, train, valid)]


def _distance(method: str, train: float, valid: float) -> list[str]:
    if method not in PUBLISHED:
        return ["-", "-"]
    theirs = PUBLISHED[method]
    return [f"{theirs[0]} / {theirs[1]}", f"{train - theirs[0]:+.1f} / {valid - theirs[1]:+.1f}"]


def tabulate_along(report: Report, along: FinishedRuns, work: Path) -> list[Path]:
    """Tabulate log-variances along the run of leave-one-out; return the path of the plot."""
    rows = {int(epoch): along.find((epoch, seed)) for epoch, seed in along.rows}
    found = {epoch: row for epoch, row in sorted(rows.items()) if row is not None}
    if not found:
        return []
    lines = []
    for epoch, row in found.items():
        cells = [f"{row[name][0]:.2f} ({row[name][1]:.2f})" for name in COMPARED]
        lines.append((str(epoch), *cells, f"{row['leave-one-out'][2]:.2f}", f"{row['unordered set'][2]:.2f}"))
    header = ["epoch", *COMPARED, "decoder, leave-one-out", "decoder, unordered set"]
    report.table("Log-variance of the encoder's gradient along the run of leave-one-out", header, lines)
    report.text(
        "On the first 200 training images, with standard errors. Published, gradient in all weights after 900 epochs:",
        ", ".join(f"{name} {value}" for name, value in PUBLISHED_VARIANCE.items()) + " (REINFORCE, no baseline).",
        "",
    )
    return [_draw_along(found, work)]


def tabulate_surrogates(report: Report, surrogates: FinishedRuns) -> None:
    """Tabulate estimators with linear surrogates on digits, beside leave-one-out and beside themselves without."""
    for setting in [words[0] for words in surrogates.rows]:
        row = surrogates.find(setting)
        assert row is not None
        lines = []
        for name in linear_surrogates.ESTIMATORS:
            plain = row[f"{name}, plain"]
            for surrogate in linear_surrogates.SURROGATES:
                own = row[f"{name}, {surrogate}"]
                change = [
                    "0"
                    if surrogate == "plain"
                    else f"{own[at] - plain[at]:+.2f} +- {math.hypot(own[at + 1], plain[at + 1]):.2f}"
                    for at in (0, 2)
                ]
                lines.append((name, surrogate, f"{own[0]:.2f}", change[0], change[1], f"{own[4]:.1f}"))
        header = ["estimator", "surrogate", "log variance", "- plain", "the same, weights", "CPU ms"]
        report.table(f"Linear surrogates: {setting}, K = 10, k = 4, 100 images", header, lines, labels=2)
        report.text(
            "Log-variance of the gradient in the logits, its difference to the same estimator without surrogate there",
            "and in the weights of the encoder, and the processor's time of a step. 'linear' learns from the draws;",
            "'best linear' is fitted to the costs of all codes of these images, which nobody has in practice.",
            "",
        )


def _draw_bounds(curves: Mapping[str, list[list[float]]], work: Path) -> Path:
    figure, axes, plt = _figure(2)
    for colour, (method, points) in enumerate(curves.items()):
        epochs, train, valid = zip(*points, strict=True)
        for ax, values, at in zip(axes, (train, valid), (0, 1), strict=True):
            ax.plot(epochs, values, color=f"C{colour}", label=method)
            if method in PUBLISHED:
                ax.axhline(PUBLISHED[method][at], color=f"C{colour}", linewidth=0.8, linestyle=":")
    for ax, title in zip(axes, ("training images", "held-out images"), strict=True):
        ax.set(title=title, xlabel="epochs", ylim=(68, 160))
    axes[0].set_ylabel("minus the bound (nats)")
    axes[0].legend(title="dotted: after 1,000 epochs, published")
    return _saved(figure, work / "bounds.png", plt)


def _draw_along(found: Mapping[int, Mapping[str, Any]], work: Path) -> Path:
    figure, axes, plt = _figure(2)
    for colour, name in enumerate(COMPARED):
        for ax, at in zip(axes, (0, 2), strict=True):
            values, errors = ([row[name][place] for row in found.values()] for place in (at, at + 1))
            ax.errorbar([*found], values, errors, color=f"C{colour}", marker="o", markersize=3, label=name)
    for ax, title in zip(axes, ("encoder", "decoder"), strict=True):
        ax.set(title=title, xlabel="epochs of leave-one-out")
    axes[0].set_ylabel("log-variance of the gradient")
    axes[0].legend()
    return _saved(figure, work / "variance.png", plt)


def _figure(columns: int) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(5 * columns, 4), layout="constrained")
    return figure, axes, plt


def _saved(figure: Any, path: Path, plt: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="what to run")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS], default=[*METHODS], help="what to train by; in this order"
    )
    parser.add_argument("--seeds", type=int, default=1, help="the number of seeds of the bounds (default: 1)")
    parser.add_argument("--repeats", type=int, default=400, help="gradients of each estimator (default: 400)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of three timed steps (default: 20)")
    parser.add_argument(
        "--digits_epochs", type=int, default=75, help="epochs before surrogates are compared (default: 75)"
    )
    parser.add_argument("--learning", type=int, default=1500, help="steps that 'linear' learns for (default: 1500)")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which runs are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--report_only", action="store_true", help="run nothing, report the rows there are")
    parser.add_argument("--save", action="store_true", help="write report, plots and rows into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
