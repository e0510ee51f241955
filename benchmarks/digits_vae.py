"""Gradient estimators of this package and of Pyro on the categorical autoencoder: variance, time, final bound.

All are measured at the same weights, which come from training with the leave-one-out estimator. The log-variance is the
logarithm of the total variance of the gradient of the mean loss per image, on one batch of 100 images; its standard
error is in brackets. Nothing but this package is needed; the MNIST part needs ``PYRO_EXT_DATA``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyro.infer import ELBO, Trace_ELBO
from support import vae
from support.report import Report
from support.timing import StepTime, interleaved_times

from pyro_ext.datasets import Splits, digits, mnist
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSumAndSample_ELBO, TraceUnorderedSet_ELBO
from pyro_ext.inference.compare import GradientFigures, Subject, compare_gradients

K = 4
PYRO, PAIR, SET = "Trace_ELBO", "leave-one-out", "unordered set"

ESTIMATORS: dict[str, Callable[[], ELBO]] = {
    PYRO: lambda: Trace_ELBO(num_particles=K, vectorize_particles=True, max_plate_nesting=1),
    PAIR: lambda: TraceLeaveOneOut_ELBO(K, max_plate_nesting=1),
    SET: lambda: TraceUnorderedSet_ELBO(K, max_plate_nesting=1),
    "unordered set, no baseline": lambda: TraceUnorderedSet_ELBO(K, baseline=False, max_plate_nesting=1),
    "sum and sample": lambda: TraceSumAndSample_ELBO(K, max_plate_nesting=1),
    "leave-one-out, analytic KL": lambda: TraceLeaveOneOut_ELBO(K, analytic_kl=True, max_plate_nesting=1),
    "unordered set, analytic KL": lambda: TraceUnorderedSet_ELBO(K, analytic_kl=True, max_plate_nesting=1),
}


@dataclass(frozen=True)
class Comparison:
    """The measurements at one set of weights, by the name of the estimator."""

    gradients: dict[str, GradientFigures]
    times: dict[str, StepTime]

    def encoder(self, name: str) -> float:
        """Return the log-variance of the encoder's gradient."""
        return self.gradients[name].log_variance["encoder"]

    def speed(self, name: str) -> float:
        """Return the time per step divided by that of leave-one-out."""
        return self.times[name].wall / self.times[PAIR].wall


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = Report("digits_vae", f"Estimators on the categorical autoencoder, K = 10, k = {K}")
    two, twenty = (_at_trained_weights(report, digits(), n, options.epochs, options) for n in (2, 20))
    on_mnist = _mnist(report, options)
    bounds = _final_bounds(report, options)
    if not options.quick:
        _check(report, two, twenty, on_mnist)
        _check_bounds(report, bounds)
    if options.save:
        print(f"\nwritten to {report.save()}")


def _at_trained_weights(
    report: Report, splits: Splits, num_latents: int, epochs: int, options: argparse.Namespace
) -> Comparison:
    plan = vae.autoencoder(splits, num_latents)
    vae.train(plan, ESTIMATORS[PAIR](), splits.train, epochs)
    batch = (splits.train.x[: vae.BATCH_SIZE], None, torch.arange(vae.BATCH_SIZE))
    elbos = {name: make() for name, make in ESTIMATORS.items()}
    subject = Subject(vae.bound(plan).model, vae.bound(plan).guide, batch, size=len(splits.train))
    gradients = compare_gradients(elbos, subject, repeats=options.repeats)
    steps = {name: vae.step(plan, elbo, batch) for name, elbo in elbos.items()}
    comparison = Comparison(gradients, interleaved_times(steps, options.rounds))
    title = f"{splits.name}, N = {num_latents}, after {epochs} epochs of leave-one-out, {options.repeats} repeats"
    header = ["estimator", "log variance, encoder", "decoder", "ms per step", "CPU ms", "time / leave-one-out"]
    report.table(title, header, [_row(name, comparison) for name in steps])
    return comparison


