"""Gradient estimators compared with those of Storchastic: bias, variance and time per step, in one process.

Both packages see the same weights and the same batch. The exact gradient is known for the toy problem and for the
autoencoder with two latent variables, whose 100 codes are enumerated. With 20 latent variables (10^20 codes) the mean
of independent leave-one-out estimates takes its place. Storchastic needs an environment of its own, made by
``make bench``; without it, only our estimators run.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
from support import toy, vae
from support.gradients import Moments, Reference, Step, measure, z_score
from support.report import Report
from support.timing import StepTime, interleaved_times

from pyro_ext.datasets import Batch, digits
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSampleSet_ELBO, TraceUnorderedSet_ELBO, TrainingPlan

OURS: dict[str, Callable[..., TraceSampleSet_ELBO]] = {
    "unordered set": TraceUnorderedSet_ELBO,
    "leave-one-out": TraceLeaveOneOut_ELBO,
}
K = 4
REPLICATES = 100
NONE = "-"

Sides = dict[str, Step]  # "ours" and, where it is installed, "theirs"


class Bias(NamedTuple):
    """The distance of an estimate from the true value: as a fraction of that value, and in standard errors."""

    relative: float
    z: float

    def __str__(self) -> str:
        return f"{100 * self.relative:+.2f} % ({self.z:.1f})"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = Report("estimators", "Gradient estimators, ours and Storchastic's")
    peer = _peer(report)
    ours = [*compare_on_toy(report, peer, options), *compare_on_digits(report, peer, options)]
    if not options.quick:
        largest = max(bias.z for bias in ours)
        report.check(largest < 4.5, f"largest of our {len(ours)} z-scores below 4.5: {largest:.1f}")
    if options.save:
        print(f"\nwritten to {report.save()}")


def compare_on_toy(report: Report, peer: ModuleType | None, options: argparse.Namespace) -> list[Bias]:
    """Report the table of the toy problem; return our biases."""
    rows, ours = [], []
    for eta in (0.0, -4.0):
        for k in (2, 4, 7, 8):
            for name, elbo in OURS.items():
                logit = toy.replicated_logit(eta, REPLICATES)
                sides = {"ours": toy.step(logit, elbo(k, max_plate_nesting=1))}
                if peer is not None:
                    sides["theirs"] = peer.toy_step(logit, name, k)
                biases, cells = _toy_cells(sides, logit, toy.true_gradient(eta), options)
                rows.append([f"{eta:g}", str(k), name, *cells])
                ours.append(biases["ours"])
    header = ["eta", "k", "estimator", "bias (z)", "theirs", "variance", "theirs", "ratio", "ms", "theirs", "ratio"]
    title = f"Three Bernoulli variables, {REPLICATES} replicates a step, {options.repeats} steps"
    report.table(title, header, rows, labels=3)
    return ours


def _toy_cells(
    sides: Sides, logit: torch.nn.Parameter, truth: float, options: argparse.Namespace
) -> tuple[dict[str, Bias], list[str]]:
    gradients = {side: _repeated_gradients(step, logit, options.repeats) for side, step in sides.items()}
    times = interleaved_times(sides, options.rounds)
    biases, variances = {}, {}
    for side, values in gradients.items():
        mean, variance = float(values.mean()), float(values.var())
        z = z_score(mean, math.sqrt(variance / len(values)), truth)
        biases[side] = Bias((mean - truth) / truth, z)
        variances[side] = variance if variance > 1e-10 * truth**2 else 0.0
    variance_cells = [*_pair(variances, lambda variance: f"{variance:.3g}"), _ratio(variances)]
    return biases, [*_pair(biases, str), *variance_cells, *_time_cells(times)]


def _repeated_gradients(step: Step, parameter: torch.nn.Parameter, repeats: int) -> torch.Tensor:
    torch.manual_seed(0)
    gradients = []
    for _ in range(repeats):
        step()
        assert parameter.grad is not None
        gradients.append(parameter.grad.double())
    return torch.cat(gradients)


def compare_on_digits(report: Report, peer: ModuleType | None, options: argparse.Namespace) -> list[Bias]:
    """Report the table of the autoencoder; return our biases."""
    splits = digits()
    batch = (splits.train.x[: vae.BATCH_SIZE], None, torch.arange(vae.BATCH_SIZE))
    rows, times, ours = [], {}, []
    for num_latents in (2, 20):
        plan = vae.autoencoder(splits, num_latents)
        for weights, epochs in (("initial", 0), ("trained", options.epochs)):
            vae.train(plan, TraceLeaveOneOut_ELBO(K, max_plate_nesting=1), splits.train, epochs)
            references = _references(plan, batch, num_latents, options.repeats)
            estimators = _digits_sides(plan, batch, peer)
            taken = _times_in_turn(estimators, options.rounds)
            for name, sides in estimators.items():
                times[num_latents, weights, name] = taken[name]
                biases, cells = _digits_cells(plan, sides, references, options.repeats)
                rows.append([str(num_latents), weights, name, *cells, *_time_cells(taken[name])])
                ours += biases
    header = ["N", "weights", "estimator", "encoder bias (z)", "theirs", "decoder bias (z)", "theirs"]
    header += ["log variance enc / dec", "theirs", "ms", "theirs", "ratio"]
    title = f"Digits autoencoder, K = 10, k = {K}, batch {vae.BATCH_SIZE}, trained = {options.epochs} epochs"
    report.table(f"{title}, {options.repeats} repeats", header, rows, labels=3)
    if not options.quick:
        _check_speed(report, times)
    return ours


def _digits_sides(plan: TrainingPlan, batch: Batch, peer: ModuleType | None) -> dict[str, Sides]:
    """Return the steps by name of the estimator; the KL term is in closed form unless the name says otherwise."""
    steps: dict[str, Sides] = {}
    for name, elbo in OURS.items():
        steps[name] = {"ours": vae.step(plan, elbo(K, analytic_kl=True, max_plate_nesting=1), batch)}
        if peer is not None:
            steps[name]["theirs"] = peer.vae_step(plan, batch[0], name, K)
        steps[f"{name}, sampled KL"] = {"ours": vae.step(plan, elbo(K, max_plate_nesting=1), batch)}
    return steps


def _times_in_turn(estimators: dict[str, Sides], rounds: int) -> dict[str, dict[str, StepTime]]:
    """Time both packages and all estimators in turns, so that rows can be compared too."""
    steps = {f"{side}: {name}": step for name, sides in estimators.items() for side, step in sides.items()}
    taken = interleaved_times(steps, rounds)
    return {name: {side: taken[f"{side}: {name}"] for side in sides} for name, sides in estimators.items()}


def _references(plan: TrainingPlan, batch: Batch, num_latents: int, repeats: int) -> dict[str, Reference]:
    """Return the exact gradient where all codes can be enumerated, else the mean of leave-one-out estimates."""
    groups = vae.parameter_groups(plan)
    if num_latents <= 2:
        exact = TraceSampleSet_ELBO(estimator="exact", analytic_kl=True, max_plate_nesting=1)
        means = {name: m.mean for name, m in measure(vae.step(plan, exact, batch), groups, 1).items()}
        return {name: Reference(mean / mean.norm(), float(mean.norm())) for name, mean in means.items()}
    draws = vae.step(plan, TraceLeaveOneOut_ELBO(K, analytic_kl=True, max_plate_nesting=1), batch)
    directions = {name: m.mean / m.mean.norm() for name, m in measure(draws, groups, repeats, seed=101).items()}
    # New draws: along the direction of their own mean, the same draws would have too large a component.
    second = measure(draws, groups, repeats, directions, seed=102)
    return {name: Reference(directions[name], *second[name].component) for name in groups}


def _digits_cells(
    plan: TrainingPlan, sides: Sides, references: dict[str, Reference], repeats: int
) -> tuple[list[Bias], list[str]]:
    groups = vae.parameter_groups(plan)
    directions = {name: reference.direction for name, reference in references.items()}
    moments = {side: measure(step, groups, repeats, directions) for side, step in sides.items()}
    ours, cells = [], []
    for group, reference in references.items():
        biases = {side: Bias(*reference.relative_bias(of_groups[group])) for side, of_groups in moments.items()}
        ours.append(biases["ours"])
        cells += _pair(biases, str)
    return ours, [*cells, *_pair(moments, _log_variances)]


def _log_variances(moments: dict[str, Moments]) -> str:
    return " / ".join(f"{of_group.log_variance:.2f}" for of_group in moments.values())


def _pair(values: Mapping[str, Any], show: Callable[[Any], str]) -> list[str]:
    return [show(values[side]) if side in values else NONE for side in ("ours", "theirs")]


def _ratio(values: dict[str, float]) -> str:
    if len(values) < 2 or values["theirs"] == 0:
        return NONE
    return f"{values['ours'] / values['theirs']:.2f}"


def _time_cells(times: dict[str, StepTime]) -> list[str]:
    wall = {side: time.wall for side, time in times.items()}
    return [*_pair(wall, lambda milliseconds: f"{milliseconds:.1f}"), _ratio(wall)]


def _check_speed(report: Report, times: dict[tuple[int, str, str], dict[str, StepTime]]) -> None:
    for (num_latents, weights, name), sides in times.items():
        if name == "unordered set" and "theirs" in sides:
            ratio = sides["ours"].wall / sides["theirs"].wall
            requirement = f"unordered set, N = {num_latents}, {weights} weights: step at most 0.5 x Storchastic's"
            report.check(ratio <= 0.5, f"{requirement}: {ratio:.2f} x")


def _peer(report: Report) -> ModuleType | None:
    if importlib.util.find_spec("storch") is None:
        report.text(
            "Storchastic is not installed here: only our estimators run. `make bench` makes an environment with it."
        )
        return None
    from support import peer  # imported last, since it changes torch

    report.text(
        "Each package runs with its own default: ours with validation of distributions, Storchastic without.", ""
    )
    return peer


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=200, help="the number of gradients of each estimator (default: 200)"
    )
    parser.add_argument("--epochs", type=int, default=75, help="epochs before 'trained' is measured (default: 75)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of three timed steps (default: 20)")
    parser.add_argument("--threads", type=int, default=2, help="the number of threads of PyTorch (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a few repeats of everything, no requirement checked")
    parser.add_argument("--save", action="store_true", help="write the results into benchmarks/results/")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.epochs, options.rounds = 5, 1, 2
    return options


if __name__ == "__main__":
    main()
