"""Networks of discrete layers trained through relaxations and by estimators for discrete units, side by side.

Lower halves of images given upper halves through two layers of binary units, and densities of images with one and two
layers, linear and non-linear, as Maddison et al. (2017) have them. Each network is trained with m = 1, 5 and 50 samples
in the objective, and evaluated by the bound of the discrete model: of 100 samples for lower halves, of 1,000 for
densities. Sample sets of two layers have 2 or 7 values per layer, 4 or 49 in all, under m = 5 and m = 50; they maximise
the ELBO, the other methods the bound of m samples. With m = 1 VIMCO stands for the score function with learned
baselines.

Parts: ``digits`` are the 8 x 8 digits that come with scikit-learn, with layers of 50 units; ``split`` is MNIST with the
first 8,000 of its test images for training and the last 2,000 held out, with layers of 240 units for lower halves and
of 200 for densities; ``full`` is the whole of MNIST, for the three methods that are best at m = 5 on lower halves of
the parts before.

A run is a row of a CSV file, ``--rows``; finished ones are skipped when the script is started again, and an unfinished
run on MNIST continues from its last checkpoint. The seeds are run one after the other, the first of all networks
first. ``--save`` writes the report, its plots and the rows into benchmarks/results.

References:
    | The Concrete distribution (Maddison, Mnih and Teh, 2017), table 1 and figure 4, https://arxiv.org/abs/1611.00712
    | Categorical reparameterization with Gumbel-softmax (Jang, Gu and Poole, 2017), table 1
    | https://arxiv.org/abs/1611.01144
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import torch
from support.report import Report
from support.rows import FinishedRuns
from support.structured_runs import METHODS, NETS, Budget, Run, finished_runs, mean_of, train

from pyro_ext.datasets import MissingDataError, Splits, load

WORK = Path(__file__).resolve().parents[1] / "runs" / "structured_output"
BUDGETS = {
    "digits": Budget(epochs=50, lr=3e-3, units=50),
    "split": Budget(epochs=50, lr=1e-3, units=200),
    "full": Budget(epochs=20, lr=1e-3, units=200, points=10),
}
SETS = ("leave-one-out", "unordered set")
BEST_OF = 3  # methods that are run on the whole of MNIST
PUBLISHED = {
    "lower half": {"Concrete": (58.5, 54.3, 53.4), "VIMCO": (61.4, 54.5, 51.8)},
    "density 1 linear": {"Concrete": (107.3, 104.9, 104.3), "VIMCO": (104.4, 101.9, 98.8)},
    "density 2 linear": {"Concrete": (102.1, 99.9, 99.5), "VIMCO": (92.9, 91.7, 90.7)},
    "density 1 non-linear": {"Concrete": (92.1, 89.5, 88.5), "VIMCO": (93.8, 91.4, 89.3)},
    "density 2 non-linear": {"Concrete": (87.9, 86.3, 85.7), "VIMCO": (88.4, 86.4, 85.5)},
}  # held-out MNIST, Maddison et al.; with 392-240-240-392 for lower halves, m = 1 of VIMCO is NVIL
JANG = (
    "Jang et al., lower halves, 200-200 binary units: score function 72.0, straight-through 58.9, Gumbel-softmax 58.5."
)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    rows = finished_runs(options.rows)
    for part in options.parts:
        data = _data(part)
        if data is None or options.report_only:
            continue
        for run in planned(part, options, rows):
            rows.get(run.key(), lambda run=run, data=data, part=part: _train(run, data, part, options.work))
    report = Report("structured_output", "Networks of discrete layers: lower halves and densities of images")
    for part in BUDGETS:
        describe(report, rows, part, options.seeds)
    missing = [
        run for part in ("digits", "split") for run in planned(part, options, rows) if rows.find(run.key()) is None
    ]
    if missing:
        report.text(f"{len(missing)} runs of digits and split are not finished, the first of them is {missing[0]}.", "")
    plots = draw(rows, options.work)
    if options.save:
        path = report.save(options.rows, {plot.name: plot for plot in plots})
        print(f"\nwritten to {path}")


def _data(part: str) -> Splits | None:
    if part == "digits":
        return load("digits")
    try:
        return load("mnist", protocol=part)
    except MissingDataError:
        print(f"{part} is left out: PYRO_EXT_DATA does not name a folder that holds MNIST.")
        return None


def planned(part: str, options: argparse.Namespace, rows: FinishedRuns) -> Iterator[Run]:
    """Yield the runs of a part: all networks and methods of the first seed, then those of the others."""
    if part == "full":
        yield from (Run(part, "lower half", method, 5, 0) for method in best(rows))
        return
    for seed in range(options.seeds):
        for m in options.numbers:
            for net in options.nets:
                yield from (Run(part, net, name, m, seed) for name in options.methods if m in METHODS[name].numbers)


def best(rows: FinishedRuns) -> list[str]:
    """Return the methods with the best bounds of lower halves with m = 5, on MNIST if there are rows of it."""
    for part in ("split", "digits"):
        known = {
            name: mean_of(rows, [Run(part, "lower half", name, 5, seed) for seed in range(10)]) for name in METHODS
        }
        values = {name: value for name, value in known.items() if value is not None}
        if len(values) == len(METHODS):
            return sorted(values, key=values.__getitem__)[:BEST_OF]
    raise SystemExit("part full needs all methods with m = 5 on lower halves of digits or split: run those parts first")


def _train(run: Run, data: Splits, part: str, work: Path) -> dict[str, Any]:
    budget = BUDGETS[part]
    if part != "digits" and run.net == "lower half":
        budget = replace(budget, units=240)
    out = None if part == "digits" else work / part / "-".join(map(str, run.key()[1:])).replace(" ", "_")
    return train(run, data, budget, out, work if run.seed == 0 and run.method == "VIMCO" else None)


def describe(report: Report, rows: FinishedRuns, part: str, seeds: int) -> None:
    """Tabulate the bounds of all networks and methods on a data set."""
    header = ("method", "m", "held out", *(f"seed {seed}" for seed in range(seeds)), "train", "-ELBO", "ms per step")
    for net in NETS:
        lines = []
        for name, method in METHODS.items():
            for at, m in enumerate((1, 5, 50)):
                runs = [Run(part, net, name, m, seed) for seed in range(seeds)]
                if m in method.numbers and mean_of(rows, runs) is not None:
                    each = ["" if (row := rows.find(run.key())) is None else f"{row['nll']:.2f}" for run in runs]
                    values = [f"{mean_of(rows, runs, column):.2f}" for column in ("nll", "train_nll", "neg_elbo")]
                    step = mean_of(rows, runs, "ms_per_step")
                    steps = "" if step is None else f"{step:.0f}"
                    published = PUBLISHED[net].get(name, ())
                    shown = f"{published[at]:.1f}" if published and part != "digits" else ""
                    lines.append((name, _evaluations(net, name, m), values[0], *each, *values[1:], steps, shown))
        if lines:
            base = next(row["base_rate"] for key, row in rows.rows.items() if key[:2] == (part, net))
            budget = BUDGETS[part]
            report.table(f"{part}, {net}, {budget.epochs} epochs", (*header, "published"), lines)
            report.text(f"The frequencies of single pixels give {float(base):.2f} nats.", "")
            if part != "digits" and net == "lower half":
                report.text(JANG, "")


def _evaluations(net: str, method: str, m: int) -> str:
    """Return m, and in brackets how many joint values sample sets of two layers really have."""
    size = round(m**0.5) ** 2
    return f"{m} ({size})" if method in SETS and NETS[net]["layers"] == 2 else str(m)


def draw(rows: FinishedRuns, work: Path) -> list[Path]:
    """Plot learning curves of the first seed, a plot for each data set and network; return all plots there are."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    work.mkdir(parents=True, exist_ok=True)
    groups = dict.fromkeys(key[:2] for key in rows.rows)
    for part, net in groups:
        figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", sharey=True)
        for ax, m in zip(axes, (1, 5, 50), strict=True):
            for colour, name in enumerate(METHODS):
                row = rows.find(Run(part, net, name, m, 0).key())
                if row is not None:
                    points = [tuple(map(float, point.split(":"))) for point in row["curve"].split()]
                    ax.plot(*zip(*points, strict=True), color=f"C{colour}", label=name)
            ax.set(xlabel="epochs", title=f"m = {m}")
        axes[0].set_ylabel("minus the bound of 20 samples (nats)")
        handles, labels = axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(METHODS))
        figure.suptitle(f"{part}, {net}: held-out images")
        figure.savefig(work / f"{part}-{net.replace(' ', '-')}-curves.png", dpi=110)
        plt.close(figure)
    return sorted(work.glob("*.png"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=BUDGETS, default=["digits", "split"], help="which data to train on"
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=[*NETS], help="which networks to train")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[*METHODS], help="which methods to train them with"
    )
    parser.add_argument("--numbers", nargs="+", type=int, choices=(1, 5, 50), default=[5, 1, 50], help="which m")
    parser.add_argument("--seeds", type=int, default=2, help="the number of seeds (default: 2)")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder for plots and checkpoints")
    parser.add_argument("--rows", type=Path, default=WORK / "rows.csv", help="the file with the rows of finished runs")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--report_only", action="store_true", help="train nothing, report the rows there are")
    parser.add_argument("--save", action="store_true", help="write report, plots and rows into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
