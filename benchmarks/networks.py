"""Sparse networks: error and compression of variational dropout beside its rivals, and what a step costs.

Four parts. ``step``: processor time of an Adam step of LeNet-300-100 with batches of 100, of this package's Pyro
program and of a sparse layer written here in plain PyTorch, timed in turns; and of 64 particles, vectorised and one
after the other, for images of 8 x 8 pixels. ``split``: MNIST, 8,000 test images to train on and 2,000 to test on, three
seeds, sparse variational dropout, the dense network, gradual pruning by magnitude to the same sparsity, and Kingma's
multiplicative noise; and the variance of the gradient of the means under the two parameterisations of one posterior.
``full``: 50,000 training images and the 10,000 test images, for the published 200 epochs; ``lenet_5`` on the same for
60. ``random``: labels without meaning, which the sparse network should ignore and networks with dropout learn by heart.
MNIST is read from PYRO_EXT_DATA. A finished run is a row of ``runs/networks/runs.csv`` and is not carried out again.

References:
    | Variational dropout sparsifies deep neural networks (Molchanov et al., 2017), section 5 and table 1
    | https://arxiv.org/abs/1701.05369
    | To prune, or not to prune (Zhu and Gupta, 2017)
    | https://arxiv.org/abs/1710.01878
"""

from __future__ import annotations

import argparse
import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pyro
import torch
from support.plain_sparse import plain_step
from support.report import Report
from support.rows import FinishedRuns
from support.sparse_runs import gradient_variances, particle_step, program_step
from support.timing import interleaved_times

from pyro_ext.datasets import Splits, collate, load
from pyro_ext.inference import FitSettings, FitWarning, fit
from pyro_ext.models.sparse_lenet import build

WORK = Path(__file__).resolve().parents[1] / "runs" / "networks"
PARTS = ("step", "split", "full", "random")
ESTIMATORS = ("sparse", "dense", "magnitude", "multiplicative")
PUBLISHED = {"lenet_300_100": "1.92 % at 68", "lenet_5": "0.75 % at 280"}


@dataclass(frozen=True)
class Protocol:
    """A data set, a network and how long to train it."""

    data: Callable[[], Splits]
    architecture: str
    epochs: int
    seeds: int
    estimators: tuple[str, ...] = ESTIMATORS
    options: Mapping[str, Any] = field(default_factory=dict)


def mnist(protocol: str) -> Splits:
    """Return MNIST in its shades."""
    return load("mnist", protocol=protocol, binarize=None)


def random_labels() -> Splits:
    """Return 1,000 images of MNIST with labels drawn at random, and 1,000 more with others."""
    data = mnist("split")
    generator = torch.Generator().manual_seed(0)
    parts = [(data.train.x[at : at + 1000], torch.randint(0, 10, (1000,), generator=generator)) for at in (0, 1000)]
    return Splits("random labels", *parts, image_shape=data.image_shape)


