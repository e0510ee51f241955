"""Compiled pruning beside PyTorch's in one run: batches of trees, other programs, steps of variational phylogenies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_ext.datasets.alignment import alignment
from pyro_ext.distributions import TreeLikelihood
from pyro_ext.models.phylo.build import build
from pyro_ext.ops.kernels import kernels
from pyro_ext.ops.pruning import log_likelihoods, site_log_likelihoods
from pyro_ext.phylo import GTR, JC69, GammaRates
from support.beagle import Beagle, beagle_version
from support.gradients import Step
from support.limits import gemm_rate
from support.pruning_peers import torchtree_functions
from support.report import Report
from support.timing import StepTime, interleaved_times

__all__ = ["check_programs", "compare_batches", "compare_peers", "time_variational_steps"]

LEAST = {1: 6.0, 10: 3.0, 100: 3.5}
"""Number of trees -> how many times as fast as PyTorch's way compiled functions should be."""

LEAST_PEER, LEAST_PUBLIC = 3.0, 6.0
PUBLIC_STEP = (94.0, 116.0)  # milliseconds of a step of the public code of variational phylogenies, quoted

Trees = Callable[[int], Iterator[Tensor]]


def by(program: str, step: Step) -> Step:
    """Return the step as one program does it."""

    def switched() -> None:
        with kernels(program):  # type: ignore[arg-type]
            step()

    return switched


def backwards(function: Callable[[], Tensor], argument: Tensor) -> Step:
    """Return a step that computes gradients in an argument."""

    def step() -> None:
        torch.autograd.grad(function().sum(), argument)

    return step


