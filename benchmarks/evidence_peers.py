"""The parts of ``estimate_evidence`` compared with other libraries: processor time and errors for known evidence.

Hamiltonian Monte Carlo of many chains at once is compared with NUTS of ``pyro.infer``, its metrics with those of
``pyro.ops.welford``, nested sampling with dynesty, effective sample sizes and tail indices with ArviZ and
``pyro.ops.stats``. The models have eight latent variables and an evidence in closed form. Each library does the same
work in the same process, with its default settings except for the sizes stated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from statistics import fmean, median, stdev
from typing import TypeVar

import torch
from pyro.ops.stats import effective_sample_size
from pyro.ops.welford import WelfordCovariance
from support.evidence_peers import (
    PROBLEMS,
    KnownEvidence,
    arviz_ess,
    arviz_pareto_k,
    dynesty_run,
    nuts_draws,
    nuts_powers,
    processor_seconds,
)
from support.report import Report
from torch import Tensor

from pyro_ext.inference.evidence import EvidenceSettings, estimate_evidence
from pyro_ext.inference.evidence.powers import stepping_stone
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.inference.evidence.tuning import Metric
from pyro_ext.inference.evidence.weights import chain_ess, pareto_k
from pyro_ext.inference.evidence.workspace import Workspace

T = TypeVar("T")
F64 = torch.float64
OURS = "pyro_ext"


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    report = Report("evidence_peers", "The parts of evidence estimation, compared with NUTS, dynesty and ArviZ")
    report.text(f"- peers: {', '.join(f'{name} {version(name)}' for name in ('dynesty', 'arviz'))}", "")
    draws = 200 if options.quick else 1000
    rates = compare_chains(report, draws)
    powers = compare_powers(report, PROBLEMS[0], 5 if options.quick else 12, 80 if options.quick else 240)
    metrics = compare_metrics(report, 50, 1 if options.quick else 10)
    nested = compare_nested(report, 25 if options.quick else 100, 1 if options.quick else 5)
    lengths = (400, 800) if options.quick else (1000, 4000)
    ess = compare_ess(report, lengths)
    tails = compare_tails(report, 20 if options.quick else 200)
    time_imports(report)
    for name, ratio in rates.items():
        report.check(ratio >= 1, f"effective draws a second, {name}: {ratio:.1f} x the best of NUTS")
    report.check(powers >= 1, f"effective draws a second at all powers: {powers:.1f} x NUTS run power by power")
    report.check(metrics >= 1, f"condition number left by the metric of one chain: {metrics:.1f} x that left by ours")
    for name, ratio in nested.items():
        report.check(ratio >= 1, f"nested sampling, {name}: {ratio:.1f} x faster than dynesty on the same Pyro model")
    report.check(ess < 0.05, f"effective sample sizes differ from ArviZ's by {ess:.1%} on average, at most 5 %")
    report.check(tails < 1e-6, f"tail indices differ from ArviZ's by {tails:.1g}, at most 1e-6")
    if options.save:
        print(f"\nwritten to {report.save()}")


def compare_chains(report: Report, draws: int) -> dict[str, float]:
    """Draw from posteriors; return our effective draws a second divided by those of the best NUTS."""
    rows, ratios = [], {}
    for known in PROBLEMS:
        begin = processor_seconds()
        workspace = Workspace(Problem(known.model, vectorize=True), EvidenceSettings(num_posterior=draws), seed=0)
        posterior = workspace.posterior()
        seconds = processor_seconds() - begin
        ours = workspace.problem.coordinates.constrain(posterior.z.flatten(0, 1))[0][known.site]
        # Flattened draws (N C, D) as (C, N, D), like those of NUTS.
        runs = {f"{OURS}, 8 chains": (ours.unflatten(0, posterior.z.shape[:2]).transpose(0, 1), seconds)}
        runs["NUTS, 1 chain"] = nuts_draws(known, 150, draws)
        runs["NUTS, 1 chain, jit_compile"] = nuts_draws(known, 150, draws, jit=True)
        runs["NUTS, 8 chains"] = nuts_draws(known, 150, draws // 8, chains=8)
        speeds = []
        for way, (samples, took) in runs.items():
            ess = chain_ess(samples.permute(1, 2, 0)).min().item()
            estimate = estimate_evidence(known.model, method="bridge", posterior={known.site: samples}, seed=0)
            speeds.append(ess / took)
            error = f"{estimate.log_evidence - known.exact:+.3f}"
            rows.append([known.name, way, f"{took:.1f}", f"{ess:.0f}", f"{ess / took:.0f}", error,
                         f"{estimate.std_error:.3f}"])  # fmt: skip
        ratios[known.name] = speeds[0] / max(speeds[1:])
    header = ["model", "sampler", "processor s", "least ESS", "ESS a second", "bridge - exact", "std. error"]
    report.table(f"{draws} draws from the posterior after 150 warm-up steps", header, rows, labels=2)
    report.text(
        "Our time includes the variational fit from which chains start. NUTS runs its chains one after another here;",
        "with more processors than chains it starts a process for each, to which the model is pickled.",
        "",
    )
    return ratios


def compare_powers(report: Report, known: KnownEvidence, num_powers: int, draws: int) -> float:
    """Draw from power posteriors; return our effective draws a second divided by those of NUTS."""
    settings = EvidenceSettings(num_powers=num_powers, num_power=draws)
    begin = processor_seconds()
    ours = Workspace(Problem(known.model, vectorize=True), settings, seed=0).powers()
    runs = {f"{OURS}, all powers at once": (ours, processor_seconds() - begin)}
    runs["NUTS, jit_compile, power by power"] = nuts_powers(
        known, settings.likelihood_powers(), settings.num_warmup, draws
    )
    rows, speeds = [], []
    for way, (path, took) in runs.items():
        ess, estimate = chain_ess(path.log_ratio[:, 1:]).min().item(), stepping_stone(path)
        speeds.append(ess / took)
        error = f"{estimate.log_evidence - known.exact:+.3f}"
        rows.append([way, f"{took:.1f}", f"{ess:.0f}", f"{ess / took:.1f}", error, f"{estimate.std_error:.3f}"])
    header = ["sampler", "processor s", "least ESS", "ESS a second", "stepping stone - exact", "std. error"]
    report.table(f"{known.name}: {draws} draws at each of {num_powers} powers, 150 warm-up steps", header, rows)
    return speeds[0] / speeds[1]


def compare_metrics(report: Report, num_draws: int, repeats: int) -> float:
    """Estimate metrics from short warm-ups; return the condition number left by Pyro's divided by that left by ours."""
    groups, chains, dim = 12, 16, 20
    runs = []
    for _ in range(repeats):
        root = torch.randn(dim, dim, dtype=F64)
        covariance = root @ root.mT / dim + 0.2 * torch.eye(dim, dtype=F64)
        factor = torch.linalg.cholesky(covariance)
        draws = torch.randn(num_draws, groups, chains, dim, dtype=F64) @ factor.mT
        before = Metric(torch.ones(groups, dim, dtype=F64))
        ours, ours_ms = _timed(lambda: Metric.from_draws(draws, before).factor)  # noqa: B023 - called at once
        pyros, pyros_ms = _timed(lambda: _welford_factors(draws))  # noqa: B023
        none = torch.eye(dim, dtype=F64)
        left = [float(_condition_number(metric, factor).mean()) for metric in (none, ours, pyros)]
        runs.append([*left, ours_ms, pyros_ms])
    none, ours, pyros, ours_ms, pyros_ms = (fmean(column) for column in zip(*runs, strict=True))
    rows = [
        ["no metric", f"{none:.1f}", ""],
        [f"{OURS}, {chains} chains pooled", f"{ours:.1f}", f"{ours_ms:.0f}"],
        ["pyro.ops.welford, chain by chain", f"{pyros:.1f}", f"{pyros_ms:.0f}"],
    ]
    header = ["metric", "condition number left", "processor ms"]
    title = f"Metrics of {groups} Gaussians of {dim} dimensions, from {num_draws} draws of each of {chains} chains"
    report.table(title, header, rows)
    return pyros / ours


