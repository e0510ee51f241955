"""Few labels and a generator: how much telling real images from generated ones teaches a classifier.

The same discriminator is trained for as many epochs on the labelled images alone, and with a generator that matches
mean features, or that minimises the standard loss; on the same images, labels and noise levels, with averaged
parameters. Three parts: the digits that come with scikit-learn (50 labels, 1,500 images, a new random split for each
seed); MNIST's test images, 8,000 for training with 100 labels and 2,000 held out, which are joined by 10,000 further
ones of the training files; and MNIST whole, with 100 labels of 60,000 and its 10,000 test images, with the networks of
the paper, for a fifth of its epochs. MNIST is read from PYRO_EXT_DATA. No setting was chosen by held-out images.
Finished runs are rows of ``runs/gan/runs.csv``; an interrupted run continues from the last checkpoint in its folder.

References:
    | Improved techniques for training GANs (Salimans et al., 2016)
    | https://arxiv.org/abs/1606.03498
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyro
import torch
from support.gan_runs import METHODS, PARTS, Part, run
from support.report import Report
from support.rows import FinishedRuns

from pyro_ext.datasets import MissingDataError
from pyro_ext.inference import FitWarning

WORK = Path(__file__).resolve().parents[1] / "runs" / "gan"
PUBLISHED = {"full": 0.93}
"""Percent of MNIST's test images after 300 epochs, with a standard deviation of .07 over choices of labels."""
BOUNDS = {"split": 8.0, "full": 1.8}
MATCHING, ALONE = "feature matching", "supervised"

Results = Mapping[str, Sequence[Mapping[str, Any]]]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", FitWarning)
    pyro.enable_validation(False)
    finished = FinishedRuns(options.work / "runs.csv", ("part", "method", "seed"))
    report = Report("gan", "Improved GANs: few labels and a generator")
    for name in options.parts:
        part = PARTS[name]
        seeds = range(part.seeds if options.seeds is None else min(options.seeds, part.seeds))
        methods = [method for method in options.methods if method in part.methods]
        try:
            carry_out(finished, name, part, methods, seeds, options.work)
        except MissingDataError:
            print(f"{name} is left out: PYRO_EXT_DATA does not name a folder that holds MNIST.")
    for name in options.parts:
        tabulate(report, name, PARTS[name], found(finished, name, PARTS[name]))
    if options.save:
        plots = {}
        for plot in sorted(options.work.glob("*/*-0/*.png")):
            name = "-".join(plot.relative_to(options.work).with_suffix("").parts).replace("-0-", "-")
            if plot.stem in ("samples", "course"):
                plots[f"{name}.png"] = plot
        path = report.save(finished.path, plots)
        print(f"\nwritten to {path}")


def carry_out(finished: FinishedRuns, name: str, part: Part, methods: Sequence[str], seeds: range, work: Path) -> None:
    """Carry out the runs of a part that have not finished, all methods of a seed before the next seed."""
    for seed in seeds:
        for method in methods:
            finished.get((name, method, seed), partial(run, name, part, method, seed, work))


def found(finished: FinishedRuns, name: str, part: Part) -> Results:
    """Return the finished runs of a part by their methods."""
    runs = {m: [finished.find((name, m, seed)) for seed in range(part.seeds)] for m in part.methods}
    return {method: [row for row in rows if row is not None] for method, rows in runs.items()}


def tabulate(report: Report, name: str, part: Part, results: Results) -> None:
    """Tabulate errors with their standard errors, and samples; check what the model is to show."""
    results = {method: rows for method, rows in results.items() if rows}
    if not results:
        return
    table = []
    for method, rows in results.items():
        errors = [row["error"] for row in rows]
        cells = [method, str(len(rows)), spread_of(errors), ", ".join(f"{error:.2f}" for error in errors)]
        cells += [
            spread_of([row[column] for row in rows]) for column in ("error_of_more", "error_last") if column in rows[0]
        ]
        for column in ("spread", "sample_classes"):
            values = [row[column] for row in rows]
            cells.append("" if math.isnan(values[0]) else f"{mean(values):.2f}")
        table.append([*cells, f"{mean(row['minutes'] for row in rows):.1f}"])
    more = ["with 10,000 more images"] if part.further is not None else []
    header = ["method", "seeds", "wrong, %", "seed by seed", *more, "not averaged", "spread", "classes", "minutes"]
    held_out = int(next(iter(results.values()))[0]["held_out"])
    report.table(f"{name}: {part.num_labels} labels, {part.epochs} epochs, {held_out} held-out images", header, table)
    if name in PUBLISHED:
        report.text(f"Published, after 300 epochs: {PUBLISHED[name]:.2f} % +- 0.07 (deviation).", "")
    if MATCHING not in results:
        return
    matching = [row["error"] for row in results[MATCHING]]
    if name in BOUNDS:
        report.check(
            mean(matching) <= BOUNDS[name], f"{name}: feature matching at most {BOUNDS[name]} %: {mean(matching):.2f}"
        )
    if ALONE in results and len(results[ALONE]) == len(matching):
        gains = [alone["error"] - own for alone, own in zip(results[ALONE], matching, strict=True)]
        report.check(mean(gains) > 0, f"{name}: points that a generator takes off the error: {spread_of(gains)}")
    report.text("")


def spread_of(values: Sequence[float]) -> str:
    """Return a mean and its standard error over seeds.

    Example:
        >>> spread_of([1.0, 3.0])
        '2.00 +- 1.00'
    """
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} +- {stdev(values) / math.sqrt(len(values)):.2f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS], help="the data sets to train on")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS], default=[*METHODS], help="what to train with; in this order"
    )
    parser.add_argument("--seeds", type=int, default=None, help="at most so many seeds of each part")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which runs are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
