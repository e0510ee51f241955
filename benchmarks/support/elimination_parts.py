"""The parts of ``benchmarks/tumour.py`` on noise elimination: costs, likelihoods and variances as tables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_ext.datasets import IndexedDataset, Splits, tumour
from pyro_ext.models.tumour.elimination import FlipPolicy, denoise, greedy_search
from pyro_ext.ops.mutations import count_conflicts, fill_missing, observation_nll
from pyro_ext.phylo import MutationMatrix, maximum_likelihood_phylogeny
from support.elimination_runs import (
    ESTIMATORS,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    GAMMA,
    NETWORKS,
    Setting,
    gradient_variance,
    oracle_costs,
    policy_costs,
    policy_of,
    random_matrices,
    simulated,
    train,
)
from support.report import Report
from support.rows import FinishedRuns
from support.tumour_peers import has_scistree, scistree

__all__ = ["elimination_10x10", "elimination_real", "oracle_4x4", "variance"]

LEAVE_ONE_OUT, CRITIC = "leave-one-out of 4", "critic"
SEES, PUBLISHED = tuple(NETWORKS)
COLD = {"temperature": 0.02}
SMALL_SETTINGS = (
    Setting(SEES, LEAVE_ONE_OUT, 6, steps=200, batch=64, lr=3e-3, options=COLD),
    Setting(SEES, "unordered beam of 4", 6, steps=200, batch=64, lr=3e-3, options=COLD),
    Setting(SEES, CRITIC, 6, steps=800, batch=64, lr=3e-3, options=COLD),
    Setting(PUBLISHED, LEAVE_ONE_OUT, 6, steps=200, batch=64, lr=1e-3, options=COLD),
)
LARGE = Setting(SEES, LEAVE_ONE_OUT, 6, steps=150, batch=16, lr=3e-3, options=COLD)
REAL: Mapping[str, tuple[float, float]] = {
    "tnbc": (1.24e-6, 0.0973),
    "acute_lymphocytic_leukemia6": (1e-6, 0.17857),
    "renal_cell_carcinoma": (2.67e-5, 0.1643),
    "myeloproliferative_neoplasms18": (6.04e-6, 0.4309),
}
"""Published rates of errors of the real matrices."""


def oracle_4x4(report: Report, work: Path, number: int = 1000) -> None:
    """Costs on random 4 x 4 matrices beside the least cost over all 65,536 matrices."""
    finished = FinishedRuns(work / "oracle_4x4.csv", ("network", "estimator", "steps"))
    x = random_matrices(number, 4, seed=2)
    oracle = oracle_costs(x)

    def run(setting: Setting) -> dict[str, Any]:
        own = random_matrices(setting.steps * setting.batch // 2, 4, seed=1)
        policy, seconds = train(setting, own, work / f"4x4-{_slug(setting)}.pt")
        costs = policy_costs(policy, x, setting.num_flips)
        least = min(float((cost - oracle).min()) for cost in costs.values())
        return {**{name: float(cost.mean()) for name, cost in costs.items()}, "least": least, "seconds": seconds}

    rows, below = [], 0.0
    greedy = 0.0
    for setting in SMALL_SETTINGS:
        key = (setting.network, setting.estimator, setting.steps)
        result = finished.get(key, partial(run, setting))
        greedy, below = result.pop("greedy search"), min(below, result["least"])
        costs = [cost for name, cost in result.items() if name not in ("least", "seconds")]
        shown = [f"{cost:.4f} ({100 * (cost / float(oracle.mean()) - 1):+.1f} %)" for cost in costs]
        rows.append([setting.network, setting.estimator, *shown, f"{setting.steps}", f"{result['seconds']:.0f}"])
    header = ["network", "estimator", "one sequence", "most probable", "best of 128, T = 3"]
    report.table(
        f"Mean cost on {number:,} random 4 x 4 matrices", [*header, "steps", "CPU seconds of training"], rows, 2
    )
    excess = 100 * (greedy / float(oracle.mean()) - 1)
    report.text(
        f"The oracle, the least cost over all 65,536 matrices, is {float(oracle.mean()):.4f} on average; greedy search "
        f"{greedy:.4f} ({excess:+.1f} %). Matrices to train on are others, drawn in the same way, seen twice.",
        "",
    )
    best = float(rows[0][3].split()[0])
    report.check(best <= 1.05 * float(oracle.mean()), "the most probable flips cost at most 5 % more than the oracle")
    report.check(below >= -1e-4, f"no cost is below the oracle's (least difference {below:.1e}, float32)")
    report.text("")


def elimination_10x10(report: Report, work: Path, number: int = 1000) -> None:
    """Conflicts removed and likelihoods on simulated 10 x 10 matrices, beside other methods and the exact optimum."""
    finished = FinishedRuns(work / "elimination_10x10.csv", ("method",))
    data = simulated(number, 10, seed=2).train

    def score(matrices: Tensor, seconds: float) -> dict[str, Any]:
        nll = observation_nll(data.x, matrices.double(), FALSE_POSITIVE, FALSE_NEGATIVE)
        return {
            "clean": float((count_conflicts(matrices) == 0).double().mean()),
            "nll": float(nll.mean()),
            "nll_error": float(nll.std()) / math.sqrt(number),
            "wrong": float((matrices != data.y.bool()).double().mean()),
            "cpu_ms": 1000 * seconds / number,
        }

    methods: dict[str, Any] = {
        "observed": lambda: score(data.x.bool(), 0.0),
        "truth": lambda: score(data.y.bool(), 0.0),
        "exact optimum (MaxSAT)": lambda: score(*_timed(_optima, data.x)),
        "greedy search": lambda: score(*_timed(_greedy, data.x)),
    }
    if has_scistree():
        methods["ScisTree2 0.5.1"] = lambda: score(*_timed(_scistree, data.x))
    for temperature, samples in ((1.0, 1), (1.0, 16), (3.0, 128)):
        name = f"network, {samples} sequence{'s' if samples > 1 else ''}, T = {temperature:g}"
        methods[name] = lambda t=temperature, s=samples: score(*_timed(_network, data.x, large(work), t, s))
    results = {name: finished.get(name, method) for name, method in methods.items()}
    best = results["exact optimum (MaxSAT)"]["nll"]
    rows = [
        [
            name,
            f"{100 * row['clean']:.1f}",
            f"{row['nll']:.3f} +- {row['nll_error']:.3f}",
            f"{row['nll'] - best:+.3f}",
            f"{100 * row['wrong']:.2f}",
            f"{row['cpu_ms']:.1f}" if row["cpu_ms"] else "",
        ]
        for name, row in results.items()
    ]
    header = ["method", "free of conflicts, %", "negative log-likelihood, nats", "above the optimum"]
    report.table(
        f"{number:,} conflicting 10 x 10 matrices of the coalescent, rates {FALSE_POSITIVE:g} and {FALSE_NEGATIVE:g}",
        [*header, "wrong entries, %", "CPU ms per matrix"],
        rows,
    )
    report.text(
        f"The network ({SEES}, width 16) has been trained for {LARGE.steps} steps of {LARGE.batch} others, seen twice.",
        "",
    )
    clean = results["network, 128 sequences, T = 3"]["clean"]
    report.check(clean >= 0.95, "128 sequences remove all conflicts from at least 95 % of the matrices")
    report.text("")


def elimination_real(report: Report, work: Path) -> None:
    """The real matrices, whole, by the network that was trained on simulated 10 x 10 ones."""
    finished = FinishedRuns(work / "elimination_real.csv", ("matrix", "method"))
    rows = []
    for name, rates in REAL.items():
        x = tumour(name).matrix.values
        methods: dict[str, Any] = {
            "exact optimum (MaxSAT)": partial(_optima, x[None], *rates),
            "greedy search": partial(_greedy, x[None], *rates),
            "greedy search, gamma = 100": partial(_greedy, x[None], *rates, 100.0),
            "network, 16 sequences": partial(_network, x[None], large(work), 1.0, 16, rates),
            "network, 16 sequences, gamma = 100": partial(_network, x[None], large(work), 1.0, 16, rates, 100.0),
        }
        if has_scistree():
            methods["ScisTree2 0.5.1"] = partial(_scistree, x[None], *rates)
        for method, call in methods.items():
            row = finished.get((name, method), partial(_real_row, x, rates, call))
            conflicts = int(count_conflicts(fill_missing(x)))
            size = f"{x.shape[0]} x {x.shape[1]}"
            facts = [f"{row['nll']:.2f}", f"{row['flips']}", f"{row['conflicts']}", f"{row['cpu_seconds']:.1f}"]
            rows.append([name, method, size, f"{conflicts}", *facts])
    header = ["matrix", "method", "cells x mutations", "conflicting pairs before", "negative log-likelihood, nats"]
    report.table("Real matrices", [*header, "flips", "conflicting pairs after", "CPU seconds"], rows, 2)
    report.text(
        "No matrix is padded or cut: the network takes any size. Flips of missing entries are not counted. The network "
        f"has seen rates of {FALSE_POSITIVE:g} and {FALSE_NEGATIVE:g} in training; gamma, the weight of a nat against "
        f"a conflict, is {GAMMA:g} where nothing is said.",
        "",
    )


def variance(report: Report, work: Path, repeats: int = 100, critic_steps: int = 400) -> None:
    """The variance of gradients of a network at the same weights, by several estimators."""
    finished = FinishedRuns(work / "variance.csv", ("weights", "estimator"))
    x = random_matrices(16, 4, seed=3)
    rows = []
    fresh = Setting(SEES, LEAVE_ONE_OUT, 6, 1, 1, options={**COLD, **_rates()})
    for weights in ("at the start", "trained"):
        own = random_matrices(SMALL_SETTINGS[0].steps * SMALL_SETTINGS[0].batch // 2, 4, seed=1)
        file = work / f"4x4-{_slug(SMALL_SETTINGS[0])}.pt"
        policy = train(SMALL_SETTINGS[0], own, file)[0] if weights == "trained" else _start(fresh, x)
        for estimator in ESTIMATORS:
            setting = Setting(SEES, estimator, 6, 1, 1, options=COLD)
            run = partial(gradient_variance, setting, x, policy, critic_steps=critic_steps, repeats=repeats)
            row = finished.get((weights, estimator), run)
            per_time = row["variance"] * row["cpu_ms"]
            rows.append([weights, estimator, f"{row['variance']:.4g}", f"{row['cpu_ms']:.0f}", f"{per_time:.4g}"])
    header = ["weights", "estimator", "variance of the gradient", "CPU ms per estimate", "variance x time"]
    report.table("Gradients for 16 random 4 x 4 matrices, sequences of 6 flips", header, rows, 2)
    report.text(
        f"Variances are summed over all weights, from {repeats} estimates each. The critic draws one sequence for each "
        "matrix, the others four; it has learnt the costs of these weights and matrices before, in "
        f"{critic_steps} steps.",
        "",
    )


def large(work: Path) -> FlipPolicy:
    """Return the network for 10 x 10 matrices, trained if it has not been."""
    x = simulated(LARGE.steps * LARGE.batch // 2, 10, seed=1).train.x
    return train(LARGE, x, work / f"10x10-{_slug(LARGE)}.pt")[0]


def _start(setting: Setting, x: Tensor) -> FlipPolicy:
    return policy_of(setting.plan(Splits("matrices", IndexedDataset(x))))


def _rates() -> dict[str, float]:
    return {"false_positive": FALSE_POSITIVE, "false_negative": FALSE_NEGATIVE}


def _real_row(x: Tensor, rates: tuple[float, float], call: Any) -> dict[str, Any]:
    matrices, seconds = _timed(call)
    matrix = matrices[0]
    return {
        "nll": float(observation_nll(x, matrix.double(), *rates)),
        "flips": int(((matrix != (x == 1)) & (x != 3)).sum()),
        "conflicts": int(count_conflicts(matrix)),
        "cpu_seconds": seconds,
    }


def _timed(call: Any, *arguments: Any) -> tuple[Tensor, float]:
    start = sum(os.times()[:4])  # that of a solver in a process of its own is among them
    result = call(*arguments)
    return result, sum(os.times()[:4]) - start


def _optima(x: Tensor, alpha: float = FALSE_POSITIVE, beta: float = FALSE_NEGATIVE) -> Tensor:
    found = [maximum_likelihood_phylogeny(MutationMatrix.of(row), alpha, beta).matrix.values for row in x]
    return torch.stack(found).bool()


def _greedy(x: Tensor, alpha: float = FALSE_POSITIVE, beta: float = FALSE_NEGATIVE, gamma: float = GAMMA) -> Tensor:
    return torch.cat([greedy_search(rows, alpha, beta, gamma).matrix for rows in x.split(500)])


def _scistree(x: Tensor, alpha: float = FALSE_POSITIVE, beta: float = FALSE_NEGATIVE) -> Tensor:
    return torch.stack([scistree(row, alpha, beta) for row in x])


def _network(
    x: Tensor,
    policy: FlipPolicy,
    temperature: float,
    samples: int,
    rates: tuple[float, float] | None = None,
    gamma: float | None = None,
) -> Tensor:
    torch.manual_seed(0)
    parts = x.split(max(1, 2**18 // (samples * x[0].numel())))
    return torch.cat([denoise(policy, part, rates, samples, temperature, gamma=gamma).matrix for part in parts])


def _slug(setting: Setting) -> str:
    words = f"{setting.network} {setting.estimator} {setting.steps} {setting.batch} {setting.lr:g}".split()
    return "-".join(words)
