"""Networks that tell branches and errors of mutation matrices: runs, tables and figures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from math import sqrt
from statistics import mean, stdev
from typing import Any

import pyro

from pyro_ext.datasets import IndexedDataset, MissingDataError, SimulatedTumours, load, simulated_tumours, tumour
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.tumour import branching, noise
from pyro_ext.models.tumour.evaluation import NOISE_RATES, accuracy_by_noise, logits_of, noise_curve
from pyro_ext.models.tumour.prediction import predict_label
from pyro_ext.ops.mutations import fill_missing, is_linear
from pyro_ext.phylo import MutationMatrix
from support.report import Report
from support.rows import FinishedRuns

PUBLISHED: dict[str, Any] = {"network": "one_layer", "dropout": 0.9, "sort": "none", "decay": 1.0}
BRANCHING: Mapping[str, dict[str, Any]] = {
    "two layers, sorted": {},
    "two layers, not sorted": {"sort": "none"},
    "one layer, dropout .9 (published program)": PUBLISHED,
    "pairs": {"network": "pairs", "lr": 3e-3},
}
WITH_ERRORS = ("two layers, sorted", "pairs", "two layers, not sorted")
LARGEST_RATE = 0.35
PAPER = "sigmoid 2 x 100, sorted mutations (the paper's)"
WIDE = "rectifier 2 x 400, sorted mutations"
BOTH = "rectifier 2 x 400, sorted mutations and cells"
NOISE: Mapping[str, dict[str, Any]] = {
    PAPER: {"network": "sigmoid", "width": 100, "sort": "mutations", "decay": 1.0},
    WIDE: {"sort": "mutations"},
    BOTH: {},
    "pairs": {"network": "pairs", "lr": 3e-3},
    "sigmoid 2 x 100, not sorted": {"network": "sigmoid", "width": 100, "sort": "none", "decay": 1.0},
    "rectifier 2 x 400, not sorted": {"sort": "none"},
}
SIZES = (20_000, 50_000, 100_000, 200_000, 500_000)
PASSES = 400_000  # matrices seen in training, those of later epochs included
REAL = {
    "tnbc": (1.24e-6, 0.0973),
    "acute_lymphocytic_leukemia6": (1e-6, 0.17857),
    "colorectal1": (0.0152, 0.0789),
    "colorectal2": (0.0174, 0.1256),
}
"""Rates of false positives and false negatives of real matrices."""

_NUM_TEST = 4000


def _fitted(module: Any, data: SimulatedTumours, options: Mapping[str, Any], epochs: int, seed: int) -> Any:
    """Train a network; return the network, its metrics and the processor time."""
    pyro.set_rng_seed(seed)
    plan, before = module.build(data, **options), time.process_time()
    settings = FitSettings(max_epochs=epochs, batch_size=100, seed=seed)
    result = fit(plan, data, settings, enable_progress_bar=False, check_val_every_n_epoch=epochs)
    network = plan.players[0].objective.modules_by_name["guide"].network
    return network, {**result.metrics, "cpu_seconds": time.process_time() - before}


def _test_of_branching() -> IndexedDataset:
    return simulated_tumours(
        num_train=_NUM_TEST, num_valid=1, labels="branching", false_positive=0, false_negative=0, seed=10**6
    ).train


def train_branching(options: Mapping[str, Any], rate: float, num_train: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train one network of branching; return accuracies by the rate of errors in the test, and the processor time.

    Besides, what it says of samples of the real matrices that are there.
    """
    data = simulated_tumours(
        num_train=num_train,
        num_valid=500,
        labels="branching",
        false_positive=rate,
        false_negative=rate,
        random_rates=rate > 0,
        seed=seed,
    )
    network, metrics = _fitted(branching, data, options, epochs, seed)
    curve = accuracy_by_noise(network, _test_of_branching())
    real = {name: predict_label(network, matrix.values).probability for name, matrix in _real_matrices().items()}
    return {"accuracy": curve[0.0], "curve": [*curve.values()], "cpu_seconds": metrics["cpu_seconds"], **real}


def _real_matrices() -> dict[str, MutationMatrix]:
    """Return the real matrices whose files are there."""
    found = {}
    for name in REAL:
        with suppress(MissingDataError):
            found[name] = tumour(name).matrix
    return found


Runs = dict[tuple[str, str], list[dict[str, Any]]]
"""Network and errors in its training -> results by seed."""