PROTOCOLS = {
    "split": Protocol(partial(mnist, "split"), "lenet_300_100", 60, 3),
    "full": Protocol(partial(mnist, "full"), "lenet_300_100", 200, 3, ("sparse", "dense", "magnitude")),
    "full, lenet_5": Protocol(partial(mnist, "full"), "lenet_5", 60, 1, ("sparse", "dense")),
    "random": Protocol(random_labels, "lenet_300_100", 400, 1, ("sparse", "multiplicative", "dense")),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", FitWarning)
    pyro.enable_validation(False)
    report = Report("networks", "Sparse variational dropout: error, compression and the cost of a step")
    finished = FinishedRuns(options.work / "runs.csv", ("protocol", "estimator", "epochs", "seed"))
    if "step" in options.parts:
        steps(report)
    for name, protocol in PROTOCOLS.items():
        if name in options.parts or (name == "full, lenet_5" and "lenet_5" in options.parts):
            if options.epochs is not None:
                protocol = replace(protocol, epochs=options.epochs)
            table(report, finished, name, protocol, options)
    if "split" in options.parts:
        variances(report, options.work)
    if options.save:
        path = report.save(finished.path)
        print(f"\nwritten to {path}")


def steps(report: Report) -> None:
    """Time Adam steps in turns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(100, 784, generator=generator)
    y = torch.randint(0, 10, (100,), generator=generator)
    times = interleaved_times(
        {
            "dense, plain PyTorch": plain_step(x, y, sparse=False),
            "sparse, plain PyTorch": plain_step(x, y, sparse=True),
            "sparse, Pyro program": program_step(x, y, "approx"),
            "sparse, Pyro program, exact divergence": program_step(x, y, "exact"),
        },
        rounds=40,
        inner=5,
    )
    base = times["sparse, plain PyTorch"]
    rows = [
        [name, f"{each.cpu:.2f}", f"{each.cpu / base.cpu:.2f}", f"{each.least:.2f}", f"{each.least / base.least:.2f}"]
        for name, each in times.items()
    ]
    header = ["step", "CPU ms, median", "ratio", "ms, least", "ratio"]
    report.table("An Adam step of LeNet-300-100, batches of 100", header, rows)
    ratio = times["sparse, Pyro program"].cpu / base.cpu
    report.check(ratio <= 1.6, f"a step costs at most 1.6 times that of plain PyTorch: {ratio:.2f}")
    particles = interleaved_times(
        {"64 particles at once": particle_step(64, True), "64 particles in turn": particle_step(64, False)}, 10, 1
    )
    rows = [[name, f"{each.cpu:.1f}", f"{each.least:.1f}"] for name, each in particles.items()]
    report.table(
        "A loss and gradient of 64 particles, LeNet-300-100 of 8 x 8 pixels, batches of 100",
        ["step", "CPU ms", "ms, least"],
        rows,
    )


def table(report: Report, finished: FinishedRuns, name: str, protocol: Protocol, options: argparse.Namespace) -> None:
    """Tabulate errors and compressions, seed by seed, of the runs of a protocol."""
    data = protocol.data()
    chosen = [each for each in protocol.estimators if each in options.estimators]
    seeds = protocol.seeds if options.seeds is None else min(options.seeds, protocol.seeds)
    runs: dict[tuple[str, int], dict[str, float]] = {}
    for seed in range(seeds):
        for estimator in chosen:
            sparsity = (
                runs["sparse", seed]["sparsity"] / 100 if estimator == "magnitude" and "sparse" in chosen else 0.98
            )
            job = partial(train, data, protocol, estimator, seed, sparsity)
            runs[estimator, seed] = finished.get((name, estimator, protocol.epochs, seed), job)
    rows = []
    for estimator in chosen:
        own = [runs[estimator, seed] for seed in range(seeds)]
        layers = "-".join(f"{mean(run[f'sparsity_{at}'] for run in own):.1f}" for at in range(_num_layers(own[0])))
        errors = ", ".join(f"{run['error']:.2f}" for run in own)
        rates = ", ".join(f"{run['compression']:.0f}" for run in own)
        minutes = mean(run["cpu_minutes"] for run in own)
        rows.append([estimator, f"{mean(run['error'] for run in own):.2f}", errors, rates, layers, f"{minutes:.0f}"])
    header = ["estimator", "error, %", "seed by seed", "compression", "sparsity by layer, %", "CPU minutes"]
    published = f"; published {PUBLISHED[protocol.architecture]}" if name.startswith("full") else ""
    report.table(f"{name}: {protocol.architecture}, {protocol.epochs} epochs{published}", header, rows)
    _check(report, name, runs, seeds, chosen)


def _check(report: Report, name: str, runs: Mapping[Any, Mapping[str, float]], seeds: int, chosen: list[str]) -> None:
    if "sparse" not in chosen:
        return
    own = [runs["sparse", seed] for seed in range(seeds)]
    error, rate = mean(run["error"] for run in own), min(run["compression"] for run in own)
    if name == "split" and "dense" in chosen:
        gap = error - mean(runs["dense", seed]["error"] for seed in range(seeds))
        report.check(gap <= 0.5, f"error within .5 points of the dense network's: {gap:+.2f}")
        report.check(rate >= 150, f"compression of at least 150 for each seed: {rate:.0f}")
    elif name == "full":
        report.check(
            error <= 2.0 and rate >= 68, f"error of at most 2 % at a compression of 68: {error:.2f} at {rate:.0f}"
        )
    elif name == "full, lenet_5":
        report.check(error <= 1.0 and rate >= 200, f"error of at most 1 % at 200: {error:.2f} at {rate:.0f}")
    elif name == "random":
        left = min(run["sparsity"] for run in own)
        report.check(left >= 99, f"random labels leave at most 1 % of the weights: {100 - left:.2f} %")


def train(data: Splits, protocol: Protocol, estimator: str, seed: int, sparsity: float) -> Mapping[str, float]:
    """Train once; return the metrics of test images, of training images for random labels too, and CPU minutes."""
    pyro.set_rng_seed(seed)
    options = {"architecture": protocol.architecture, "epochs": protocol.epochs, **protocol.options}
    plan = build(data, estimator=estimator, sparsity=sparsity, **options)
    evaluate, plan.evaluate = plan.evaluate, None
    assert evaluate is not None
    start = time.process_time()
    settings = FitSettings(max_epochs=protocol.epochs, batch_size=100, seed=seed)
    result = fit(plan, data, settings, enable_progress_bar=False, accelerator="cpu")
    minutes = (time.process_time() - start) / 60
    parts = {"": data.valid if data.test is None else data.test, "train_": data.train}
    loaders = {
        prefix: torch.utils.data.DataLoader(part, batch_size=500, collate_fn=collate) for prefix, part in parts.items()
    }
    metrics, of_training = evaluate(loaders[""]), evaluate(loaders["train_"])
    layers = [value for name, value in metrics.items() if name.startswith("sparsity_")]
    return {
        **{name: metrics[name] for name in ("error", "neg_log_likelihood", "sparsity", "compression")},
        **{f"sparsity_{at}": layers[at] if at < len(layers) else math.nan for at in range(4)},
        "train_error": of_training["error"],
        "steps": result.history[-1]["step"],
        "cpu_minutes": minutes,
    }


def variances(report: Report, work: Path) -> None:
    """Compare the variances of gradients of the means in the course of a short training."""
    finished = FinishedRuns(work / "variances.csv", ("epoch",))
    data = mnist("split")
    rows = []
    measured: dict[int, dict[str, float]] = {}

    def all_at_once(epoch: int) -> Mapping[str, float]:
        if not measured:
            measured.update(gradient_variances(data, (1, 5, 10, 20, 40)))
        return measured[epoch]

    for epoch in (1, 5, 10, 20, 40):
        row = finished.get((epoch,), partial(all_at_once, epoch))
        ratio = row["multiplicative"] / row["additive"]
        rows.append([str(epoch), f"{row['additive']:.3g}", f"{row['multiplicative']:.3g}", f"{ratio:.1f}"])
    header = ["after epoch", "additive", "multiplicative", "ratio"]
    report.table("Variance of the gradient of the means, one posterior, two parameterisations", header, rows)


def _num_layers(run: Mapping[str, float]) -> int:
    return sum(f"sparsity_{at}" in run and not math.isnan(run[f"sparsity_{at}"]) for at in range(4))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = (*PARTS, "lenet_5")
    parser.add_argument("--parts", nargs="+", choices=choices, default=[*choices], help="what to measure")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=[*ESTIMATORS], help="what to train")
    parser.add_argument(
        "--seeds", type=int, default=None, help="the number of seeds at most; those planned if left out"
    )
    parser.add_argument("--epochs", type=int, default=None, help="the number of epochs instead of those planned")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which finished runs are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
