"""Constrained variational autoencoders, compared with what people do instead on the same networks.

First the Gaussian rate-distortion problem, whose optimum is known, from multipliers far too small and far too large.
Then the digits of scikit-learn: the squared error that GECO was asked for beside the one it reaches, and beta-VAE, a
warm-up of the divergence, noise on the input and a calibrated decoder (sigma-VAE). MNIST (its first 8,000 test images
serve for training, the last 2,000 are held out) and the Frey faces are read from PYRO_EXT_DATA. Results are kept under
``runs/geco``, so that an interrupted benchmark continues when it is started again.

References:
    | Taming VAEs (Rezende and Viola, 2018)
    | https://arxiv.org/abs/1810.00597
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from support.report import Report
from support.saved import SavedResults

from pyro_ext.datasets import MissingDataError, Splits, load
from pyro_ext.inference import FitSettings, ReconstructionConstraint, TraceGECO_ELBO, fit
from pyro_ext.inference.training.batches import held_out_loader
from pyro_ext.models.geco_vae import build

WORK = Path(__file__).resolve().parents[1] / "runs" / "geco"
PARTS = ("gaussian", "digits", "mnist", "faces")
VARIANCES, TOLERANCE = (4.0, 2.0, 1.0, 0.5, 0.25), 1.6
OPTIMUM = {"multiplier": 1.4815, "squared error": TOLERANCE, "divergence": 2.8655}
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
FACES: dict[str, Mapping[str, Any]] = {
    name: {"hidden": (256,), "num_latents": 16, "architecture": "convolutional"} | options
    for name, options in {
        "GECO, kappa^2 = 5": {"tolerance": 5**0.5},
        "GECO, kappa^2 = 2.5": {"tolerance": 2.5**0.5},
        "GECO, correlation of patches .8": {"constraint": "patches", "tolerance": 0.8},
        "calibrated (sigma-VAE)": NO_CONSTRAINT | {"likelihood": "calibrated"},
    }.items()
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    saved, report = SavedResults(options.work / "runs.jsonl"), Report("geco", "Constrained variational autoencoders")
    if "gaussian" in options.parts:
        gaussian(report, saved)
    if "digits" in options.parts:
        data = load("digits", binarize=None)
        rows = autoencoders(
            report, saved, data, DIGITS, f"digits, {options.epochs} epochs", options.epochs, options.seeds
        )
        for name, limit in {"GECO, kappa^2 = 2": 2.0, "GECO, kappa^2 = 1": 1.0}.items():
            worst = max(abs(run["train squared_error"] / limit - 1) for run in rows[name])
            report.check(worst < 0.03, f"{name}: train error within 3 % of what was asked for: {worst:.1%}")
        kl = [sum(run["kl"] for run in rows[f"GECO, kappa^2 = {k}"]) for k in ("2", "1", ".5")]
        report.check(kl[0] < kl[1] < kl[2], "the divergence falls as the tolerance grows")
    for part, runs, epochs in (("mnist", MNIST, 60), ("faces", FACES, 200)):
        if part in options.parts:
            data = _load(part)
            if data is not None:
                autoencoders(report, saved, data, runs, f"{part}, {epochs} epochs", epochs, 1)
    if options.save:
        print(f"\nwritten to {report.save()}")


def gaussian(report: Report, saved: SavedResults) -> None:
    """Tabulate where training ends on a problem with a known optimum."""
    rows = []
    for start in (1e-4, 1.0, 1e4):
        run = saved.get(f"gaussian from {start:g}", partial(rate_distortion, start))
        shown = [f"{run[name]:.4f} ({run[name] / value - 1:+.2%})" for name, value in OPTIMUM.items()]
        rows.append([f"{start:g}", *shown])
        worst = max(abs(run[name] / value - 1) for name, value in OPTIMUM.items())
        report.check(worst < 0.01, f"Gaussian from {start:g}: within 1 % of theory: {worst:.2%}")
    rows.append(["theory", *(f"{value:.4f}" for value in OPTIMUM.values())])
    report.table("Gaussian rate and distortion", ["multiplier at the start", *OPTIMUM], rows)


def rate_distortion(start: float, steps: int = 4000) -> dict[str, float]:
    """Train linear networks on Gaussian data; return means over the last fifth of the steps."""
    pyro.set_rng_seed(0)
    x = torch.randn(512, len(VARIANCES), dtype=torch.float64)
    x = x - x.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / len(x)), x.T, upper=False).T
    x = whitened * x.new_tensor(VARIANCES).sqrt()
    encoder, decoder = (torch.nn.Linear(x.shape[1], x.shape[1]).double() for _ in range(2))
    log_scale = torch.nn.Parameter(x.new_zeros(x.shape[1]))

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), log_scale.exp()).to_event(1))

    elbo = TraceGECO_ELBO(TraceMeanField_ELBO(), {"x": ReconstructionConstraint(math.sqrt(TOLERANCE))}, start=start)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), log_scale], lr=0.02, betas=(0.9, 0.99))
    decrease = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.6 * steps)], 0.1)
    rows = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = elbo.differentiable_loss(model, guide, x)
        loss.backward()
        optimizer.step()
        decrease.step()
        multiplier, constraint = elbo.terms()["multiplier_x"], elbo.terms()["constraint_x"]
        elbo.after_step()
        divergence = loss.detach() / len(x) - multiplier * constraint
        rows.append(torch.stack([multiplier, constraint + TOLERANCE, divergence]))
    means = torch.stack(rows[-steps // 5 :]).mean(0).tolist()
    return dict(zip(OPTIMUM, means, strict=True))


def autoencoders(
    report: Report,
    saved: SavedResults,
    data: Splits,
    runs: Mapping[str, Mapping[str, Any]],
    title: str,
    epochs: int,
    seeds: int,
) -> dict[str, list[dict[str, float]]]:
    """Train every row of a table with each seed; return the metrics."""
    metrics, rows = {}, []
    for name, options in runs.items():
        own = [
            saved.get(f"{title}, {name}, seed {seed}", partial(train, data, options, epochs, seed))
            for seed in range(seeds)
        ]
        metrics[name] = own
        columns = ("train squared_error", "squared_error", "train kl", "kl", "calibrated_neg_elbo", "seconds")
        values = [sum(run[column] for run in own) / len(own) for column in columns]
        multiplier = sum(run["multiplier"] for run in own) / len(own)
        shown = [f"{value:.3f}" if at < 4 else f"{value:.1f}" for at, value in enumerate(values)]
        rows.append([name, *shown, "-" if math.isnan(multiplier) else f"{multiplier:.3g}"])
    header = ["", "train error", "held-out error", "train KL", "held-out KL", "calibrated -ELBO", "CPU s", "multiplier"]
    report.table(f"{title}, {seeds} seeds", header, rows)
    report.text(
        "Errors are squared errors summed over an image, divergences and bounds are nats an image. The calibrated "
        "bound is that of a normal decoder whose variance is the mean squared error of the held-out images.",
        "",
    )
    return metrics


def train(data: Splits, options: Mapping[str, Any], epochs: int, seed: int) -> dict[str, float]:
    """Train one autoencoder; return its metrics on held-out and training images."""
    pyro.set_rng_seed(seed)
    plan = build(data, **options)
    begin = time.process_time()
    result = fit(
        plan,
        data,
        FitSettings(max_epochs=epochs, batch_size=128, seed=seed),
        enable_progress_bar=False,
        check_val_every_n_epoch=epochs,
    )
    seconds = time.process_time() - begin
    assert plan.evaluate is not None
    of_training = plan.evaluate(held_out_loader(data.train, 500, seed=0))
    elbo = plan.elbo_objective("the benchmark").elbo
    multiplier = elbo.multipliers["x"] if isinstance(elbo, TraceGECO_ELBO) else math.nan
    own = {name: value for name, value in result.metrics.items() if not name.startswith("train_")}
    return (
        own
        | {f"train {name}": value for name, value in of_training.items()}
        | {
            "multiplier": multiplier,
            "seconds": seconds,
        }
    )


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
    parser.add_argument("--epochs", type=int, default=340, help="the number of epochs on digits (default: 340)")
    parser.add_argument("--seeds", type=int, default=2, help="the number of seeds on digits (default: 2)")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which results are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
