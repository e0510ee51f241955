"""The Deep Rendering Mixture Model with few labels, compared with a supervised network of the same shape and budget.

Both are the same program: the supervised network has only the loss of the labels. Further rows add one more loss each.
Errors are those on held-out images, in per cent, and no setting was chosen on them except the weight in the row ``all,
reconstruction 5``. The digits come with scikit-learn; MNIST is read from PYRO_EXT_DATA: its first 8,000 test images
serve for training, the last 2,000 are held out. Results are kept under ``runs/drmm``, so that an interrupted benchmark
continues when it is started again.

References:
    | A probabilistic framework for deep learning (Patel, Nguyen and Baraniuk, 2016)
    | https://arxiv.org/abs/1612.01936
    | Semi-supervised learning with the deep rendering mixture model (Nguyen et al., 2016)
    | https://arxiv.org/abs/1612.01942
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from support.drmm_runs import LOSSES, Budget, cluster, k_means, recognised, train, trained
from support.report import Report
from support.rows import FinishedRuns

from pyro_ext.datasets import MissingDataError, Splits, load
from pyro_ext.models.drmm import DRMM, Layer
from pyro_ext.plotting import image_grid, save

WORK = Path(__file__).resolve().parents[1] / "runs" / "drmm"
DIGITS = Budget(epochs=40, lr=4e-3, options={"num_labels": 50})
MNIST = Budget(epochs=8, lr=4e-3, options={"num_labels": 100, "architecture": "mnist_small"})
ALL_LABELS = {"num_labels": None, "labelled_batch_size": 100}
SPEED = {
    "digits": Budget(epochs=15, lr=4e-3, options=ALL_LABELS),
    "MNIST": Budget(epochs=4, lr=4e-3, options=ALL_LABELS | {"architecture": "mnist_small"}),
}
LEVELS = {"digits": (15.0, 10.0, 7.0), "MNIST": (5.0, 3.0, 2.0)}
NETS = {
    "one layer, 8 templates": [Layer(8, 3, pool=2, padding=1)],
    "two layers, 8 and 16": [Layer(8, 3, pool=2, padding=1), Layer(16, 2)],
}
PARTS = ("digits", "mnist", "speed", "clusters", "samples")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    saved, report = FinishedRuns(options.work / "runs.csv"), Report("drmm", "The Deep Rendering Mixture Model")
    digits, mnist = load("digits", binarize=None), _mnist()
    if "digits" in options.parts:
        errors = ablation(report, saved, digits, DIGITS, "digits, 50 labels", range(5), range(5))
        gap = mean(errors["supervised"]) - mean(errors["all three"])
        report.check(gap >= 5, f"digits: at least 5 points below the supervised network: {gap:.1f}")
    if "mnist" in options.parts and mnist is not None:
        errors = ablation(report, saved, mnist, MNIST, "MNIST, 100 labels", range(3), range(options.mnist_seeds))
        report.check(mean(errors["all three"]) <= 5, f"MNIST: at most 5 per cent: {mean(errors['all three']):.2f}")
    if "speed" in options.parts:
        for name, data in (("digits", digits), ("MNIST", mnist)):
            if data is not None:
                speed(report, saved, data, name, range(3 if name == "digits" else 1))
    if "clusters" in options.parts:
        clusters(report, saved, digits)
    if "samples" in options.parts:
        samples(report, saved, digits, options.work)
    if options.save:
        path = report.save()
        for plot in options.work.glob("*.png"):
            (path.parent / f"{path.stem}-{plot.name}").write_bytes(plot.read_bytes())
        print(f"\nwritten to {path}")


def _mnist() -> Splits | None:
    try:
        return load("mnist", binarize=None, protocol="split")
    except MissingDataError:
        print("MNIST is left out: PYRO_EXT_DATA does not name a folder that holds it.")
        return None


def ablation(
    report: Report, saved: FinishedRuns, data: Splits, budget: Budget, title: str, seeds: range, others: range
) -> dict[str, list[float]]:
    """Train with all combinations of losses: supervised and all three with ``seeds``, the rest with ``others``."""
    errors, rows = {}, []
    for name, weights in LOSSES.items():
        own = seeds if name in ("supervised", "all three") else others
        runs = [saved.get(f"{title}, {name}, seed {s}", partial(train, data, s, budget, weights)) for s in own]
        errors[name] = [run["error"] for run in runs]
        each = [f"{error:.2f}" for error in errors[name]] + [""] * (len(seeds) - len(own))
        error, reconstruction = mean(errors[name]), mean(run["reconstruction"] for run in runs)
        seconds = mean(run["seconds"] for run in runs)
        shown = "-" if weights["reconstruction_weight"] == 0 else f"{reconstruction:.4f}"
        rows.append([name, f"{error:.2f}", *each, shown, f"{seconds:.0f}"])
    header = ["losses", "error, %", *(f"seed {seed}" for seed in seeds), "mean square error", "CPU s"]
    report.table(f"{title}, {budget.epochs} epochs", header, rows)
    blank = mean_square(data)
    report.text(f"A blank image has a mean square error of {blank:.4f}.", "")
    return errors


def mean_square(data: Splits) -> float:
    """Return the mean square of held-out pixels."""
    assert data.valid is not None
    return data.valid.x.square().mean().item()


def speed(report: Report, saved: FinishedRuns, data: Splits, name: str, seeds: range) -> None:
    """Tabulate the number of epochs to reach given errors with all labels, with and without reconstruction."""
    rows = []
    for losses, weight in {"supervised": 0.0, "+ reconstruction": 0.5, "+ reconstruction 5": 5.0}.items():
        weights = LOSSES["supervised"] | {"reconstruction_weight": weight}
        run = partial(train, data, budget=SPEED[name], weights=weights, every_epoch=True)
        keys = {s: f"{name}, all labels, {losses}, seed {s}" for s in seeds}
        runs = [saved.get(key, partial(run, seed=s))["errors"] for s, key in keys.items()]
        reached = [[_first(errors, level) for errors in runs] for level in LEVELS[name]]
        rows.append([losses, *(", ".join(each) for each in reached), f"{mean(errors[-1] for errors in runs):.2f}"])
    header = ["losses", *(f"epochs to {level:g} %" for level in LEVELS[name]), "error at the end, %"]
    report.table(f"{name}, all labels: epochs until the error is reached, seed by seed", header, rows)


def _first(errors: list[float], level: float) -> str:
    return next((str(epoch) for epoch, error in enumerate(errors, 1) if error <= level), "-")


def clusters(report: Report, saved: FinishedRuns, data: Splits, seeds: range = range(3)) -> None:
    """Tabulate the errors of clusters learned without labels, and those of k-means on pixels."""
    rows = []
    for name, layers in NETS.items():
        runs = [saved.get(f"no labels, {name}, seed {s}", partial(cluster, data, layers, s)) for s in seeds]
        squares = f"{mean(run['first'] for run in runs):.4f} -> {mean(run['last'] for run in runs):.4f}"
        rows.append([name, _spread(runs, "start"), _spread(runs, "error"), squares, f"{runs[0]['seconds']:.0f}"])
    by_pixels = [saved.get(f"no labels, k-means, seed {s}", lambda s=s: {"value": k_means(data, s)}) for s in seeds]
    rows.append(["k-means on pixels", "", ", ".join(f"{run['value']:.1f}" for run in by_pixels), "", ""])
    header = ["hard EM, 5 steps", "error at the start, %", "error, %", "mean square error", "CPU s"]
    report.table("Digits without labels: images not in the cluster of their digit, seed by seed", header, rows)


def _spread(runs: list[dict[str, float]], key: str) -> str:
    return ", ".join(f"{run[key]:.1f}" for run in runs)


def samples(report: Report, saved: FinishedRuns, data: Splits, work: Path) -> None:
    """Draw samples of a model trained with few labels and count those that are recognised."""

    def draw() -> dict[str, float]:
        metrics, model = trained(data, 0, DIGITS, LOSSES["all, reconstruction 5"])
        shares, images = recognised(model, data)
        _save_plots(model, data, images, work)
        return shares | {"error": metrics["error"]}

    result = saved.get("samples, digits", draw)
    row = [
        f"{result['as_asked']:.3f}",
        f"{result['sure']:.3f}",
        f"{result['classes']:.0f}",
        f"{result['accuracy']:.3f}",
    ]
    header = ["as asked, p > .9", "any, p > .9", "classes", "accuracy of the classifier"]
    report.table("Samples of digits, 100 of each class, by a classifier trained on real ones", header, [row], 0)
    report.check(result["classes"] == 10, "all ten classes appear among samples recognised with p > .9")


def _save_plots(model: DRMM, data: Splits, images: torch.Tensor, work: Path) -> None:
    assert data.valid is not None
    save(image_grid(images.clamp(0, 1).squeeze(2).transpose(0, 1)), work / "samples.png")
    x = data.valid.x[:10].view(-1, 1, *images.shape[-2:])
    with torch.no_grad():
        rendered = model.reconstruct(x).clamp(0, 1)
    save(image_grid(torch.stack([x[:, 0], rendered[:, 0]])), work / "reconstructions.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="which parts to run")
    parser.add_argument(
        "--mnist-seeds", type=int, default=3, help="the number of seeds for single losses on MNIST (default: 3)"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which results are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report and the plots into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
