"""Graph convolution on citation graphs: accuracy, propagation, calibration, time per step and memory.

Cora is trained from 20 seeds by the published recipe, then with each way of propagating features of table 3 of the
publication. Calibration of the most probable weights is compared with that of posteriors of the weights, Monte Carlo
dropout, and a Laplace approximation of the last layer; weight decay, likelihood power and prior precision, which govern
it, are also chosen by the likelihood of validation nodes, for every method alike. Steps are timed in turns with
those of PyTorch Geometric, if it is installed, with dense and with sparse features. A random graph with a million edges
shows how much memory a step takes. The graphs are read from PYRO_EXT_DATA; those that are not there are left out. A
finished run is a row of ``runs/gcn/runs.csv`` and is not carried out again.

References:
    | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017)
    | https://arxiv.org/abs/1609.02907
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyro
import torch
from support.gcn_runs import adam, laplace_probabilities, parameters_of, plain_step, random_graph, trained
from support.report import Report
from support.rows import FinishedRuns
from support.timing import interleaved_times
from torch import Tensor
from torch.nn import functional as F

from pyro_ext.datasets import LabelledGraph, MissingDataError, load
from pyro_ext.inference import local_params
from pyro_ext.models.gcn import GCN, PROPAGATIONS, class_probabilities
from pyro_ext.ops.calibration import expected_calibration_error

WORK = Path(__file__).resolve().parents[1] / "runs" / "gcn"
PUBLISHED = {
    "cora": {
        "chebyshev_3": 79.5,
        "chebyshev_2": 81.2,
        "first_order": 80.0,
        "single_parameter": 79.2,
        "renormalised": 81.5,
        "first_order_term": 80.5,
        "mlp": 55.1,
    },
    "citeseer": {"renormalised": 70.3, "chebyshev_3": 69.8, "mlp": 46.5},
    "pubmed": {"renormalised": 79.0, "chebyshev_3": 74.4, "mlp": 71.4},
}
"""Accuracies in per cent, means over 100 seeds."""

STEPS = 200
WEIGHT_DECAYS = (5e-4, 1e-4, 2e-5, 5e-6)
POWERS = (1.0, 10.0, 30.0, 100.0)
PRECISIONS = (1.0, 10.0, 100.0)
SHOWN = ("accuracy", "nll", "ece", "confidence")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)
    finished = FinishedRuns(options.work / "runs.csv", ("part", "graph", "setting", "seed"))
    report = Report("gcn", "Graph convolution: accuracy, calibration, time and memory")
    for name in ("cora", "citeseer", "pubmed"):
        try:
            data = load("planetoid", graph=name)
        except MissingDataError:
            report.text(f"{name} is left out: PYRO_EXT_DATA does not name a folder that holds it.", "")
            continue
        accuracy(report, finished, data, options.seeds)
        times(report, data, options.rounds)
        propagation(report, finished, data, options.table_seeds)
        if name == "cora":
            calibration(report, finished, data, options.table_seeds)
    large(report, options.work, options.edges)
    if options.save:
        path = report.save(finished.path)
        print(f"\nwritten to {path}")


# Accuracy


def accuracy(report: Report, finished: FinishedRuns, data: LabelledGraph, seeds: int) -> None:
    """Train from many seeds by the published recipe; with Pyro and without."""
    rows, means = [], {}
    for setting in ("Pyro, MAP", "plain PyTorch"):
        runs = [
            finished.get(("accuracy", data.name, setting, seed), partial(train_once, data, setting, seed))
            for seed in range(seeds)
        ]
        values = [100 * run["accuracy"] for run in runs]
        means[setting] = mean(values)
        rows.append([setting, *_spread(values), f"{PUBLISHED[data.name]['renormalised']}"])
    report.table(
        f"{data.name}: test accuracy in %, {seeds} seeds, {STEPS} steps",
        ["", "mean", "standard deviation", "standard error", "least", "most", "published"],
        rows,
    )
    if data.name == "cora":
        own = means["Pyro, MAP"]
        report.check(abs(own - 81.5) <= 0.5, f"Cora: 81.5 +- 0.5 as the mean of all seeds: {own:.2f}")


def train_once(data: LabelledGraph, setting: str, seed: int, **options: object) -> Mapping[str, float]:
    """Train and evaluate once."""
    if setting == "plain PyTorch":
        gcn, step = plain_step(data, seed)
        for _ in range(STEPS):
            step()
        probs, _ = class_probabilities(gcn, lambda: {})
        return scores(probs, data)
    gcn, guide = trained(data, seed, STEPS, **options)
    with local_params():
        probs, _ = class_probabilities(gcn, guide)
    return scores(probs, data)


def scores(probs: Tensor, data: LabelledGraph) -> dict[str, float]:
    """Return accuracy, likelihood and calibration at test nodes, and the likelihood of validation nodes."""
    labels, nodes = data.test[0]
    own, (valid_labels, valid_nodes) = probs[nodes], data.valid[0]
    confidence, predicted = own.max(-1)
    return {
        "accuracy": float((predicted == labels).double().mean()),
        "nll": float(F.nll_loss(own.clamp(min=1e-30).log(), labels)),
        "ece": float(expected_calibration_error(own, labels)),
        "confidence": float(confidence.mean()),
        "valid_nll": float(F.nll_loss(probs[valid_nodes].clamp(min=1e-30).log(), valid_labels)),
    }


def propagation(report: Report, finished: FinishedRuns, data: LabelledGraph, seeds: int) -> None:
    """Train with each way of propagating features."""
    rows = []
    for setting, formula in PROPAGATIONS.items():
        run = partial(train_once, data, "Pyro, MAP", propagation=setting)
        runs = [finished.get(("propagation", data.name, setting, seed), partial(run, seed)) for seed in range(seeds)]
        published = PUBLISHED[data.name].get(setting)
        spread = _spread([100 * own["accuracy"] for own in runs])
        rows.append([setting, f"${formula}$", *spread, "" if published is None else f"{published}"])
    header = ["propagation", "of a layer", "mean", "standard deviation", "standard error", "least", "most", "published"]
    report.table(f"{data.name}: test accuracy in % by propagation, {seeds} seeds", header, rows, labels=2)


# Calibration


def calibration(report: Report, finished: FinishedRuns, data: LabelledGraph, seeds: int) -> None:
    """Tabulate the calibration of several posteriors, at the default setting and at the one of best validation."""
    rows = []
    for method, (argument, values, default) in METHODS.items():
        runs = {
            value: [
                finished.get(
                    ("calibration", data.name, f"{method}, {argument} {value:g}", seed),
                    partial(calibrate, data, method, value, seed),
                )
                for seed in range(seeds)
            ]
            for value in values
        }
        best = min(values, key=lambda value: mean(run["valid_nll"] for run in runs[value]))
        for value, which in ((default, "default"), (best, "by validation")):
            if value is not None:
                own = runs[value]
                cells = [_with_error([run[name] for run in own]) for name in SHOWN]
                rows.append([method, f"{argument} {value:g} ({which})", *cells])
    header = ["weights", "setting", "accuracy", "-log-likelihood", "calibration error", "confidence"]
    report.table(f"{data.name}: calibration at test nodes, mean of {seeds} seeds and its error", header, rows, labels=2)


METHODS: dict[str, tuple[str, Sequence[float], float | None]] = {
    "MAP": ("weight decay", WEIGHT_DECAYS, 5e-4),
    "Monte Carlo dropout": ("weight decay", WEIGHT_DECAYS, 5e-4),
    "last-layer Laplace": ("prior precision", PRECISIONS, None),
    "last-layer Laplace of the best MAP": ("prior precision", PRECISIONS, None),
    "last layer normal": ("likelihood power", POWERS, 1.0),
    "all layers normal": ("likelihood power", POWERS, 1.0),
}
"""Method -> the setting that is varied, its values, and the one without regard to validation nodes if there is one."""

_BEST_DECAY = 2e-5


def calibrate(data: LabelledGraph, method: str, value: float, seed: int, draws: int = 100) -> Mapping[str, float]:
    """Train with one posterior and setting; return scores of the averaged probabilities."""
    if method in ("MAP", "Monte Carlo dropout"):
        gcn, guide = most_probable(data.name, seed, value)
        dropout = method != "MAP"
        with local_params():
            return scores(class_probabilities(gcn, guide, draws if dropout else 1, dropout)[0], data)
    if method.startswith("last-layer Laplace"):
        gcn, guide = most_probable(data.name, seed, _BEST_DECAY if "best" in method else WEIGHT_DECAYS[0])
        return scores(laplace_probabilities(gcn, guide, data, value, draws), data)
    posterior = "last_layer" if method == "last layer normal" else "normal"
    dropout = 0.5 if posterior == "last_layer" else 0.0
    gcn, guide = trained(data, seed, 300, posterior=posterior, likelihood_power=value, dropout=dropout)
    with local_params():
        return scores(class_probabilities(gcn, guide, draws)[0], data)


@lru_cache(maxsize=32)
def most_probable(name: str, seed: int, weight_decay: float) -> tuple[GCN, Callable[..., Any]]:
    """Return the network and the guide of the most probable weights, which several methods start from."""
    return trained(load("planetoid", graph=name), seed, STEPS, weight_decay=weight_decay)


# Time and memory


def times(report: Report, data: LabelledGraph, rounds: int) -> None:
    """Time a training step of each program, in turns."""
    steps = {"plain PyTorch, our layers": plain_step(data, 0)[1], "Pyro, MAP": pyro_step(data)}
    if importlib.util.find_spec("torch_geometric") is not None:
        from support.gcn_peer import VERSION, geometric_step

        steps |= {
            f"PyTorch Geometric {VERSION}, dense features": geometric_step(data, sparse=False),
            f"PyTorch Geometric {VERSION}, sparse features": geometric_step(data, sparse=True),
        }
    else:
        report.text("PyTorch Geometric is not installed; its steps are left out.", "")
    taken = interleaved_times(steps, rounds=rounds, inner=3)
    peers = [own.cpu for name, own in taken.items() if name.startswith("PyTorch Geometric")]
    rows = [
        [name, f"{own.cpu:.2f}", f"{own.wall:.2f}", f"{own.least:.2f}", f"{own.cpu / min(peers):.2f}" if peers else ""]
        for name, own in taken.items()
    ]
    header = ["a training step of", "CPU ms", "elapsed ms", "least elapsed ms", "times the peer's best"]
    report.table(f"{data.name}: time of a step, median of {rounds} rounds in turns", header, rows)
    if peers:
        plain, own = (taken[name].cpu / min(peers) for name in ("plain PyTorch, our layers", "Pyro, MAP"))
        report.check(plain <= 0.5, f"{data.name}: the plain step takes at most half of the peer's best: {plain:.2f}")
        report.check(own <= 1, f"{data.name}: the Pyro MAP step is no slower than the peer's best: {own:.2f}")


def pyro_step(data: LabelledGraph) -> object:
    """Return one step of the Pyro program with the MAP guide."""
    from pyro_ext.models.gcn import build

    pyro.set_rng_seed(0)
    objective = build(data).players[0].objective
    batch = data.train[0]
    objective(*batch)
    optimizer = adam(parameters_of(objective))

    def step() -> None:
        optimizer.zero_grad()
        objective(*batch).total.backward()
        optimizer.step()

    return step


def large(report: Report, work: Path, edges: int) -> None:
    """Train on a random graph with very many edges and note the memory."""
    columns = {"steps": 0, "cpu_ms": 0, "before": 0, "after": 0, "first": 3, "last": 3}
    own = FinishedRuns(work / "large.csv", ("edges",)).get((edges,), partial(apart, train_large, edges))
    report.table(
        f"A random graph with {edges:,} edges, 200,000 nodes and 2,000,000 words of 5,000",
        [
            "steps",
            "CPU ms per step",
            "peak MiB with the graph made",
            "peak MiB after training",
            "first loss",
            "last loss",
        ],
        [[f"{own[key]:.{digits}f}" for key, digits in columns.items()]],
    )
    report.check(own["last"] < own["first"], f"{edges:,} edges: the loss falls")


def apart(function: Callable[[int], Mapping[str, float]], argument: int) -> Mapping[str, float]:
    """Call a function in a process of its own, whose peak memory is that of the function alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, argument).result()


