"""Bayesian compression: errors, learned sizes and bits of LeNets under both priors of groups, beside published ones.

Three parts: ``digits``, those of scikit-learn, LeNet-300-100; ``split``, MNIST with 8,000 test images to train on and
2,000 to test on, LeNet-300-100; ``full``, 50,000 training images of MNIST and the 10,000 test images, LeNet-300-100 and
LeNet-5. Thresholds are chosen by the error on training images. MNIST is read from PYRO_EXT_DATA. A finished run is a
row of ``runs/compression/runs-PART.csv`` and is not carried out again.

References:
    | Bayesian compression for deep learning (Louizos et al., 2017), tables 1 and 2
    | https://arxiv.org/abs/1705.08665
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import pyro
import torch
from support.report import Report
from support.rows import FinishedRuns

from pyro_ext.datasets import Splits, load
from pyro_ext.inference import FitSettings, FitWarning, fit
from pyro_ext.inference.training.batches import held_out_loader
from pyro_ext.models.compressed_lenet import build

WORK = Path(__file__).resolve().parents[1] / "runs" / "compression"
PRIORS = ("normal_jeffreys", "horseshoe")
PUBLISHED = {
    ("lenet_300_100", "normal_jeffreys"): "1.8 %, 278-98-13, bits 8-9-14, 9 / 36 / 58",
    ("lenet_300_100", "horseshoe"): "1.8 %, 311-86-14, bits 13-11-10, 9 / 23 / 59",
    ("lenet_5", "normal_jeffreys"): "1.0 %, 8-13-88-13, bits 18-10-7-9, 108 / 361 / 573",
    ("lenet_5", "horseshoe"): "1.0 %, 5-10-76-16, bits 10-10-14-13, 156 / 419 / 771",
}


@dataclass(frozen=True)
class Part:
    """A data set, networks and how long to train them."""

    networks: tuple[str, ...]
    epochs: int
    seeds: int


PARTS = {
    "digits": Part(("lenet_300_100",), 300, 3),
    "split": Part(("lenet_300_100",), 120, 3),
    "full": Part(("lenet_300_100", "lenet_5"), 100, 1),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", FitWarning)
    pyro.enable_validation(False)
    report = Report("compression", "Bayesian compression: error, learned sizes, bits and rates")
    for name in options.parts:
        part = PARTS[name] if options.epochs is None else replace(PARTS[name], epochs=options.epochs)
        data = load("digits", binarize=None) if name == "digits" else load("mnist", protocol=name, binarize=None)
        for network in [each for each in part.networks if each in options.networks]:
            table(report, data, name, network, part, options)
    if options.save:
        print(f"\nwritten to {report.save()}")


def table(report: Report, data: Splits, name: str, network: str, part: Part, options: argparse.Namespace) -> None:
    """Tabulate the runs of a network under the priors."""
    finished = FinishedRuns(options.work / f"runs-{name}-{network}.csv", ("prior", "seed"))
    rows = []
    for prior in options.priors:
        job = partial(train, data, network, prior, part)
        runs = [finished.get((prior, seed), partial(job, seed)) for seed in range(min(options.seeds, part.seeds))]
        names = {key: "/".join(f"{run[key]:.1f}" for run in runs) for key in runs[0]}
        rows.append(
            [
                prior,
                *(f"{mean(run[key] for run in runs):.2f}" for key in ("error", "error_unpruned", "error_rounded")),
                " ".join(_joined(run, "size") for run in runs),
                " ".join(_joined(run, "bits") for run in runs),
                *(names[f"{rate}_compression"] for rate in ("pruning", "fast", "maximum")),
                f"{mean(run['cpu_minutes'] for run in runs):.0f}",
            ]
        )
        rows[-1].append(PUBLISHED[network, prior] if name == "full" else "")
        if name == "full":
            error = mean(run["error"] for run in runs)
            limit = 2.3 if network == "lenet_300_100" else 1.2
            report.check(error <= limit, f"{network}, {prior}: error of at most {limit} %: {error:.2f}")
    header = ["prior", "error, %", "unpruned", "rounded", "sizes", "bits", "pruning", "fast", "maximum", "CPU min"]
    report.table(f"{name}: {network}, {part.epochs} epochs", [*header, "published"], rows)


def _joined(run: Mapping[str, float], what: str) -> str:
    return "-".join(f"{value:.0f}" for key, value in run.items() if key.startswith(f"{what}_"))


def train(data: Splits, network: str, prior: str, part: Part, seed: int) -> Mapping[str, float]:
    """Train once; return the metrics of held-out images, and CPU minutes."""
    pyro.set_rng_seed(seed)
    plan = build(data, architecture=network, prior=prior)  # type: ignore[arg-type]
    evaluate, plan.evaluate = plan.evaluate, None
    assert evaluate is not None
    start = time.process_time()
    settings = FitSettings(max_epochs=part.epochs, batch_size=100, seed=seed)
    fit(plan, data, settings, enable_progress_bar=False, accelerator="cpu")
    minutes = (time.process_time() - start) / 60
    held_out = held_out_loader(data.valid if data.test is None else data.test, 1000, seed=0)
    return {**evaluate(held_out), "cpu_minutes": minutes}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument(
        "--networks", nargs="+", choices=("lenet_300_100", "lenet_5"), default=["lenet_300_100", "lenet_5"]
    )
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=[*PRIORS])
    parser.add_argument("--seeds", type=int, default=3, help="at most so many seeds of each run")
    parser.add_argument("--epochs", type=int, help="instead of those of each part; use a work folder of its own")
    parser.add_argument("--work", type=Path, default=WORK, help="where finished runs are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write the tables into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