def compare_nested(report: Report, num_live: int, repeats: int) -> dict[str, float]:
    """Run nested sampling; return the time of dynesty divided by ours, on the same Pyro model."""
    rows, ratios = [], {}
    for known in PROBLEMS:
        ways = {OURS: _ours_nested(known, num_live, repeats)}
        ways["dynesty, the Pyro model"] = [dynesty_run(known, num_live, 0, pyro_model=True)]
        ways["dynesty, NumPy by hand"] = [
            dynesty_run(known, num_live, seed, pyro_model=False) for seed in range(repeats)
        ]
        for way, runs in ways.items():
            errors = [value - known.exact for value, *_ in runs]
            rows.append([
                known.name, way, str(len(runs)), f"{fmean(run[3] for run in runs):.1f}",
                f"{fmean(run[2] for run in runs):.0f}", f"{fmean(errors):+.2f}",
                f"{fmean(error**2 for error in errors) ** 0.5:.2f}", f"{fmean(run[1] for run in runs):.2f}",
            ])  # fmt: skip
        ratios[known.name] = ways["dynesty, the Pyro model"][0][3] / fmean(run[3] for run in ways[OURS])
    header = ["model", "sampler", "runs", "processor s", "evaluations", "mean error", "RMSE", "std. error"]
    report.table(f"Nested sampling with {num_live} live points", header, rows, labels=2)
    report.text(
        "dynesty needs the prior as a transform of the unit cube, written by hand here, and evaluates the likelihood",
        "at one point in each call. Our sampler takes any Pyro model with a proper prior, and evaluates the likelihood",
        "at half as many points at once as there are live points.",
        "",
    )
    return ratios


