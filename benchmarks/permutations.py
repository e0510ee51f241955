"""Relaxed permutations: milliseconds per batch for stick-breaking, its inverse, rounding and Sinkhorn scaling.

They are compared with the paper's own code (github.com/slinderman/birkhoff; its forward pass is compiled). It needs an
old NumPy, so it was measured separately, on two cores: forward, and forward with gradient, of 64 matrices. At N = 50
and 100 its gradient was timed on four matrices and on one, and the time was multiplied.

References:
    | Reparameterizing the Birkhoff polytope for variational permutation inference (Linderman et al., 2018)
    | https://arxiv.org/abs/1710.09508
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from support.gradients import Step
from support.report import Report
from support.timing import interleaved_times
from torch import Tensor

from pyro_ext.distributions import (
    PermutationMatching,
    RelaxedRoundingPermutation,
    RelaxedStickBreakingPermutation,
    StickBreakingPermutation,
)
from pyro_ext.distributions.permutations import PermutationDistribution
from pyro_ext.distributions.transforms import BirkhoffStickBreaking
from pyro_ext.ops.sinkhorn import sinkhorn

# N -> milliseconds for 64 matrices: forward, forward with gradient.
BIRKHOFF = {10: (1.2, 146.0), 50: (4.5, 107_000.0), 100: (33.0, 2_168_000.0)}
SIZES = ((10, 64), (50, 64), (100, 64), (278, 5))

Times = dict[str, float]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = Report("permutations", "Relaxed permutations: milliseconds per batch")
    results = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        times = {size: time_all(*size, dtype, options.rounds) for size in SIZES}
        results[name] = times
        header = ["N", "batch", *next(iter(times.values()))]
        rows = [[str(n), str(batch), *(f"{t:.1f}" for t in row.values())] for (n, batch), row in times.items()]
        report.table(f"Continuous distributions, {name}", header, rows)
    compare(report, results["float32"])
    time_exact(report, options.rounds)
    check(report, results["float32"])
    if options.save:
        print(f"\nwritten to {report.save()}")


def time_all(n: int, batch: int, dtype: torch.dtype, rounds: int) -> Times:
    """Return the milliseconds of every step for ``batch`` matrices of ``n`` rows."""
    torch.manual_seed(0)
    loc = torch.randn(batch, n - 1, n - 1, dtype=dtype, requires_grad=True)
    potentials = torch.randn(batch, n, n, dtype=dtype, requires_grad=True)
    x = BirkhoffStickBreaking()(loc.detach())
    steps: dict[str, Step] = {
        "stick forward": lambda: forward(loc),
        "and backward": lambda: both(forward, loc),
        "inverse": lambda: inverse(x),
        "distribution: sample, density, backward": lambda: both(sample_and_density, loc),
        "rounding forward": lambda: rounding(potentials),
        "and backward ": lambda: both(rounding, potentials),
        "Sinkhorn, tau 1": lambda: both(lambda l: sinkhorn(l).square().sum(), potentials),
        "Sinkhorn, tau .1": lambda: both(lambda l: sinkhorn(l / 0.1).square().sum(), potentials),
    }
    return {name: time.wall for name, time in interleaved_times(steps, rounds, inner=1).items()}


def forward(loc: Tensor) -> Tensor:
    """Return a number that depends on the transform and its determinant."""
    transform = BirkhoffStickBreaking(cache_size=1)
    x = transform(loc)
    return x.square().sum() + transform.log_abs_det_jacobian(loc, x).sum()


def inverse(x: Tensor) -> None:
    """Compute the inverse transform and its determinant."""
    transform = BirkhoffStickBreaking()
    transform.log_abs_det_jacobian(transform.inv(x), x)


def sample_and_density(loc: Tensor) -> Tensor:
    d = RelaxedStickBreakingPermutation(loc, 1.0, 1.0, validate_args=False)
    x = d.rsample()
    return x.square().sum() + d.log_prob(x).sum()


def rounding(potentials: Tensor) -> Tensor:
    """Return a number that depends on a rounded sample and its density; ten Sinkhorn iterations as in the paper."""
    d = RelaxedRoundingPermutation(potentials, 0.1, 0.5, num_iterations=10, validate_args=False)
    x = d.rsample()
    return x.square().sum() + d.log_prob(x).sum()


def both(function: Callable[[Tensor], Tensor], argument: Tensor) -> None:
    """Evaluate and differentiate."""
    torch.autograd.grad(function(argument), argument)


def compare(report: Report, times: dict[tuple[int, int], Times]) -> None:
    """Report our times in float32 and those of the paper's code."""
    rows = []
    for n, (theirs_forward, theirs_gradient) in BIRKHOFF.items():
        ours = times[n, 64]
        rows.append(
            [
                str(n),
                *(f"{ours[name]:.1f}" for name in ("stick forward", "and backward")),
                f"{theirs_forward:.1f}",
                f"{theirs_gradient:,.0f}",
                f"{theirs_forward / ours['stick forward']:.2f}",
                f"{theirs_gradient / ours['and backward']:,.0f}",
            ]
        )
    header = ["N", "ours forward", "with gradient", "birkhoff forward", "with gradient", "speed-up", "with gradient"]
    report.table("Stick-breaking, batch 64, compared with the paper's code", header, rows)


def time_exact(report: Report, rounds: int) -> None:
    """Report the times of the exact distributions: densities with gradient, and samples."""
    rows = []
    for n in (6, 10, 14, 18):
        torch.manual_seed(0)
        logits = torch.randn(8, n - 1, n - 1, requires_grad=True)
        potentials = torch.randn(8, n, n, requires_grad=True)
        value = StickBreakingPermutation(logits).sample()
        steps: dict[str, Step] = {}
        for kind, parameter in ((StickBreakingPermutation, logits), (PermutationMatching, potentials)):
            steps[f"{kind.__name__} density"] = partial(both, _density(kind, value), parameter)
            steps[f"{kind.__name__} 100 samples"] = partial(kind(parameter).sample, (100,))
        times = interleaved_times(steps, min(rounds, 3), inner=1)
        rows.append([str(n), *(f"{time.wall:.1f}" for time in times.values())])
    report.table("Exact distributions, batch 8, float32, density with gradient", ["N", *times], rows)


def _density(kind: type[PermutationDistribution], value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda parameter: kind(parameter, validate_args=False).log_prob(value).sum()


def check(report: Report, times: dict[tuple[int, int], Times]) -> None:
    stick = times[100, 64]["and backward"]
    report.check(stick < 1000, f"stick-breaking with gradient, N = 100, batch 64, under 1 s: {stick:.0f} ms")
    ratio = BIRKHOFF[100][1] / stick
    report.check(ratio >= 1000, f"at least 1000 x the paper's code: {ratio:,.0f} x")
    forward = times[278, 5]["stick forward"]
    report.check(forward < 1000, f"stick-breaking forward, N = 278, batch 5, under 1 s: {forward:.0f} ms")
    rounded = times[278, 5]["and backward "]
    report.check(rounded < 1000, f"rounding with gradient, N = 278, batch 5, under 1 s: {rounded:.0f} ms")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="the number of timed rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="the number of threads of PyTorch (default: 2)")
    parser.add_argument("--quick", action="store_true", help="one round of everything, to see whether it runs")
    parser.add_argument("--save", action="store_true", help="write the results into benchmarks/results/")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


if __name__ == "__main__":
    main()
