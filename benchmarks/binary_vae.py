"""Estimators for binary sites on the autoencoder that they are published with: variance, time, and training bounds.

The networks are 784-200-200-200 and its mirror image with leaky rectifiers (slope .3), 200 bits with a uniform prior,
MNIST's 50,000 training images drawn anew in each epoch, batches of 100, Adam at 1e-3. K is the number of times that the
model is evaluated per image and step: 2, 3 or 4.

Parts: ``variance`` measures all estimators at the same weights, after 2,000 steps of leave-one-out with K = 4, and
RODEO after 4,000 steps too, its network having learned from the same batches all along; the log-variance of the
gradient in the logits of 100 images, and in the weights of the encoder; then the time of a training step, all
estimators in turns. ``curves`` trains by each estimator for 30,000 steps, and tells which one first reaches the bound
of leave-one-out with K = 4, in steps and in time, where time is steps by the time of one as the part ``variance`` has
measured it: other work on the machine does not enter.

A finished run is a row of ``runs/binary_vae/curves.csv``; an unfinished one continues from the checkpoint of its last
epoch (500 steps), and its curve so far is reported too. ``--save`` writes the report, plots and rows into
benchmarks/results. Needs ``PYRO_EXT_DATA``, a folder that holds MNIST; without it the data are the 8 x 8 digits, for
which no requirement is checked.

References:
    | Gradient estimation with discrete Stein operators (Shi et al., 2022), table 1, https://arxiv.org/abs/2202.09497
    | ARMS: antithetic-REINFORCE-multi-sample gradient for binary variables (Dimitriev and Zhou, 2021)
    | https://arxiv.org/abs/2105.14141
    | Double control variates for gradient estimation (Titsias and Shi, 2022), https://arxiv.org/abs/2111.05300
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from support import binary_runs
from support.binary_runs import METHODS, label
from support.report import Report
from support.rows import FinishedRuns
from support.timing import interleaved_times

from pyro_ext.datasets import MissingDataError, Splits, load
from pyro_ext.inference.compare import GradientFigures, Subject, compare_gradients

WORK = Path(__file__).resolve().parents[1] / "runs" / "binary_vae"
PLAIN = "leave-one-out"
SLOW = ("unordered set", "RODEO")
PARTS = ("variance", "curves")
POINTS = (5_000, 10_000, 20_000, 30_000)
WEIGHTS = {"2000": ([*METHODS], (2, 3, 4)), "4000": ([PLAIN, "ARMS", "double CV", "RODEO"], (2,))}
"""Steps of training before gradients are measured -> methods, numbers K."""

REQUIRED = {
    ("2000", "ARMS", 4): 0.12,
    ("2000", "ARMS + linear", 4): 0.2,
    ("2000", "ARMS + linear", 2): 0.55,
    ("4000", "RODEO", 2): 0.5,
}
"""How far the log-variance of the gradient in the logits is to be below that of leave-one-out with the same K."""

PUBLISHED = [
    ("2", "DisARM", "-102.75", "-237.68", "-116.50"),
    ("2", "double CV", "-102.14", "-237.55", "-116.39"),
    ("2", "RODEO", "-101.89", "-237.44", "-115.93"),
    ("3", "ARMS", "-100.84", "-237.05", "-115.21"),
    ("3", "RODEO", "-100.46", "-236.88", "-115.01"),
]
COMPARABLE = """Comparable: networks, prior, data, batch size and optimiser are the published ones, and so is the order
of the methods with the same K. Not comparable: the bounds themselves, which are published after 1,000,000 steps, 33
times as many as here; and the methods with K evaluations of the authors' programs, whose DisARM and ARMS evaluate the
model anew, beside the K draws that the decoder learns from."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    measured = FinishedRuns(options.work / "variance.csv", ("weights",))
    rows = FinishedRuns(options.work / "curves.csv", ("method", "k", "seed"))
    data, real = (None, True) if options.report_only else _data()
    if data is not None and "variance" in options.parts:
        _measure_missing(measured, data, options)
    if data is not None and "curves" in options.parts:
        for method, k, seed in planned(options.methods, options.numbers, options.seeds):
            rows.get(
                (method, k, seed),
                lambda run=(method, k, seed): binary_runs.train(data, *run, options.steps, options.work),
            )
    report = Report("binary_vae", "Estimators for binary sites: an autoencoder with 200 bits")
    tabulate_variance(report, measured, check=real)
    plots = tabulate_curves(report, rows, measured, options.work, options.seeds)
    report.table(
        "Published: bounds on training images after 1,000,000 steps (Shi et al., table 1)",
        ("K", "method", "MNIST", "Fashion-MNIST", "Omniglot"),
        PUBLISHED,
        labels=2,
    )
    report.text(*COMPARABLE.splitlines(), "")
    if options.save:
        path = report.save(beside={file.name: file for file in (*plots, rows.path, measured.path)})
        print(f"\nwritten to {path}")