def compare_ess(report: Report, lengths: tuple[int, int]) -> float:
    """Compare effective sample sizes of autoregressions; return the largest relative difference from ArviZ's."""
    rows, largest = [], 0.0
    for num_draws, num_series, num_chains in ((lengths[0], 50, 4), (lengths[1], 20, 1)):
        series = _autoregression(0.5, num_draws, num_series, num_chains)
        shape = f"{num_draws} x {num_series} x {num_chains}"
        ours, ours_ms = _timed(lambda: chain_ess(series))  # noqa: B023 - called at once
        arviz, arviz_ms = _timed(lambda: arviz_ess(series))  # noqa: B023
        pyros, pyros_ms = _timed(lambda: effective_sample_size(series, chain_dim=2, sample_dim=0))  # noqa: B023
        for way, ess, milliseconds in (
            (OURS, ours, ours_ms), ("ArviZ", arviz, arviz_ms), ("pyro.ops.stats", pyros, pyros_ms)
        ):  # fmt: skip
            rows.append([shape, way, f"{milliseconds:.1f}", f"{ess.mean():.0f}", f"{ess.std():.0f}"])
        rows.append([shape, "exact", "", f"{num_draws * num_chains / 3:.0f}", ""])
        largest = max(largest, abs(float(ours.mean() / arviz.mean()) - 1))
    header = ["draws x series x chains", "by", "processor ms", "mean ESS", "its sd over series"]
    report.table("Effective sample sizes of autoregressions of coefficient 0.5", header, rows, labels=2)
    report.text(
        "For each series pyro.ops.stats makes a square matrix with half as many rows as there are draws,",
        "so its memory grows with the square of the number of draws.",
        "",
    )
    return largest