def _branching_runs(finished: FinishedRuns, options: Any) -> Runs:
    planned = {(name, "none"): (own, 0.0) for name, own in BRANCHING.items()}
    planned |= {(name, "0 - 35 %"): (BRANCHING[name], LARGEST_RATE) for name in WITH_ERRORS}
    runs: Runs = {}
    for (name, errors), (own, rate) in planned.items():
        for seed in range(options.seeds):
            key = ("branching", name, f"{options.num_train} x {options.epochs}, errors {errors}", seed)
            run = partial(train_branching, own, rate, options.num_train, options.epochs, seed)
            runs.setdefault((name, errors), []).append(finished.get(key, run))
    return runs


def branching_part(report: Report, finished: FinishedRuns, options: Any, axes: Any) -> None:
    """Tabulate accuracies of branching, with errors in the test from 0 to 35 %, and draw them."""
    runs = _branching_runs(finished, options)
    rows, curves = [], {}
    for (name, errors), own in runs.items():
        mean_curve = [mean(values) for values in zip(*(run["curve"] for run in own), strict=True)]
        curves[f"{name}; errors in training: {errors}"] = dict(zip(NOISE_RATES, mean_curve, strict=True))
        rows.append([name, errors, *(f"{value:.3f}" for value in mean_curve), _time(own)])
    exact = accuracy_by_noise(_Exact(), _test_of_branching())
    rows.append(["exact test", "", *(f"{value:.3f}" for value in exact.values()), ""])
    header = ["network", "errors in training", *(f"{100 * rate:.0f} %" for rate in NOISE_RATES), "CPU s"]
    title = f"Branching, 10 x 10, {options.num_train:,} training matrices: accuracy by errors in the test"
    report.table(f"{title}, mean of {options.seeds} seeds", header, rows, labels=2)
    noise_curve(curves | {"exact test": exact}, axes).set_title("branching, 10 x 10", fontsize=9)
    least = min(run["accuracy"] for run in runs["two layers, sorted", "none"])
    report.check(least >= 0.95, f"two layers, sorted: at least .95 with every seed: {least:.4f}")
    unsorted = min(run["accuracy"] for run in runs["two layers, not sorted", "none"])
    report.text(f"Without sorting the rows and columns the least of the same network is {unsorted:.4f}.\n")


class _Exact:
    """The exact test in the place of a network."""

    training = False

    def __call__(self, x: Any) -> Any:
        return 1 - 2 * is_linear(fill_missing(x)).double()

    def parameters(self) -> Any:
        import torch

        return iter([torch.zeros(())])

    def eval(self) -> None:
        """Do nothing."""

    def train(self, mode: bool) -> None:
        """Do nothing."""


def train_for_matrix(
    name: str, network: str, with_errors: bool, num_train: int, epochs: int, seed: int
) -> dict[str, float]:
    """Train a network of branching for the size of a real matrix; return what it says of that."""
    matrix, (alpha, beta) = tumour(name).matrix, REAL[name]
    cells, mutations = matrix.shape
    rates = (alpha, beta) if with_errors else (0.0, 0.0)
    missing = float((~matrix.observed).double().mean()) if with_errors else 0.0
    data = simulated_tumours(
        num_train=num_train,
        num_valid=500,
        labels="branching",
        cells=cells,
        mutations=mutations,
        false_positive=rates[0],
        false_negative=rates[1],
        missing=missing,
        seed=seed,
    )
    trained, metrics = _fitted(branching, data, BRANCHING[network], epochs, seed)
    return {
        "probability": predict_label(trained, matrix.values).probability,
        "held_out_accuracy": metrics["accuracy"],
        "cpu_seconds": metrics["cpu_seconds"],
    }


def real_part(report: Report, finished: FinishedRuns, options: Any) -> None:
    """Tabulate probabilities of branches of the real matrices that are there."""
    rows = []
    small = _branching_runs(finished, options)
    for name, matrix in _real_matrices().items():
        size = " x ".join(map(str, matrix.shape))
        for network, with_errors in (("pairs", True), ("two layers, sorted", True), ("pairs", False)):
            errors = "as in the matrix" if with_errors else "none"
            key = f"{network}, {options.num_real} x {options.epochs_real}, errors {errors}"
            train = partial(train_for_matrix, name, network, with_errors, options.num_real, options.epochs_real)
            own = [finished.get(("real", name, key, seed), partial(train, seed)) for seed in range(options.seeds)]
            values, accuracy = [run["probability"] for run in own], mean(run["held_out_accuracy"] for run in own)
            rows.append([name, size, f"{network}, for this size", errors, *_spread(values), f"{accuracy:.3f}"])
        for (network, errors), own in small.items():
            values = [run[name] for run in own if name in run]
            if network in WITH_ERRORS and values:
                way = network if network == "pairs" else f"{network}, 200 samples of 10 x 10"
                rows.append([name, size, way, errors, *_spread(values), ""])
    header = [
        "matrix",
        "size",
        "network",
        "errors in training",
        "P(branching)",
        "least to largest",
        "held-out accuracy",
    ]
    if rows:
        report.table(f"Branches of real matrices, mean of {options.seeds} seeds", header, rows, labels=4)