def _data() -> tuple[Splits, bool]:
    """Return MNIST, or digits where there is none, and whether it is MNIST."""
    try:
        return load("mnist", protocol="full", binarize="dynamic"), True
    except MissingDataError:
        print("PYRO_EXT_DATA does not name a folder that holds MNIST: digits take its place.")
        return load("digits", binarize="dynamic"), False


def planned(methods: Sequence[str], numbers: Sequence[int], seeds: int) -> Iterator[tuple[str, int, int]]:
    """Yield method, K and seed of the runs: K in the order given, all seeds of it; the slow methods last of all."""
    for last in (False, True):
        for k in numbers:
            for seed in range(seeds):
                for method in methods:
                    if k in METHODS[method].numbers and (method in SLOW) is last:
                        yield method, k, seed


def _measure_missing(measured: FinishedRuns, data: Splits, options: argparse.Namespace) -> None:
    """Train weights, and measure estimators twice on the way; nothing is done if both rows are there."""
    if all(measured.find(weights) is not None for weights in WEIGHTS):
        return
    model, guide = binary_runs.autoencoder(data, 0, options.width)
    elbos = {(method, k): METHODS[method].make(k) for method in METHODS for k in METHODS[method].numbers}
    optimizer = binary_runs.adam(model, guide)
    for stage, (weights, (methods, numbers)) in enumerate(WEIGHTS.items()):
        both = [METHODS[PLAIN].make(4), elbos["RODEO", 2]]
        binary_runs.train_by_steps(model, guide, both, data.train, options.before, stage, optimizer)
        chosen = {key: elbo for key, elbo in elbos.items() if key[0] in methods and key[1] in numbers}
        measured.get(weights, lambda chosen=chosen: measure(model, guide, chosen, data, options))


