"""Hard attention: estimators of one categorical variable with 4,624 categories, trained for equal time.

A digit lies somewhere on a canvas of 68 x 68 pixels. Of its positions the five most probable ones are summed and one
more is drawn (top-5 sum-and-sample), or as many are summed as the variance asks for and the rest of six is drawn; or
six distinct ones are evaluated (unordered set), or six independent ones (leave-one-out), or one with a baseline that
a network predicts from the canvas (REINFORCE), or a straight-through Gumbel-softmax sample. All train the same nets on
the same canvases from the same initial weights, for the same CPU time; evaluation does not count. Positions are judged
after undoing the best common shift, since the model is free to draw all digits off the centre of their window.

A second table varies what scores positions: the convolutional network, or a dense layer from every pixel to every
position as published, on canvases of 40 x 40 pixels and for equally many steps instead of equal time. Finished runs are
rows of ``runs/hard_attention/runs.csv`` and ``networks.csv`` and are not carried out again.

References:
    | Rao-Blackwellized stochastic gradients for discrete distributions (Liu et al., 2019), on moving MNIST
    | https://arxiv.org/abs/1810.04777
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import pyro
import torch
from pyro.infer import ELBO
from support.report import Report
from support.rows import FinishedRuns

from pyro_ext.datasets import Splits, collate, load
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceSumAndSample_ELBO, TraceUnorderedSet_ELBO, TrainingPlan
from pyro_ext.models.hard_attention import build
from pyro_ext.models.hard_attention.model import Scores
from pyro_ext.models.toolkit import Relaxation
from pyro_ext.plotting import save

WORK = Path(__file__).resolve().parents[1] / "runs" / "hard_attention"
BATCH = 64
LEARNING_RATE = 2e-3
_COMMON = {"max_plate_nesting": 1, "analytic_kl": True}
ESTIMATORS: dict[str, Callable[[], ELBO] | None] = {
    "sum-and-sample, top 5": partial(TraceSumAndSample_ELBO, 6, 5, **_COMMON),
    "sum-and-sample, optimal": partial(TraceSumAndSample_ELBO, 6, "optimal", **_COMMON),
    "unordered set of 6": partial(TraceUnorderedSet_ELBO, 6, **_COMMON),
    "leave-one-out of 6": partial(TraceLeaveOneOut_ELBO, 6, **_COMMON),
    "REINFORCE, learned baseline": None,
    "straight-through Gumbel": None,
}
NETWORKS: tuple[Scores, ...] = ("convolutional", "dense")
BY_NETWORK = ("sum-and-sample, top 5", "leave-one-out of 6")
REFERENCE = BY_NETWORK[0]
STEPS = 150
METRICS = ("neg_elbo", "exact_aligned", "near_aligned", "near")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)
    data = load("moving_digits", source=options.source)
    finished = FinishedRuns(options.work / "runs.csv", ("data", "seconds", "estimator", "seed"))
    report = Report("hard_attention", "Hard attention: the position of a digit among 4,624")
    runs = {
        (name, seed): finished.get(
            (data.name, options.seconds, name, seed), partial(train, data, name, seed, options.seconds, options.work)
        )
        for seed in range(options.seeds)
        for name in ESTIMATORS
    }
    tabulate(report, runs, options)
    small = load("moving_digits", source=options.source, canvas=40, digit_size=16)
    of_networks = FinishedRuns(options.work / "networks.csv", ("data", "network", "estimator", "seed"))
    by_network = {
        (network, name, seed): of_networks.get(
            (small.name, network, name, seed), partial(train_steps, small, name, seed, network)
        )
        for seed in range(options.seeds)
        for network in NETWORKS
        for name in BY_NETWORK
    }
    tabulate_networks(report, by_network, options.seeds)
    if options.save:
        plots = {plot.name: plot for plot in sorted(options.work.glob("*.png"))}
        path = report.save(finished.path, {"networks.csv": of_networks.path, **plots})
        print(f"\nwritten to {path}")


def tabulate(report: Report, runs: Mapping[tuple[str, int], Mapping[str, float]], options: argparse.Namespace) -> None:
    """Add tables of the results after half of the time and after all of it."""
    for part, when in (("half_", options.seconds / 2), ("", options.seconds)):
        rows = []
        for name in ESTIMATORS:
            own = [runs[name, seed] for seed in range(options.seeds)]
            bounds = ", ".join(f"{run[f'{part}neg_elbo']:.1f}" for run in own)
            means = {metric: mean(run[part + metric] for run in own) for metric in METRICS}
            shares = [f"{means[metric]:.3f}" for metric in METRICS[1:]]
            steps, per_step = mean(run[f"{part}steps"] for run in own), mean(run["cpu_ms_per_step"] for run in own)
            reference = [runs[REFERENCE, seed] for seed in range(options.seeds)]
            pairs = paired([run[f"{part}neg_elbo"] for run in own], [run[f"{part}neg_elbo"] for run in reference])
            rows.append([name, f"{means['neg_elbo']:.1f}", bounds, pairs, *shares, f"{steps:.0f}", f"{per_step:.0f}"])
        header = [
            "estimator",
            "-ELBO, nats",
            "each seed",
            "difference from top 5",
            "exact",
            "within a pixel",
            "without undoing the shift",
        ]
        title = f"{options.source}, after {when:g} CPU seconds of training"
        report.table(title, [*header, "steps", "CPU ms per step"], rows)


def tabulate_networks(report: Report, runs: Mapping[tuple[str, str, int], Mapping[str, float]], seeds: int) -> None:
    """Add the table of two networks that score positions."""
    rows = []
    for network in NETWORKS:
        for name in BY_NETWORK:
            own = [runs[network, name, seed] for seed in range(seeds)]
            reference = [runs[network, REFERENCE, seed] for seed in range(seeds)]
            row = [network, name]
            for part in ("half_", ""):
                bounds = [run[f"{part}neg_elbo"] for run in own]
                pairs = paired(bounds, [run[f"{part}neg_elbo"] for run in reference])
                row += [f"{mean(bounds):.1f}", pairs, f"{mean(run[f'{part}near_aligned'] for run in own):.3f}"]
            rows.append(row)
    header = ["scores", "estimator"]
    for steps in (STEPS // 2, STEPS):
        header += [f"-ELBO after {steps} steps", "difference from top 5", "within a pixel"]
    report.table(f"canvases of 40 x 40 pixels, {STEPS} steps each", header, rows)


def paired(own: list[float], reference: list[float]) -> str:
    """Return the mean of differences at the same seed, with its standard error."""
    differences = [one - other for one, other in zip(own, reference, strict=True)]
    error = f" +- {stdev(differences) / math.sqrt(len(differences)):.1f}" if len(differences) > 1 else ""
    return f"{mean(differences):+.1f}{error}"


def train_steps(data: Splits, name: str, seed: int, network: Scores) -> Mapping[str, float]:
    """Train for a number of steps with one of the networks; return the metrics after half of them and at the end."""
    pyro.set_rng_seed(seed)
    plan = plan_of(data, name, window=16, scores=network)
    objective = plan.players[0].objective
    optimizer = torch.optim.Adam(objective.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    results: dict[str, float] = {}
    rows = torch.randperm(len(data.train), generator=generator)
    for step in range(STEPS):
        if len(rows) < BATCH:
            rows = torch.randperm(len(data.train), generator=generator)
        batch, rows = rows[:BATCH].tolist(), rows[BATCH:]
        optimizer.zero_grad()
        objective(*data.train.__getitems__(batch)).total.backward()
        optimizer.step()
        objective.after_step()
        if step + 1 == STEPS // 2:
            results = {f"half_{metric}": value for metric, value in _metrics(plan, data).items()}
    return results | _metrics(plan, data)


def train(data: Splits, name: str, seed: int, seconds: float, work: Path) -> Mapping[str, float]:
    """Train for some CPU time; return the metrics after half of it and at the end."""
    pyro.set_rng_seed(seed)
    plan = plan_of(data, name)
    objective = plan.players[0].objective
    optimizer = torch.optim.Adam(objective.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    results: dict[str, float] = {}
    spent, steps = 0.0, 0
    while spent < seconds:
        for rows in torch.randperm(len(data.train), generator=generator).split(BATCH):
            start = time.process_time()
            optimizer.zero_grad()
            objective(*data.train.__getitems__(rows.tolist())).total.backward()
            optimizer.step()
            objective.after_step()
            spent, steps = spent + time.process_time() - start, steps + 1
            if not results and spent >= seconds / 2:
                results = {f"half_{metric}": value for metric, value in _metrics(plan, data).items()}
                results["half_steps"] = steps
            if spent >= seconds:
                break
    if seed == 0:
        work.mkdir(parents=True, exist_ok=True)
        for plot in ("attention", "reconstruction"):
            save(plan.plots[plot](), work / f"{name.replace(',', '').replace(' ', '-').lower()}-{plot}.png")
    return results | _metrics(plan, data) | {"steps": steps, "cpu_ms_per_step": 1000 * spent / steps}


def plan_of(data: Splits, name: str, window: int = 28, scores: Scores = "convolutional") -> TrainingPlan:
    """Return the model with one of the estimators."""
    make = ESTIMATORS[name]
    if make is not None:
        return build(data, window, scores=scores).with_elbo(make())
    gumbel = name == "straight-through Gumbel"
    relaxation = Relaxation() if gumbel else None
    return build(data, window, scores=scores, learned_baseline=not gumbel, relaxation=relaxation)


def _metrics(plan: TrainingPlan, data: Splits) -> dict[str, float]:
    assert plan.evaluate is not None
    loader = torch.utils.data.DataLoader(data.valid, batch_size=100, collate_fn=collate)
    return {name: value for name, value in plan.evaluate(loader).items() if name in METRICS}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=["digits", "mnist"], default="digits", help="the digits on the canvases")
    parser.add_argument("--seconds", type=float, default=30.0, help="the CPU time of each run (default: 30)")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds (default: 3)")
    parser.add_argument("--work", type=Path, default=WORK, help="the folder in which finished runs are kept")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report and plots into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
