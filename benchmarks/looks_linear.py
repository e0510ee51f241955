"""How deep a network without skip connections can be, and what its gradients look like.

First the autocorrelation of gradients of networks of one variable at their initialisation, by depth and kind, beside
white and brown noise, and the correlation of gradients at unrelated inputs beside the theory. Then classifiers of the
bundled digits (mixed, so that training and held-out images have the same writers), trained alike: Adam at 3e-4,
multiplied by 0.7 after each of 8 epochs, batches of 50, gradients clipped at 1. Finished runs are kept under
``runs/looks_linear``, so that an interrupted benchmark continues when it is started again.

References:
    | The shattered gradients problem: if resnets are the answer, then what is the question? (Balduzzi et al., 2017)
    | https://arxiv.org/abs/1702.08591
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pyro
import torch
from matplotlib.figure import Figure
from support.report import Report
from support.rows import FinishedRuns
from torch import Tensor

from pyro_ext.datasets import load
from pyro_ext.inference import FitSettings, fit
from pyro_ext.models.looks_linear import (
    Kind,
    build,
    deep_network,
    freeze_batch_norm,
    scalar_network,
)
from pyro_ext.nn import autocorrelation, gradient_autocorrelation, gradient_correlation
from pyro_ext.plotting import autocorrelation_curve, correlation_by_depth

WORK = Path(__file__).resolve().parents[1] / "runs" / "looks_linear"
DEPTHS = (20, 100, 200)
KINDS = ("looks_linear", "crelu", "relu", "relu_batch_norm", "linear", "residual_batch_norm")
CONVOLUTIONS: dict[str, Any] = {"architecture": "convolutional", "width": 8}
LAYERS = (1, 2, 4, 8)
THEORY = {"$2^{-L}$": lambda layers: 0.5**layers, "$(3/4)^L$": lambda layers: 0.75**layers}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="only .* are classified correctly")
    report = Report("looks_linear", "Looks-linear networks")
    figure = Figure(figsize=(15, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    saved = FinishedRuns(options.work / "gradients.csv")
    gradients(report, saved, axes, options.draws)
    correlations(report, saved, axes[2])
    classifiers(report, FinishedRuns(options.work / "runs.csv", ("network", "depth", "seed")), options)
    options.work.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.work / "autocorrelation.png", dpi=80)
    print(f"figure in {options.work / 'autocorrelation.png'}")
    if options.save:
        path = report.save()
        figure.savefig(path.with_suffix(".png"), dpi=80)
        print(f"written to {path}")


def gradients(report: Report, saved: FinishedRuns, axes: Any, draws: int) -> None:
    """Tabulate and draw autocorrelations of gradients of networks of one variable."""

    def mean_autocorrelation(kind: Kind, depth: int, scale: float | None = None) -> Tensor:
        def drawn() -> dict[str, list[float]]:
            pyro.set_rng_seed(0)
            nets = (scalar_network(kind, depth, residual_scale=scale) for _ in range(draws))
            return {"value": torch.stack([gradient_autocorrelation(net) for net in nets]).mean(0).tolist()}

        return torch.tensor(saved.get(f"{kind}, {depth} layers, scale {scale}, {draws} draws", drawn)["value"])

    shattering = {f"{depth} layers": mean_autocorrelation("relu_batch_norm", depth) for depth in (2, 4, 10, 24, 50)}
    autocorrelation_curve(shattering, axes[0]).set_title("rectifiers with batch norm", fontsize=9)
    pyro.set_rng_seed(0)
    noise = torch.randn(draws, 256)
    kinds = {
        "looks-linear, 50": mean_autocorrelation("looks_linear", 50),
        "CReLU, 50": mean_autocorrelation("crelu", 50),
        "rectifiers, 24": mean_autocorrelation("relu", 24),
        "rectifiers + batch norm, 24": shattering["24 layers"],
        "residual + batch norm, 50, scale 1": mean_autocorrelation("residual_batch_norm", 50, 1.0),
        "residual + batch norm, 50, scale .1": mean_autocorrelation("residual_batch_norm", 50, 0.1),
        "white noise": autocorrelation(noise).mean(0),
        "brown noise": autocorrelation(noise.cumsum(-1)).mean(0),
    }
    autocorrelation_curve(kinds, axes[1]).set_title("kinds of networks, hidden layers", fontsize=9)
    curves = {f"rectifiers + batch norm, {label}": values for label, values in shattering.items()} | kinds
    rows = [[label, *(f"{values[lag]:.3f}" for lag in (1, 5, 15))] for label, values in curves.items()]
    report.table(
        f"Autocorrelation of gradients, mean of {draws} initialisations", ["network", "lag 1", "lag 5", "lag 15"], rows
    )
    shattered, flat = (curves[name][1:].abs() for name in ("rectifiers + batch norm, 24", "looks-linear, 50"))
    report.check(bool(shattered.max() < 0.1), f"24 layers with batch norm: below .1 at all lags: {shattered.max():.3f}")
    report.check(bool(flat.min() == 1), f"50 looks-linear layers: 1 at all lags: {flat.min():.3f}")


def correlations(
    report: Report, saved: FinishedRuns, ax: Any, width: int = 400, inputs: int = 128, draws: int = 5
) -> None:
    """Tabulate and draw correlations of gradients at unrelated inputs beside the theory."""
    measured: dict[str, list[float]] = {}
    networks: dict[str, tuple[Kind, float | None]] = {
        "rectifiers + batch norm": ("relu_batch_norm", None),
        "rectifiers": ("relu", None),
        "residual, scale 1": ("residual", 1.0),
    }
    for label, (kind, scale) in networks.items():
        each = partial(_correlations, kind, scale, width, inputs, draws)
        key = f"correlations, {kind}, width {width}, {inputs} inputs, {draws} draws"
        measured[label] = saved.get(key, each)["value"]
    correlation_by_depth(measured, LAYERS, THEORY, ax).set_title("unrelated inputs", fontsize=9)
    theory = {"theory, 2^-L": [0.5**n for n in LAYERS], "theory, (3/4)^L": [0.75**n for n in LAYERS]}
    rows = [[label, *(f"{value:.3f}" for value in values)] for label, values in (measured | theory).items()]
    report.table("Correlation of gradients at unrelated inputs", ["network", *(f"{n} layers" for n in LAYERS)], rows)


def _correlations(kind: Kind, scale: float | None, width: int, inputs: int, draws: int) -> dict[str, list[float]]:
    pyro.set_rng_seed(0)
    means = []
    for depth in LAYERS:
        drawn = []
        for _ in range(draws):
            x = torch.randn(inputs, width)
            net = deep_network(kind, depth + (2 if kind == "residual" else 1), width, 1, width, residual_scale=scale)
            if kind == "residual":
                del net[-2]  # the rectifier behind the last skip connection, which the theory does not have
            drawn.append(float(gradient_correlation(freeze_batch_norm(net, x), x)))
        means.append(mean(drawn))
    return {"value": means}


def classifiers(report: Report, finished: FinishedRuns, options: argparse.Namespace) -> None:
    """Train all kinds of networks of all depths, and tabulate means over seeds."""
    data = load("digits", binarize=None, mixed=True)
    planned = [(kind, depth, {"kind": kind}) for depth in options.depths for kind in KINDS]
    planned += [(f"{kind}, convolutions", 20, {"kind": kind} | CONVOLUTIONS) for kind in ("looks_linear", "relu")]
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name, depth, own in planned:
            train_it = partial(train, data, {"depth": depth} | own, seed)
            runs.setdefault((name, depth), []).append(finished.get((name, depth, seed), train_it))
    rows = []
    for (name, depth), own in runs.items():
        accuracies = [run["accuracy"] for run in own]
        spread = f"{min(accuracies):.3f} to {max(accuracies):.3f}"
        means = {key: mean(run[key] for run in own) for key in own[0]}
        shown = (f"{means[key]:.2f}" for key in ("autocorrelation_1", "autocorrelation_15"))
        rows.append([name, str(depth), f"{means['accuracy']:.3f}", spread, *shown, f"{means['cpu_seconds']:.1f}"])
    header = ["network", "depth", "accuracy", "least to largest", "lag 1", "lag 15", "CPU s"]
    report.table(f"Digits, {options.seeds} seeds", header, rows)
    if 200 in options.depths:
        least = min(run["accuracy"] for run in runs["looks_linear", 200])
        largest = max(run["accuracy"] for run in runs["relu", 200])
        report.check(least >= 0.96, f"looks-linear, 200 layers: at least .96 with every seed: {least:.3f}")
        report.check(largest < 0.3, f"rectifiers, 200 layers: less than .3 with every seed: {largest:.3f}")


def train(data: Any, options: dict[str, Any], seed: int) -> dict[str, float]:
    """Train one network; return its held-out metrics and the processor time."""
    pyro.set_rng_seed(seed)
    plan, before = build(data, **options), time.process_time()
    result = fit(
        plan,
        data,
        FitSettings(max_epochs=8, batch_size=50, seed=seed),
        enable_progress_bar=False,
        gradient_clip_val=1.0,
        check_val_every_n_epoch=8,
    )
    names = ("accuracy", "label_loss", "autocorrelation_1", "autocorrelation_15", "train_loss")
    return {name: result.metrics[name] for name in names} | {"cpu_seconds": time.process_time() - before}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each network (default: 3)")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help="numbers of layers (default: 20 100 200)")
    parser.add_argument("--draws", type=int, default=20, help="initialisations of networks of one variable")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder of finished runs")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
