"""Relaxed categorical distributions compared with those of PyTorch and Pyro: the share of usable draws, and the time.

All see the same logits, uniform in [-30, 30], in float32. A draw is usable if its log-probability and the gradient of
that through the draw are finite, and if the log-probability of a copy of the draw is finite too. If the gradient
through a sample is exactly zero, a guide learns nothing from it. The time is that of a draw, its log-probability and
the gradient.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as pyro_dist
import torch
from support.report import Report
from support.timing import interleaved_times
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli as TorchLogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_ext import distributions as ours

Build = Callable[..., Any]

TEMPERATURES = (1.0, 0.1, 0.05, 0.01)
NUM_CATEGORIES = 10
BOUND = 30.0
CHUNK = 50_000


class Pair(NamedTuple):
    """A distribution of ours and its counterpart, with ``num_categories`` categories (None if it is binary)."""

    ours: Build
    theirs: Build
    num_categories: int | None


PAIRS = {
    "RelaxedOneHotCategorical": Pair(
        ours.RelaxedOneHotCategorical, torch.distributions.RelaxedOneHotCategorical, NUM_CATEGORIES
    ),
    "ExpRelaxedOneHotCategorical": Pair(ours.ExpRelaxedOneHotCategorical, ExpRelaxedCategorical, NUM_CATEGORIES),
    "RelaxedOneHotCategoricalStraightThrough": Pair(
        ours.RelaxedOneHotCategoricalStraightThrough,
        pyro_dist.RelaxedOneHotCategoricalStraightThrough,
        NUM_CATEGORIES,
    ),
    "RelaxedBernoulli": Pair(ours.RelaxedBernoulli, torch.distributions.RelaxedBernoulli, None),
    "LogitRelaxedBernoulli": Pair(ours.LogitRelaxedBernoulli, TorchLogitRelaxedBernoulli, None),
    "RelaxedBernoulliStraightThrough": Pair(
        ours.RelaxedBernoulliStraightThrough, pyro_dist.RelaxedBernoulliStraightThrough, None
    ),
}


class Shares(NamedTuple):
    """Shares of the draws that are finite, or have a gradient other than zero."""

    finite: float
    finite_gradient: float
    finite_copy: float
    live_sample: float


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = Report("relaxed", "Relaxed categorical distributions, ours and those of PyTorch and Pyro")
    worst = 1.0
    rows, times = [], []
    for name, pair in PAIRS.items():
        for temperature in TEMPERATURES:
            both = [measure(build, pair, temperature, options.draws) for build in (pair.ours, pair.theirs)]
            worst = min(worst, *both[0][:3])
            pairs = zip(*both, strict=True)
            rows.append([name, f"{temperature:g}", *(f"{_percent(a)} / {_percent(b)}" for a, b in pairs)])
        times.append([name, *_times(pair, options.rounds)])
    report.text(f"Each entry: ours / theirs, of {options.draws} draws.", "")
    header = ["distribution", "T", "finite log-prob", "finite gradient", "finite, of a copy", "sample gradient not 0"]
    report.table("Usable draws, percent", header, rows)
    report.table(
        f"Draw, log-probability and gradient of {CHUNK // 10} draws at T = 0.5, ms",
        ["distribution", "ours", "theirs", "ratio"],
        times,
    )
    report.check(worst == 1, f"every draw of ours is usable: {100 * worst:g} % in the worst case")
    if options.save:
        report.save()


def measure(build: Build, pair: Pair, temperature: float, num_draws: int) -> Shares:
    """Return the shares over ``num_draws`` draws, in chunks."""
    torch.manual_seed(0)
    counts = torch.zeros(4, dtype=torch.float64)
    for start in range(0, num_draws, CHUNK):
        counts += _count(build, pair, temperature, min(CHUNK, num_draws - start))
    return Shares(*(counts / num_draws).tolist())


def _count(build: Build, pair: Pair, temperature: float, num: int) -> torch.Tensor:
    logits = _logits(pair, num)
    d = build(torch.tensor(temperature), logits=logits, validate_args=False)
    x = d.rsample()
    log_prob = d.log_prob(x)
    weights = torch.randn_like(x)
    weighted = torch.where(x.isinf(), 0, x) * weights
    gradient, of_sample = (
        torch.autograd.grad(value.sum(), logits, retain_graph=True)[0].reshape(num, -1)
        for value in (log_prob, weighted)
    )
    return torch.stack(
        [
            log_prob.isfinite().sum(),
            (log_prob.isfinite() & gradient.isfinite().all(-1)).sum(),
            d.log_prob(x.detach().clone()).isfinite().sum(),
            (of_sample != 0).any(-1).sum(),
        ]
    )


def _logits(pair: Pair, num: int) -> torch.Tensor:
    shape = (num,) if pair.num_categories is None else (num, pair.num_categories)
    return (BOUND * (2 * torch.rand(shape) - 1)).requires_grad_()


def _times(pair: Pair, rounds: int) -> list[str]:
    logits = _logits(pair, CHUNK // 10)

    def step(build: Build) -> Callable[[], None]:
        def run() -> None:
            d = build(torch.tensor(0.5), logits=logits, validate_args=False)
            d.log_prob(d.rsample()).sum().backward()

        return run

    times = interleaved_times({"ours": step(pair.ours), "theirs": step(pair.theirs)}, rounds)
    own, theirs = times["ours"].cpu, times["theirs"].cpu
    return [f"{own:.2f}", f"{theirs:.2f}", f"{own / theirs:.2f} x"]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share in (0, 1) else f"{math.floor(1e4 * share) / 100:.2f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--draws", type=int, default=200_000, help="draws for each distribution and temperature (default: 200000)"
    )
    parser.add_argument("--rounds", type=int, default=20, help="rounds of three timed steps (default: 20)")
    parser.add_argument("--threads", type=int, default=2, help="the number of threads of PyTorch (default: 2)")
    parser.add_argument("--quick", action="store_true", help="few draws and rounds")
    parser.add_argument("--save", action="store_true", help="write the results into benchmarks/results/")
    options = parser.parse_args()
    if options.quick:
        options.draws, options.rounds = 2_000, 2
    return options


if __name__ == "__main__":
    main()