def train_large(edges: int) -> Mapping[str, float]:
    """Take a few steps; return their time, the memory of the process before and after, and the first and last loss."""
    torch.set_num_threads(1)
    data = random_graph(edges)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    _, step = plain_step(data, 0)
    number, start = 20, time.process_time()
    losses = [step() for _ in range(number)]
    taken = 1000 * (time.process_time() - start) / number
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"steps": number, "cpu_ms": taken, "before": before, "after": after, "first": losses[0], "last": losses[-1]}


def _spread(values: Sequence[float]) -> list[str]:
    deviation = stdev(values) if len(values) > 1 else math.nan
    numbers = (mean(values), deviation, deviation / math.sqrt(len(values)))
    return [*(f"{number:.2f}" for number in numbers), f"{min(values):.1f}", f"{max(values):.1f}"]


def _with_error(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{mean(values):.3f} +- {stdev(values) / math.sqrt(len(values)):.3f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="the number of seeds of the first table (default: 20)")
    parser.add_argument("--table_seeds", type=int, default=5, help="the number of seeds of other tables (default: 5)")
    parser.add_argument("--rounds", type=int, default=20, help="the number of rounds of timing (default: 20)")
    parser.add_argument("--edges", type=int, default=1_000_000, help="the number of edges of the large graph")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which finished runs are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