def _row(name: str, comparison: Comparison) -> list[str]:
    figures, time = comparison.gradients[name], comparison.times[name]
    variances = [f"{figures.log_variance[g]:.2f} ({figures.log_variance_error[g]:.2f})" for g in ("encoder", "decoder")]
    return [name, *variances, f"{time.wall:.1f}", f"{time.cpu:.1f}", f"{comparison.speed(name):.2f}"]


def _mnist(report: Report, options: argparse.Namespace) -> Comparison | None:
    if not os.environ.get("PYRO_EXT_DATA"):
        report.text("MNIST is left out: PYRO_EXT_DATA does not name a folder that holds it.", "")
        return None
    return _at_trained_weights(report, mnist(), 20, options.mnist_epochs, options)


def _final_bounds(report: Report, options: argparse.Namespace) -> dict[str, list[float]]:
    """Train with three estimators from the same initial weights; report the held-out bounds, one for each seed."""
    splits = digits()
    bounds: dict[str, list[float]] = {name: [] for name in (PYRO, PAIR, SET)}
    for name, of_seeds in bounds.items():
        for seed in range(options.seeds):
            plan = vae.autoencoder(splits, 2, seed)
            vae.train(plan, ESTIMATORS[name](), splits.train, options.bound_epochs, seed)
            of_seeds.append(vae.negative_bound(plan, splits.valid))
    rows = [[name, *(f"{bound:.2f}" for bound in of_seeds)] for name, of_seeds in bounds.items()]
    title = f"digits, N = 2, validation negative ELBO after {options.bound_epochs} epochs"
    report.table(title, ["estimator", *(f"seed {seed}" for seed in range(options.seeds))], rows)
    return bounds


def _check(report: Report, two: Comparison, twenty: Comparison, on_mnist: Comparison | None) -> None:
    _at_least(report, "N = 2", two, PAIR, 0.5)
    _at_least(report, "N = 2", two, PYRO, 5.0)
    _at_least(report, "N = 20", twenty, PYRO, 4.0)
    _within(report, "N = 20", twenty)
    if on_mnist is not None:
        _within(report, "MNIST, N = 20", on_mnist)
    ratio = twenty.speed(SET)
    report.check(ratio <= 2, f"N = 20: a step of the {SET} takes at most 2 x that of {PAIR}: {ratio:.2f} x")


def _check_bounds(report: Report, bounds: dict[str, list[float]]) -> None:
    gap = min(pyro - ours for pyro, ours in zip(bounds[PYRO], bounds[SET], strict=True))
    report.check(gap >= 3, f"N = 2: final bound of the {SET} at least 3 nats below {PYRO}'s, every seed: {gap:.2f}")


def _at_least(report: Report, where: str, comparison: Comparison, other: str, margin: float) -> None:
    gap = comparison.encoder(other) - comparison.encoder(SET)
    requirement = f"{where}: encoder log-variance of the {SET} at least {margin:g} below {other}'s"
    report.check(gap >= margin, f"{requirement}: {gap:.2f}")


def _within(report: Report, where: str, comparison: Comparison) -> None:
    gap = comparison.encoder(SET) - comparison.encoder(PAIR)
    report.check(abs(gap) <= 0.1, f"{where}: encoder log-variance of the {SET} within 0.1 of {PAIR}'s: {gap:+.2f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=400, help="the number of gradients of each estimator (default: 400)"
    )
    parser.add_argument("--epochs", type=int, default=75, help="epochs before the digits are measured (default: 75)")
    parser.add_argument("--mnist-epochs", type=int, default=75, help="epochs before MNIST is measured (default: 75)")
    parser.add_argument("--bound-epochs", type=int, default=60, help="epochs before the final bounds (default: 60)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of the final bounds of each estimator (default: 2)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of three timed steps (default: 20)")
    parser.add_argument("--threads", type=int, default=2, help="the number of threads of PyTorch (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a few repeats of everything, no requirement checked")
    parser.add_argument("--save", action="store_true", help="write the results into benchmarks/results/")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.rounds, options.seeds = 5, 2, 1
        options.epochs = options.mnist_epochs = options.bound_epochs = 1
    return options


if __name__ == "__main__":
    main()