def compare_tails(report: Report, repeats: int) -> float:
    """Compare tail indices of weights of known index; return the largest difference from ArviZ's."""
    rows, largest = [], 0.0
    for k in (0.2, 0.5, 0.7, 1.0):
        weights = [-k * torch.rand(10_000, dtype=F64).log() for _ in range(repeats)]
        ours, ours_ms = _timed(lambda: [pareto_k(row) for row in weights])  # noqa: B023 - called at once
        arviz, arviz_ms = _timed(lambda: [arviz_pareto_k(row) for row in weights])  # noqa: B023
        largest = max(largest, max(abs(a - b) for a, b in zip(ours, arviz, strict=True)))
        for way, tails, milliseconds in ((OURS, ours, ours_ms), ("ArviZ", arviz, arviz_ms)):
            rows.append([f"{k}", way, f"{fmean(tails):.3f}", f"{stdev(tails):.3f}", f"{milliseconds / repeats:.2f}"])
    header = ["exact", "by", "mean k", "sd", "processor ms"]
    report.table("Tail indices of 10,000 importance weights", header, rows, labels=2)
    return largest


def time_imports(report: Report) -> None:
    """Report the time to import a peer after pyro_ext.inference has been imported."""
    lines = []
    for module in ("arviz", "dynesty"):
        code = (
            "import time, warnings; warnings.simplefilter('ignore'); import pyro_ext.inference; "
            f"begin = time.process_time(); import {module}; print(time.process_time() - begin)"
        )
        runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(3)]
        lines.append(f"{module} {median(float(run.stdout.splitlines()[-1]) for run in runs):.2f} s")
    report.text(f"Importing a peer after pyro_ext.inference takes, in processor time: {', '.join(lines)}.", "")


def _ours_nested(known: KnownEvidence, num_live: int, repeats: int) -> list[tuple[float, float, int, float]]:
    """Return log-evidence, standard error, likelihood evaluations and processor seconds, as ``dynesty_run`` does."""
    runs = []
    for seed in range(repeats):
        begin = processor_seconds()
        estimate = estimate_evidence(known.model, method="nested_sampling", num_samples=num_live, seed=seed)
        seconds = processor_seconds() - begin
        evaluations = num_live + estimate.diagnostics["rounds"] * estimate.diagnostics["steps"] * (num_live // 2)
        runs.append((estimate.log_evidence, estimate.std_error, evaluations, seconds))
    return runs


def _welford_factors(draws: Tensor) -> Tensor:
    """Return the Cholesky factors of the covariances that Pyro's warm-up estimates, chain by chain, ``(R, D, D)``."""
    covariances = []
    for chain in draws.flatten(1, 2).unbind(1):
        welford = WelfordCovariance(diagonal=False)
        for draw in chain:
            welford.update(draw)
        covariances.append(welford.get_covariance())
    return torch.linalg.cholesky(torch.stack(covariances))


def _condition_number(metric: Tensor, factor: Tensor) -> Tensor:
    """Return the condition number of the covariance of ``factor`` as seen through the factors of metrics."""
    values = torch.linalg.svdvals(torch.linalg.solve(metric, factor))
    return (values.amax(-1) / values.amin(-1)).square()


def _autoregression(coefficient: float, num_draws: int, num_series: int, num_chains: int) -> Tensor:
    """Return stationary chains, ``(draws, series, chains)``."""
    noise = torch.randn(num_draws, num_series, num_chains, dtype=F64)
    series = torch.empty_like(noise)
    series[0] = noise[0] / (1 - coefficient**2) ** 0.5
    for i in range(1, num_draws):
        series[i] = coefficient * series[i - 1] + noise[i]
    return series


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    """Return what a function returns, and the processor milliseconds it took."""
    begin = time.process_time()
    value = function()
    return value, (time.process_time() - begin) * 1e3


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether everything runs")
    parser.add_argument("--save", action="store_true", help="write the results into benchmarks/results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