def compare_batches(
    report: Report, patterns: Tensor, weights: Tensor, trees: Trees, rounds: int
) -> dict[tuple[str, int], float]:
    """Report steps from transition matrices and from branch lengths; return PyTorch's time over ours."""
    name, num_taxa, num_sites = str(patterns.dtype).removeprefix("torch."), len(patterns), patterns.shape[1]
    rate, rows, of_lengths, ratios = gemm_rate(patterns.dtype), [], [], {}
    # Products of a matrix with a vector for each pattern: up and its gradient for each edge, down for the inner ones.
    operations = 32 * num_sites * (2 * (2 * num_taxa - 3) + num_taxa - 2)
    for batch in (1, 10, 100):
        turns = max(rounds // max(batch // 5, 1), 5)
        times = interleaved_times(_matrix_steps(patterns, weights, trees, batch), turns, inner=max(20 // batch, 2))
        ours, torchs = times["compiled, sums"], times["PyTorch"]
        ratios[name, batch] = torchs.wall / ours.wall
        share = operations * batch / (ours.least * 1e-3) / (rate * 1e9)
        milliseconds = [f"{t.wall:.2f}" for t in times.values()]
        rows.append([name, str(batch), *milliseconds, f"{ratios[name, batch]:.2f}", f"{100 * share:.0f}"])
        lengths = interleaved_times(_length_steps(patterns, weights, trees, batch), max(turns // 4, 4))
        of_lengths.append([name, str(batch), *(f"{t.wall:.2f}" for t in lengths.values())])
    header = ["", "trees", *times, "PyTorch / sums", "% of GEMM"]
    report.table(f"Compiled and PyTorch: from transition matrices, {name}, 1 thread", header, rows)
    report.text(f"- a product of matrices runs at {rate:.1f} thousand million operations a second", "")
    title = f"Compiled and PyTorch: from branch lengths, with gradients, {name}, 1 thread"
    report.table(title, ["", "trees", *lengths], of_lengths)
    return ratios


def _matrix_steps(patterns: Tensor, weights: Tensor, trees: Trees, batch: int) -> dict[str, Step]:
    lengths = _lengths(batch, patterns)
    matrices = JC69(lengths).transition_matrices(lengths).clone().requires_grad_()
    quarter, drawn = patterns.new_full((4,), 0.25), trees(batch)

    def summed() -> Tensor:
        return log_likelihoods(next(drawn), matrices, quarter, patterns, weights)

    def by_site() -> Tensor:
        return site_log_likelihoods(next(drawn), matrices, quarter, patterns) @ weights

    def alone() -> None:
        with torch.no_grad():
            by_site()

    return {
        "compiled, sums": by("numba", backwards(summed, matrices)),
        "compiled, by site": by("numba", backwards(by_site, matrices)),
        "PyTorch": by("torch", backwards(by_site, matrices)),
        "compiled, no gradients": by("numba", alone),
        "PyTorch, no gradients": by("torch", alone),
    }


def _length_steps(patterns: Tensor, weights: Tensor, trees: Trees, batch: int) -> dict[str, Step]:
    lengths, drawn = _lengths(batch, patterns).requires_grad_(), trees(batch)
    rates, frequencies = patterns.new_tensor([1.0, 4, 1, 1, 4, 1]), patterns.new_tensor([0.3, 0.2, 0.2, 0.3])
    models: dict[str, tuple[Any, ...]] = {
        "JC69": (),
        "GTR+G4": (GTR(rates, frequencies), GammaRates(patterns.new_tensor(0.5), 4)),
    }
    steps = {}
    for name, of_sites in models.items():

        def evaluate(of_sites: tuple[Any, ...] = of_sites) -> Tensor:
            d = TreeLikelihood(next(drawn), lengths, *of_sites, weights=weights, validate_args=False)
            return d.log_prob(patterns)

        steps[f"{name}, compiled"] = by("numba", backwards(evaluate, lengths))
        steps[f"{name}, PyTorch"] = by("torch", backwards(evaluate, lengths))
    return steps


def compare_peers(
    report: Report, patterns: Tensor, weights: Tensor, tree: Tensor, rounds: int
) -> dict[tuple[str, int], float]:
    """Report steps from branch lengths on a single topology; return torchtree's best time over ours."""
    name, ratios = str(patterns.dtype).removeprefix("torch."), {}
    tips, parents = patterns.mT.contiguous(), tree.tolist()
    for number in (10, 50):
        lengths = _lengths(number, patterns).requires_grad_()

        def ours(lengths: Tensor = lengths) -> Tensor:
            return TreeLikelihood(tree, lengths, weights=weights, validate_args=False).log_prob(patterns)

        def alone(ours: Callable[[], Tensor] = ours) -> None:
            with torch.no_grad():
                ours()

        steps = {
            "compiled": by("numba", backwards(ours, lengths)),
            "PyTorch": by("torch", backwards(ours, lengths)),
            "compiled, no gradients": by("numba", alone),
        }
        for peer, function in torchtree_functions(parents, tips, weights).items():
            torch.testing.assert_close(function(lengths).reshape(number), ours(), rtol=1e-5, atol=0)
            steps[peer] = backwards(lambda function=function, lengths=lengths: function(lengths), lengths)
        if beagle_version():
            steps |= _beagle_steps(tips, weights, parents, lengths.detach(), ours())
        # a step finds the caches as the last one of its own kind left them, as it does in training
        times = interleaved_times(steps, max(rounds // (number // 5), 4), inner=3)
        rows = [
            [way, f"{t.wall:.2f}", f"{t.wall / number:.3f}", _ratio(t, times["compiled"])] for way, t in times.items()
        ]
        title = f"One topology, {number} samples of branch lengths, with gradients, {name}, 1 thread"
        report.table(title, ["", "ms", "ms a tree", "ratio"], rows)
        peers = [t.wall for way, t in times.items() if "torchtree" in way]
        if peers:
            ratios[name, number] = min(peers) / times["compiled"].wall
    return ratios


def _ratio(time: StepTime, first: StepTime) -> str:
    return f"{time.wall / first.wall:.2f}"


def _beagle_steps(
    tips: Tensor, weights: Tensor, parents: list[int], lengths: Tensor, expected: Tensor
) -> dict[str, Step]:
    instance, rows = Beagle(tips, weights), lengths.double().numpy()
    for row, value in zip(rows, expected.tolist(), strict=True):
        assert abs(instance.gradients(parents, row)[0] / value - 1) < 1e-5

    def gradients() -> None:
        for row in rows:
            instance.gradients(parents, row)

    def alone() -> None:
        for row in rows:
            instance.log_likelihood(parents, row)

    return {f"BEAGLE, {instance.name}": gradients, f"BEAGLE, {instance.name}, no gradients": alone}


def time_variational_steps(report: Report, root: Path, rounds: int) -> float:
    """Report steps of variational phylogenies of ten particles on DS1; return the public code's time over ours."""
    data = alignment(str(root / "phylo" / "alignments" / "DS1.fasta"))
    runs = sorted(str(path) for path in (root / "phylo" / "short_runs" / "DS1").glob("rep_1/*.trprobs*"))
    plan = build(data, runs, annealing_steps=0)
    objective = plan.players[0].objective
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        objective().total.backward()
        optimizer.step()

    times = interleaved_times({"compiled": by("numba", step), "PyTorch": by("torch", step)}, rounds)
    rows = [[name, f"{t.wall:.1f}", f"{t.least:.1f}"] for name, t in times.items()]
    rows += [["public code, quoted at best", f"{PUBLIC_STEP[0]:.1f}", ""], ["at worst", f"{PUBLIC_STEP[1]:.1f}", ""]]
    report.table(
        "A step of a variational phylogeny of DS1, ten particles, float32, 1 thread", ["", "ms", "least"], rows
    )
    return PUBLIC_STEP[0] / times["compiled"].wall


def check_programs(
    report: Report, batches: dict[tuple[str, int], float], peers: dict[tuple[str, int], float], public: float | None
) -> None:
    """Report which targets of compiled pruning are met."""
    for (name, batch), ratio in batches.items():
        wanted = LEAST[batch]
        report.check(ratio >= wanted, f"{batch} trees, {name}: at least {wanted:g} x PyTorch's way: {ratio:.2f} x")
    for (name, number), ratio in peers.items():
        text = f"{number} samples, {name}: at least {LEAST_PEER:g} x torchtree's best: {ratio:.2f} x"
        report.check(ratio >= LEAST_PEER, text)
    if public is not None:
        text = f"a variational step at least {LEAST_PUBLIC:g} x the public code as quoted at its best: {public:.2f} x"
        report.check(public >= LEAST_PUBLIC, text)


def _lengths(batch: int, patterns: Tensor) -> Tensor:
    return torch.rand(batch, 2 * len(patterns) - 3, dtype=patterns.dtype) * 0.09 + 0.005
