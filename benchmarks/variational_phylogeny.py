"""The posterior of the trees of DS1, learnt from short runs: bounds, evidence and divergence in the course of training.

Each estimator is trained by ``pyro-ext fit phylo`` with the published recipe: 200,000 steps of Adam, the learning rate
multiplied by 0.75 every 20,000 steps, the likelihood annealed over the first half. This takes hours. When the script is
called again, a run that was stopped continues from its last checkpoint; ``--steps_at_once`` stops it on purpose. All
figures but the training loss are at inverse temperature 1. ``--report_only`` prints the results so far. ``--save``
keeps the curves as a CSV file beside the report, and ``--beside`` adds curves from such files, of estimators that are
not run this time.

The data lie under PYRO_EXT_DATA: the alignment, ten short runs whose trees make up the support, and the golden runs to
compare with. The publication's public code is not run: its milliseconds per step were measured with 10 particles on one
thread of another machine, and its results are those of the notebook that comes with it.

References:
    | Variational Bayesian phylogenetic inference (Zhang and Matsen, 2019)
    | https://openreview.net/forum?id=SJVmjjR9FX
    | Estimating gradients for discrete random variables by sampling without replacement (Kool et al., 2020)
    | https://arxiv.org/abs/2002.06043
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from support.report import Report

from pyro_ext.cli.__main__ import main as pyro_ext
from pyro_ext.datasets.locate import data_root

EVIDENCE, EVIDENCE_SD = -7108.42, 0.18  # stepping stone of MrBayes
PUBLIC_STEP = (94.0, 116.0)  # milliseconds, 10 particles
STEPS_PER_EPOCH = 1000
ELBOS = {
    "vimco": [
        *("TraceVIMCO_ELBO", "--elbo.num_particles", "10", "--elbo.max_plate_nesting", "0"),
        *("--elbo.vectorize_particles", "true"),
    ],
    "unordered_set": ["TraceUnorderedSet_ELBO", "--elbo.num_samples", "10", "--elbo.max_plate_nesting", "0"],
}

KEPT = (
    "lower_bound_1", "lower_bound_1_error", "lower_bound_10", "lower_bound_10_error", "log_evidence",
    "log_evidence_sd", "kl", "seconds",
)  # fmt: skip

Curve = dict[int, dict[str, float]]
"""Step -> metrics of the epoch that ended there."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    curves: dict[str, Curve] = {}
    for path in options.beside:
        curves |= read_kept(path)
    for estimator in options.estimators:
        out = options.out / estimator
        if not options.report_only:
            train(estimator, out, options)
        if (out / "metrics.csv").is_file():
            curves[estimator] = read_curve(out)
    if not curves:
        sys.exit(f"there is no run in {options.out} yet: leave out --report_only")
    report = Report("variational_phylogeny", "Variational phylogenies of DS1")
    describe(report, curves)
    for estimator in options.estimators:
        if estimator in curves:
            judge(report, estimator, curves[estimator], options.steps)
    plot = options.out / "curves.png"
    draw(curves, plot)
    print(f"\nlearning curves are in {plot}")
    if options.save:
        path = report.save()
        plot.replace(path.with_suffix(".png"))
        keep(curves, path.with_suffix(".csv"))
        print(f"written to {path} and beside it, with the endings .png and .csv")