def _spread(values: list[float]) -> tuple[str, str]:
    return f"{mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}"


def train_noise(options: Mapping[str, Any], num_train: int, seed: int) -> dict[str, float]:
    """Train one network of noise inference; return its held-out metrics and the processor time."""
    data = load("simulated_tumours", labels="noise", num_train=num_train, num_valid=_NUM_TEST, seed=seed)
    epochs = max(4, round(PASSES / num_train))
    own = dict(options)
    if own.get("decay") != 1.0:
        own["decay"] = 0.05 ** (1 / epochs)
    network, metrics = _fitted(noise, data, own, epochs, seed)
    train = IndexedDataset(data.train.x[:_NUM_TEST], data.train.y[:_NUM_TEST])
    right = ((logits_of(network, train.x) > 0) == (train.y == 1)).double().mean()
    return {
        "accuracy": metrics["accuracy"],
        "train_accuracy": float(right),
        "sensitivity": metrics["sensitivity"],
        "specificity": metrics["specificity"],
        "epochs": epochs,
        "cpu_seconds": metrics["cpu_seconds"],
    }


def noise_part(report: Report, finished: FinishedRuns, options: Any, axes: Any) -> None:
    """Tabulate accuracies of noise inference by network and by the number of training matrices, and draw them."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for name, own in NOISE.items():
        for seed in range(options.seeds):
            run = partial(train_noise, own, SIZES[0], seed)
            runs.setdefault((name, SIZES[0]), []).append(finished.get(("noise", name, str(SIZES[0]), seed), run))
    rows = []
    for (name, _), own in runs.items():
        values = [run["accuracy"] for run in own]
        error = stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0
        shown = (mean(run[key] for run in own) for key in ("train_accuracy", "sensitivity", "specificity"))
        rows.append([name, f"{mean(values):.3f}", f"{error:.3f}", *(f"{value:.3f}" for value in shown), _time(own)])
    header = ["network", "accuracy", "standard error", "on training matrices", "sensitivity", "specificity", "CPU s"]
    report.table(f"Noise inference, 10 x 10, 20,000 training matrices, {options.seeds} seeds", header, rows)
    for name in (WIDE, BOTH):
        value = mean(run["accuracy"] for run in runs[name, SIZES[0]])
        report.check(value >= 0.73, f"{name}: mean of {options.seeds} seeds at least .73: {value:.3f}")
    report.text("")
    curves: dict[str, dict[int, float]] = {}
    for size in options.sizes:
        for name in (PAPER, WIDE, BOTH):
            key = ("noise", name, str(size), 0)
            run = partial(train_noise, NOISE[name], size, 0)
            curves.setdefault(name, {})[size] = finished.get(key, run)["accuracy"]
    table = [[name, *(f"{curve[size]:.3f}" for size in options.sizes)] for name, curve in curves.items()]
    report.table(
        "Noise inference by the number of training matrices, seed 0, 400,000 matrices seen or 4 epochs",
        ["network", *(f"{size:,}" for size in options.sizes)],
        table,
    )
    for name in (WIDE, BOTH):
        values = [*curves[name].values()]
        error = max((2 * value * (1 - value) / _NUM_TEST) ** 0.5 for value in values)  # of a difference
        rises = values[-1] > values[0] and all(later > before - 2 * error for before, later in pairwise(values))
        report.check(rises, f"{name}: rising with the number of matrices, but for two standard errors")
    report.text("")
    for name, curve in curves.items():
        axes.semilogx([*curve], [*curve.values()], marker="o", markersize=4, label=name)
    axes.set(xlabel="training matrices", ylabel="accuracy", title="noise inference, 10 x 10", ylim=(0.45, 1.02))
    axes.legend(frameon=False, fontsize=7)


def _time(runs: list[dict[str, Any]]) -> str:
    return f"{mean(run['cpu_seconds'] for run in runs):.0f}"
