"""Constrained variational autoencoders, compared with what people do instead on the same networks.

First the Gaussian rate-distortion problem, whose optimum is known, from multipliers far too small and far too large.
Then the digits of scikit-learn: the squared error that GECO was asked for beside the one it reaches, and beta-VAE, a
warm-up of the divergence, noise on the input and a calibrated decoder (sigma-VAE). Every row is trained by Adam, whose
learning rate falls to a tenth after 60 % of the steps: at a constant one the error at a single moment wavers by 5 %.
MNIST (its first 8,000 test images serve for training, the last 2,000 are held out) and the Frey faces are read from
PYRO_EXT_DATA. A finished run is a row of ``runs/geco/runs.csv`` and is not carried out again.

References:
    | Taming VAEs (Rezende and Viola, 2018)
    | https://arxiv.org/abs/1810.00597
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyro
import torch
from support import rate_distortion
from support.report import Report
from support.rows import FinishedRuns

from pyro_ext.datasets import MissingDataError, Splits, load
from pyro_ext.inference import TraceGECO_ELBO
from pyro_ext.inference.training.batches import held_out_loader
from pyro_ext.models.geco_vae import build

WORK = Path(__file__).resolve().parents[1] / "runs" / "geco"
PARTS = ("gaussian", "digits", "mnist", "faces")
TOLERANCE = 1.6  # of the Gaussian problem
BATCH, LEARNING_RATE, FALL = 128, 2e-3, 0.6  # the learning rate falls to a tenth after this share of the steps
COLUMNS = {
    "train squared_error": 3,
    "squared_error": 3,
    "train kl": 2,
    "kl": 2,
    "calibrated_neg_elbo": 1,
    "seconds": 0,
    "multiplier": 1,
    "largest multiplier": 1,
}
HEADER = [
    "", "seeds", "train error", "held-out error", "train KL", "held-out KL", "calibrated -ELBO", "CPU s", "multiplier",
    "largest multiplier",
]  # fmt: skip
NO_CONSTRAINT = {"constraint": "none"}
DIGITS: dict[str, Mapping[str, Any]] = {
    "GECO, kappa^2 = 2": {"tolerance": 2**0.5},
    "GECO, kappa^2 = 1": {"tolerance": 1.0},
    "GECO, kappa^2 = .5": {"tolerance": 0.5**0.5},
    "GECO, kappa^2 = 1, convolutions": {"tolerance": 1.0, "architecture": "convolutional"},
    "sigma = 1": NO_CONSTRAINT,
    "beta = .1": NO_CONSTRAINT | {"beta": 0.1},
    "beta = .03": NO_CONSTRAINT | {"beta": 0.03},
    "sigma = .2": NO_CONSTRAINT | {"sigma": 0.2},
    "sigma = .2, warm-up of 1,800 steps": NO_CONSTRAINT | {"sigma": 0.2, "divergence_warm_up": 1800},
    "sigma = .2, input noise .1": NO_CONSTRAINT | {"sigma": 0.2, "input_noise": 0.1},
    "calibrated (sigma-VAE)": NO_CONSTRAINT | {"likelihood": "calibrated"},
}
MNIST: dict[str, Mapping[str, Any]] = {
    name: {"hidden": (512, 256), "num_latents": 32} | options
    for name, options in {
        "GECO, kappa^2 = 16": {"tolerance": 4.0},
        "GECO, kappa^2 = 9": {"tolerance": 3.0},
        "sigma = 1": NO_CONSTRAINT,
        "calibrated (sigma-VAE)": NO_CONSTRAINT | {"likelihood": "calibrated"},
    }.items()
}
# the mean face is hardly worse than the tolerance, and codes collapse early
LATE = {"multiplier_start": 100.0, "multiplier_warm_up": 300}
FACES: dict[str, Mapping[str, Any]] = {
    name: {"hidden": (256,), "num_latents": 16, "architecture": "convolutional"} | options
    for name, options in {
        "GECO, kappa^2 = 5, multiplier from 100": LATE | {"tolerance": 5**0.5},
        "GECO, kappa^2 = 2.5, multiplier from 100": LATE | {"tolerance": 2.5**0.5},
        "GECO, correlation of patches .8": {"constraint": "patches", "tolerance": 0.8},
        "calibrated (sigma-VAE)": NO_CONSTRAINT | {"likelihood": "calibrated"},
    }.items()
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)  # a quarter of a step on digits
    finished, report = FinishedRuns(options.work / "runs.csv"), Report("geco", "Constrained variational autoencoders")
    if "gaussian" in options.parts:
        gaussian(report, finished)
    if "digits" in options.parts:
        digits(report, finished, options)
    for part, runs, epochs in (("mnist", MNIST, 60), ("faces", FACES, 200)):
        if part in options.parts:
            data = None if options.report_only else _load(part)
            autoencoders(report, finished, data, runs, f"{part}, {epochs} epochs", epochs, 1)
    if options.save:
        print(f"\nwritten to {report.save()}")


def digits(report: Report, finished: FinishedRuns, options: argparse.Namespace) -> None:
    """Tabulate errors and divergences on digits, and check them."""
    data = None if options.report_only else load("digits", binarize=None)
    title = f"digits, {options.epochs} epochs"
    runs = autoencoders(report, finished, data, DIGITS, title, options.epochs, options.seeds)
    for name, limit in {"GECO, kappa^2 = 2": 2.0, "GECO, kappa^2 = 1": 1.0, "GECO, kappa^2 = .5": 0.5}.items():
        if name in runs:
            away = [run["train squared_error"] / limit - 1 for run in runs[name]]
            shown = ", ".join(f"{value:+.1%}" for value in away)
            passed = max(map(abs, away)) < 0.03
            report.check(passed, f"{name}: train error within 3 % of what was asked for, each seed: {shown}")
    kl = [mean(run["kl"] for run in runs[name]) for k in ("2", "1", ".5") if (name := f"GECO, kappa^2 = {k}") in runs]
    report.check(kl == sorted(kl), "the divergence falls as the tolerance grows")
    report.text("")


def gaussian(report: Report, finished: FinishedRuns) -> None:
    """Tabulate where training ends on a problem with a known optimum."""
    names, best = ("multiplier", "squared error", "divergence"), rate_distortion.optimum(TOLERANCE).tolist()
    rows = []
    for start in (1e-4, 1.0, 1e4):

        def run(start: float = start) -> dict[str, float]:
            end = rate_distortion.train(TOLERANCE, steps=3000, start=start).end().tolist()
            return dict(zip(names, end, strict=True))

        results = finished.get(f"gaussian, looking ahead, from {start:g}", run)
        shown = [
            f"{results[name]:.4f} ({results[name] / value - 1:+.2%})" for name, value in zip(names, best, strict=True)
        ]
        rows.append([f"{start:g}", *shown])
        worst = max(abs(results[name] / value - 1) for name, value in zip(names, best, strict=True))
        report.check(worst < 0.01, f"Gaussian from {start:g}: within 1 % of theory: {worst:.2%}")
    rows.append(["theory", *(f"{value:.4f}" for value in best)])
    report.table("Gaussian rate and distortion", ["multiplier at the start", *names], rows)


def autoencoders(
    report: Report,
    finished: FinishedRuns,
    data: Splits | None,
    runs: Mapping[str, Mapping[str, Any]],
    title: str,
    epochs: int,
    seeds: int,
) -> dict[str, list[dict[str, float]]]:
    """Train every row of a table with each seed, those that are finished excepted; return the metrics there are.

    Without data, nothing is trained.
    """
    keys = {(name, seed): f"{title}, {name}, seed {seed}" for seed in range(seeds) for name in runs}
    if data is not None:
        for (name, seed), key in keys.items():  # all rows of a seed before the next one, for a table if interrupted
            finished.get(key, partial(train, data, runs[name], epochs, seed))
    metrics, rows = {}, []
    for name in runs:
        own = [run for seed in range(seeds) if (run := finished.find(keys[name, seed])) is not None]
        if own:
            metrics[name] = own
            shown = [_spread([run.get(column, math.nan) for run in own], digits) for column, digits in COLUMNS.items()]
            rows.append([name, str(len(own)), *("-" if text.startswith("nan") else text for text in shown)])
    if rows:
        report.table(f"{title}: means ± deviations over seeds", HEADER, rows)
        report.text(
            "Errors are squared errors summed over an image, divergences and bounds are nats an image. The calibrated "
            "bound is that of a normal decoder whose variance is the mean squared error of the held-out images.",
            "",
        )
    return metrics


def train(data: Splits, options: Mapping[str, Any], epochs: int, seed: int) -> dict[str, float]:
    """Train one autoencoder; return its metrics on held-out and training images.

    On networks this small, the engine of ``fit`` would take as long as the model, so this is a plain loop.
    """
    pyro.set_rng_seed(seed)
    plan = build(data, **options)
    objective = plan.elbo_objective("the benchmark")
    constrained = isinstance(objective.elbo, TraceGECO_ELBO)
    steps, step, path = epochs * -(-len(data.train) // BATCH), 0, [math.nan]
    optimizer = torch.optim.Adam(objective.parameters(), lr=LEARNING_RATE)
    decrease = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(FALL * steps)], 0.1)
    begin = time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train)).split(BATCH):
            for schedule in plan.schedules:
                schedule(step)
            optimizer.zero_grad()
            objective(*data.train.__getitems__(rows)).total.backward()
            optimizer.step()
            objective.after_step()
            decrease.step()
            step += 1
        if constrained:
            path.append(objective.elbo.multipliers["x"])
    seconds = time.process_time() - begin
    assert plan.evaluate is not None
    assert data.valid is not None
    of_training, held_out = (plan.evaluate(held_out_loader(part, 500, seed=0)) for part in (data.train, data.valid))
    results = dict(held_out) | {f"train {name}": value for name, value in of_training.items()}
    largest = max(path[1:], default=math.nan)
    return results | {"multiplier": path[-1], "largest multiplier": largest, "seconds": seconds}


def _spread(values: list[float], digits: int) -> str:
    shown = f"{mean(values):.{digits}f}"
    if any(map(math.isnan, values)):
        return "nan"
    return f"{shown} ± {stdev(values):.{digits}f}" if len(values) > 1 else shown


def _load(part: str) -> Splits | None:
    try:
        if part == "mnist":
            return load("mnist", binarize=None, protocol="split")
        return load("freyfaces")
    except MissingDataError:
        print(f"{part} is left out: PYRO_EXT_DATA does not name a folder that holds it.")
        return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="which parts to run")
    parser.add_argument("--epochs", type=int, default=300, help="the number of epochs on digits (default: 300)")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds on digits (default: 3)")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which results are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--report_only", action="store_true", help="train no autoencoder, report the rows there are")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