def train(estimator: str, out: Path, options: argparse.Namespace) -> None:
    """Begin a run, or continue it."""
    root = data_root()
    if root is None:
        sys.exit("PYRO_EXT_DATA must name the folder of data sets, with phylo/alignments, short_runs and golden")
    data = root / "phylo"
    done = max(read_curve(out), default=0) if (out / "metrics.csv").is_file() else 0
    steps = min(options.steps, done + options.steps_at_once)
    if done >= steps:
        return
    if done or (out / "last.ckpt").is_file():
        words = ["--out", str(out), "--resume"]
    else:
        words = ["--data", str(data / "alignments" / "DS1.fasta"), "--seed", str(options.seed), "--out", str(out)]
        words += ["--trees", *_files(data, "short_runs"), "--golden", *_files(data, "golden")]
        words += ["--model.annealing_steps", str(options.steps // 2), "--elbo", *ELBOS[estimator]]
        words += ["--scheduler", "StepLR", "--scheduler.step_size", str(max(1, options.steps // 10))]
        words += ["--scheduler.gamma", "0.75", "--scheduler_interval", "step", "--trainer.accelerator", "cpu"]
    code = pyro_ext(["fit", "phylo", *words, "--trainer.max_epochs", str(steps // STEPS_PER_EPOCH)])
    if code:
        sys.exit(code)


def _files(data: Path, folder: str) -> list[str]:
    return [str(path) for path in sorted((data / folder / "DS1").glob("rep_*/DS1.trprobs*"))]


def read_curve(out: Path) -> Curve:
    """Read the metrics of a run."""
    with (out / "metrics.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return {int(row["step"]): row for row in rows}


def keep(curves: dict[str, Curve], path: Path) -> None:
    """Write the evaluations of all runs."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["estimator", "step", *KEPT], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for name, curve in curves.items():
            rows = [row for row in curve.values() if "kl" in row]
            writer.writerows({**row, "estimator": name, "step": int(row["step"])} for row in rows)


def read_kept(path: Path) -> dict[str, Curve]:
    """Read what :func:`keep` wrote."""
    curves: dict[str, Curve] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            values = {name: float(value) for name, value in row.items() if name != "estimator" and value}
            curves.setdefault(row["estimator"], {})[int(row["step"])] = values
    return curves


def describe(report: Report, curves: dict[str, Curve]) -> None:
    """Tabulate the last evaluation of each run and the time of its steps."""
    header = ("estimator", "steps", "bound K=1", "bound K=10", "log evidence", "s.d.", "KL to golden", "ms per step")
    rows = []
    for name, curve in curves.items():
        step, last = last_evaluation(curve)
        rows.append(
            (
                name,
                f"{step:,}",
                f"{last['lower_bound_1']:.3f} ({last['lower_bound_1_error']:.3f})",
                f"{last['lower_bound_10']:.3f} ({last['lower_bound_10_error']:.3f})",
                f"{last['log_evidence']:.3f}",
                f"{last['log_evidence_sd']:.3f}",
                f"{last['kl']:.4f}",
                f"{step_time(curve):.1f}",
            )
        )
    rows.append(("MrBayes, published", "", "", "", f"{EVIDENCE}", f"{EVIDENCE_SD}", "", ""))
    rows.append(("publication's code", "200,000+", "-7111.295", "", "-7108.396", "0.161", "0.0739", "94-116"))
    report.table("At inverse temperature 1; standard errors in brackets", header, rows)
    points = sorted({step for curve in curves.values() for step, row in curve.items() if "kl" in row})
    shown = points[:: max(1, len(points) // 10)]
    names = [(name, metric) for name in curves for metric in ("lower_bound_10", "kl")]
    columns = ("steps", *(f"{name} {'K=10' if metric != 'kl' else 'KL'}" for name, metric in names))
    table = [
        (f"{step:,}", *(_number(curves[name].get(step, {}).get(metric), metric) for name, metric in names))
        for step in shown
    ]
    report.table("On the way", columns, table)


def _number(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.3f}" if metric == "kl" else f"{value:.2f}"


def last_evaluation(curve: Curve) -> tuple[int, dict[str, float]]:
    """Return the step and the metrics of the last evaluation."""
    return max((step, row) for step, row in curve.items() if "kl" in row)


def step_time(curve: Curve) -> float:
    """Return milliseconds per step, the median over epochs."""
    return median(row["seconds"] for row in curve.values() if "seconds" in row) / STEPS_PER_EPOCH * 1000


def judge(report: Report, name: str, curve: Curve, steps: int) -> None:
    """Check a run against the published results for DS1."""
    step, last = last_evaluation(curve)
    if step < steps:
        report.text(f"- {name}: the run has {step:,} of {steps:,} steps")
    report.check(abs(last["log_evidence"] - EVIDENCE) <= 0.3, f"{name}: log evidence within .3 of {EVIDENCE}")
    report.check(last["kl"] <= 0.15, f"{name}: divergence from the golden run of at most .15 nats")
    if name != "vimco":  # which is what the public code's milliseconds are of
        return
    fastest = min(row["seconds"] for row in curve.values()) / STEPS_PER_EPOCH * 1000
    limit = PUBLIC_STEP[0] / 4
    requirement = f"{name}: {fastest:.1f} ms per step in the fastest epoch, at most a quarter of {PUBLIC_STEP[0]:.0f}"
    report.check(fastest <= limit, requirement)


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Plot the bounds and the divergence of all runs against steps, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (bounds, divergence) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, curve in curves.items():
        rows = [row for row in curve.values() if "kl" in row]
        steps = [row["step"] / 1000 for row in rows]
        (line,) = bounds.plot(steps, [row["lower_bound_10"] for row in rows], label=f"{name}, K = 10")
        single = [row.get("lower_bound_1", float("nan")) for row in rows]
        style = {"color": line.get_color(), "marker": "." if len(rows) < 15 else ""}
        bounds.plot(steps, single, "--", label=f"{name}, K = 1", **style)
        divergence.plot(steps, [row["kl"] for row in rows], label=name)
    bounds.axhline(EVIDENCE, color="black", linewidth=0.8, label="evidence")
    bounds.set(xlabel="thousands of steps", ylabel="lower bound (nats)", ylim=_range(curves))
    divergence.set(xlabel="thousands of steps", ylabel="KL from golden run to network (nats)", yscale="log")
    for ax in (bounds, divergence):
        ax.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _range(curves: dict[str, Curve]) -> tuple[float, float]:
    """Return limits of the axis of bounds that leave out the low values at the beginning."""
    last = min(last_evaluation(curve)[1]["lower_bound_1"] for curve in curves.values())
    return min(last, EVIDENCE) - 10, EVIDENCE + 2


def _options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimators", nargs="+", choices=[*ELBOS], default=[*ELBOS])
    parser.add_argument(
        "--steps", type=int, default=200_000, help="the number of steps of each run, a multiple of 1,000"
    )
    parser.add_argument("--steps_at_once", type=int, default=1_000_000, help="stop each run after this number of steps")
    parser.add_argument("--out", type=Path, default=Path("runs/variational_phylogeny"), help="the folder of the runs")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="CSV files of curves of other runs to show")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report_only", action="store_true", help="do not train")
    parser.add_argument("--save", action="store_true", help="keep report, curves and plot in benchmarks/results")
    options = parser.parse_args(words)
    for name in ("steps", "steps_at_once"):
        value = getattr(options, name)
        if value < STEPS_PER_EPOCH or value % STEPS_PER_EPOCH:
            parser.error(f"--{name} must be a positive multiple of {STEPS_PER_EPOCH}, got {value}")
    return options


if __name__ == "__main__":
    main()