def measure(
    model: binary_runs.Decoder,
    guide: binary_runs.Encoder,
    elbos: Mapping[tuple[str, int], ELBO],
    data: Splits,
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Return what is measured of each estimator at the weights of model and guide.

    Args:
        model: the model.
        guide: the guide.
        elbos: the estimators by method and K; those that learn do so first.
        data: the images.
        options: the numbers of repeats and rounds, and a factor for the numbers of steps of learning.

    Returns:
        Log-variances in the logits and in the weights of the encoder, each with its standard error, then the elapsed,
        the processor's and the least elapsed milliseconds of a step, for each method.
    """
    for (method, _), elbo in elbos.items():
        steps = math.ceil(METHODS[method].learns * options.before / 2000)
        binary_runs.train_by_steps(model, guide, [elbo], data.train, steps, 100)
    batch = data.train.__getitems__(range(binary_runs.BATCH))
    named = {label(*key): elbo for key, elbo in elbos.items()}
    figures: list[dict[str, GradientFigures]] = []
    for encoder in (binary_runs.FixedLogits(guide, batch[0]), guide):
        subject = Subject(model, encoder, batch, size=model.size)
        figures.append(compare_gradients(named, subject, repeats=options.repeats))
    moving = copy.deepcopy((model, guide))
    optimizer = binary_runs.adam(*moving)
    times = interleaved_times(
        {name: _step(*moving, elbo, batch, optimizer) for name, elbo in named.items()}, options.rounds, 2
    )
    return {
        name: [
            *(number for each in figures for number in _encoder(each[name])),
            times[name].wall,
            times[name].cpu,
            times[name].least,
        ]
        for name in named
    }


def _encoder(figures: GradientFigures) -> tuple[float, float]:
    return figures.log_variance["encoder"], figures.log_variance_error["encoder"]


def _step(model: Any, guide: Any, elbo: ELBO, batch: Any, optimizer: torch.optim.Optimizer) -> Any:
    objective = binary_runs.objective(model, guide, elbo)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(*batch).total.backward()
        optimizer.step()
        objective.after_step()

    return step


def tabulate_variance(report: Report, measured: FinishedRuns, check: bool = True) -> None:
    """Tabulate log-variances beside those of leave-one-out with the same K, and times; check what is required."""
    for weights, (methods, numbers) in WEIGHTS.items():
        row = measured.find(weights)
        if row is None:
            continue
        lines = []
        for k in numbers:
            plain = row[label(PLAIN, k)]
            for method in methods:
                if k in METHODS[method].numbers:
                    own = row[label(method, k)]
                    cells = [f"{own[0]:.2f}", _difference(own, plain, 0), _difference(own, plain, 2)]
                    lines.append((str(k), label(method, k).split(",")[0], *cells, *_times(own, plain)))
        header = ["K", "method", "log variance", "- leave-one-out", "the same, weights", "CPU ms", "/ leave-one-out"]
        report.table(f"After {weights} steps of leave-one-out, K = 4", header, lines, labels=2)
        report.text(
            "Log-variance of the gradient in the logits of 100 images; differences to leave-one-out with the same K,",
            "in the logits and in the weights of the encoder, with their standard errors; the processor's time of a",
            "training step. 'linear' has learned for 1,500 steps at these weights and double CV for 300; RODEO has",
            "learned from all batches of the training before.",
            "",
        )
        for (of_weights, method, k), margin in REQUIRED.items() if check else ():
            if of_weights == weights and k in numbers:
                own, plain = row[label(method, k)], row[label(PLAIN, k)]
                gap = plain[0] - own[0]
                requirement = f"{label(method, k)} at least {margin:g} below leave-one-out, after {weights} steps"
                report.check(gap >= margin, f"{requirement}: {gap:.2f} +- {math.hypot(own[1], plain[1]):.2f}")
        report.text("")


def _difference(own: Sequence[float], plain: Sequence[float], at: int) -> str:
    if own == plain:
        return "0"
    return f"{own[at] - plain[at]:+.2f} +- {math.hypot(own[at + 1], plain[at + 1]):.2f}"


def _times(own: Sequence[float], plain: Sequence[float]) -> tuple[str, str]:
    return f"{own[5]:.1f}", f"{own[5] / plain[5]:.2f}"


def tabulate_curves(
    report: Report, rows: FinishedRuns, measured: FinishedRuns, work: Path, seeds: int
) -> Sequence[Path]:
    """Tabulate training bounds, and when that of leave-one-out with K = 4 is reached; return the paths of plots."""
    curves: dict[tuple[str, int], dict[int, list[tuple[float, float]]]] = {}
    for method, k, seed in planned([*METHODS], (4, 3, 2), seeds):
        points = binary_runs.curve(work, rows.find((method, k, seed)), method, k, seed)
        if points:
            curves.setdefault((method, k), {})[seed] = points
    reference = curves.get((PLAIN, 4))
    if reference is None:
        return []
    times = measured.find("2000")
    ms = {key: times[label(*key)][5] if times else math.nan for key in curves}
    goals = {seed: points[-1] for seed, points in reference.items()}
    lines, reached = [], {}
    for key, of_seeds in curves.items():
        gains = {
            seed: (steps, steps * ms[key] / (goals[seed][0] * ms[PLAIN, 4]))
            for seed, points in of_seeds.items()
            if seed in goals and not math.isnan(steps := steps_to(points, goals[seed][1]))
        }
        if key == (PLAIN, 4):
            gains = {seed: (step, 1.0) for seed, (step, _) in goals.items()}
        if gains:
            reached[key] = gains
        cells = [_mean_at(of_seeds, steps) for steps in POINTS]
        cells.append(_mean_at(of_seeds, goals[min(goals)][0] / 2 * ms[PLAIN, 4] / ms[key]))
        cells += _gain_cells(gains, goals) if gains else ["-", "-"]
        lines.append((str(key[1]), label(*key).split(",")[0], str(len(of_seeds)), *cells))
    header = ["K", "method", "seeds", *(f"{steps:,}" for steps in POINTS), "at half the time", "steps", "time"]
    report.table("Minus the bound on all training images after so many steps (nats)", header, lines, labels=2)
    of_seeds = ", ".join(f"{value:.2f} after {steps:,.0f} steps (seed {s})" for s, (steps, value) in goals.items())
    report.text(
        f"The bound of leave-one-out with K = 4: {of_seeds}. 'steps' and 'time': what others need to reach it, as a",
        "fraction of what leave-one-out with K = 4 needs, seed by seed; 'at half the time': after half of its time. A",
        "dash: not reached, or not trained for as long.",
        "",
    )
    _verdict(report, reached, goals)
    return draw(curves, ms, work)


def steps_to(points: Sequence[tuple[float, float]], goal: float) -> float:
    """Return the step at which a curve that falls first reaches a value, by interpolation; NaN if it does not.

    >>> steps_to([(1000, 200.0), (2000, 150.0), (3000, 140.0)], 145.0)
    2500.0
    """
    before = None
    for step, value in points:
        if value <= goal:
            if before is None:
                return float(step)
            share = (before[1] - goal) / (before[1] - value) if value < before[1] else 1.0
            return float(before[0] + share * (step - before[0]))
        before = (step, value)
    return math.nan


def _mean_at(of_seeds: Mapping[int, Sequence[tuple[float, float]]], steps: float) -> str:
    """Return the mean of curves after so many steps, by interpolation; a dash unless all are as long."""
    if math.isnan(steps) or any(points[-1][0] < steps for points in of_seeds.values()):
        return "-"
    values = []
    for points in of_seeds.values():
        at = next(at for at, (step, _) in enumerate(points) if step >= steps)
        (late, low), (early, high) = points[at], points[max(at - 1, 0)]
        values.append(low if late == early else high + (low - high) * (steps - early) / (late - early))
    return f"{mean(values):.2f}"


def _gain_cells(gains: Mapping[int, tuple[float, float]], goals: Mapping[int, tuple[float, float]]) -> list[str]:
    steps = ", ".join(f"{steps / goals[seed][0]:.2f}" for seed, (steps, _) in gains.items())
    return [steps, ", ".join("-" if math.isnan(time) else f"{time:.2f}" for _, time in gains.values())]


def _verdict(report: Report, reached: Mapping[tuple[str, int], Mapping[int, tuple[float, float]]], goals: Any) -> None:
    """Say which method reaches the bound first, in steps and in time, of those that reach it with all seeds."""
    complete = {key: gains for key, gains in reached.items() if len(gains) == len(goals)}
    for at, what in enumerate(("steps", "time")):
        scores = {
            key: mean(gain[at] / (goals[seed][0] if at == 0 else 1) for seed, gain in gains.items())
            for key, gains in complete.items()
        }
        scores = {key: score for key, score in scores.items() if not math.isnan(score)}
        if len(scores) > 1:
            first, *rest = sorted(scores, key=scores.__getitem__)
            then = "".join(f", then {label(*key)} at {scores[key]:.2f}" for key in rest[:2])
            report.text(f"- First in {what}, {len(goals)} seeds: {label(*first)} at {scores[first]:.2f}{then}.")
        else:
            report.text(
                f"- First in {what}: no other method has reached the bound with each of {len(goals)} seeds yet."
            )
    report.text("")


def draw(curves: Mapping[tuple[str, int], Mapping[int, Any]], ms: Mapping[Any, float], work: Path) -> list[Path]:
    """Plot the curves of the first seed against steps and against time, a column for each K; return the path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    numbers = sorted({k for _, k in curves})
    reference = curves[PLAIN, 4][min(curves[PLAIN, 4])]
    figure, axes = plt.subplots(2, len(numbers), figsize=(1 + 4 * len(numbers), 7), layout="constrained", sharey=True)
    axes = axes.reshape(2, -1)
    for column, k in enumerate(numbers):
        for colour, method in enumerate(METHODS):
            for points in [*curves.get((method, k), {}).values()][:1]:
                steps, values = zip(*points, strict=True)
                style = {"color": f"C{colour}", "label": method}
                axes[0, column].plot(steps, values, **style)
                if not math.isnan(ms[method, k]):
                    axes[1, column].plot([step * ms[method, k] / 6e4 for step in steps], values, **style)
        axes[0, column].set(title=f"K = {k}", xlabel="steps")
        axes[1, column].set(xlabel="minutes of the processor")
        for ax in axes[:, column]:
            ax.axhline(reference[-1][1], color="grey", linewidth=0.8, linestyle=":")
    best = min(points[-1][1] for of_seeds in curves.values() for points in of_seeds.values())
    axes[0, 0].set_ylim(best - 1, best + 25)
    for row in axes[:, 0]:
        row.set_ylabel("minus the training bound (nats)")
    handles = {text: line for ax in axes[0] for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    figure.suptitle("Dotted: leave-one-out with K = 4 after all its steps")
    work.mkdir(parents=True, exist_ok=True)
    path = work / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return [path]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="what to run")
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS], default=[*METHODS], help="what to train by, for curves"
    )
    parser.add_argument(
        "--numbers", nargs="+", type=int, choices=(2, 3, 4), default=[4, 2, 3], help="which K, for curves"
    )
    parser.add_argument("--seeds", type=int, default=2, help="the number of seeds of the curves (default: 2)")
    parser.add_argument("--steps", type=int, default=30_000, help="the number of steps of a curve (default: 30000)")
    parser.add_argument("--repeats", type=int, default=200, help="gradients of each estimator (default: 200)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of two timed steps (default: 20)")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which runs are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--report_only", action="store_true", help="run nothing, report the rows there are")
    parser.add_argument("--save", action="store_true", help="write report, plots and rows into benchmarks/results")
    options = parser.parse_args()
    options.before, options.width = 2000, binary_runs.WIDTH
    return options


if __name__ == "__main__":
    main()
