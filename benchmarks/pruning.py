"""The likelihood of trees: milliseconds for many topologies at once, compared with loops over trees and torchtree.

The data are the alignment DS1 and a hundred topologies for it, which lie under PYRO_EXT_DATA; without them, sequences
and trees of the same size are drawn. Successive batches hold different topologies, so that the order of computation is
planned anew each time. torchtree, if installed, evaluates many branch lengths on a single topology, since it cannot
batch topologies. BEAGLE, if installed, evaluates tree after tree through its C interface. Where Numba is installed,
compiled functions come first, beside PyTorch's way; the tables after them are of the latter alone. The public code of
variational phylogenetics is not run: its figures are quoted. All steps are timed in turns. Comparisons use medians,
since other work on the machine slows all steps alike; limits in milliseconds apply to the least times.

References:
    | Evolutionary trees from DNA sequences: a maximum likelihood approach (Felsenstein, 1981)
    | https://doi.org/10.1007/BF01734359
    | torchtree: flexible phylogenetic model development and inference using PyTorch (Fourment et al., 2025)
    | https://arxiv.org/abs/2406.18044
    | BEAGLE 3: improved performance, scaling, and usability for a high-performance computing library for statistical
    | phylogenetics (Ayres et al., 2019), https://doi.org/10.1093/sysbio/syz020
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from support.beagle import beagle_version
from support.gradients import Step
from support.limits import copy_rate
from support.pruning_peers import QUOTED, node_by_node, torchtree_functions
from support.pruning_programs import check_programs, compare_batches, compare_peers, time_variational_steps
from support.report import Report
from support.timing import StepTime, interleaved_times
from torch import Tensor

from pyro_ext.datasets.locate import data_root
from pyro_ext.distributions import TreeLikelihood
from pyro_ext.ops.kernels import kernels
from pyro_ext.ops.pruning import site_log_likelihoods
from pyro_ext.phylo import GTR, JC69, GammaRates, random_trees, read_alignment, read_trees

DTYPES = {"float32": torch.float32, "float64": torch.float64}
TARGETS = {"float32": 10.0, "float64": 20.0}
NUM_TAXA, NUM_PATTERNS, NUM_DIFFERENT = 27, 934, 32

Times = dict[str, StepTime]


class Data(NamedTuple):
    """An alignment's patterns ``(n, S, 4)`` and weights ``(S,)``, and topologies ``(T, 2n - 2)``."""

    patterns: Tensor
    weights: Tensor
    trees: Tensor

    def to(self, dtype: torch.dtype) -> Data:
        """Return the same data in another type."""
        return Data(self.patterns.to(dtype), self.weights.to(dtype), self.trees)


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    report = Report("pruning", "The likelihood of trees: milliseconds")
    data = load(report)
    report.text(f"- torchtree {_version('torchtree') or 'is not installed, so it is left out'}")
    report.text(f"- BEAGLE {beagle_version() or 'is not installed, so it is left out'}")
    report.text(f"- a copy within memory reads and writes {copy_rate():.1f} gigabytes a second", "")
    if _version("numba"):
        compare_programs(report, data, options.rounds)
    else:
        report.text("- Numba is not installed, so that compiled functions are left out", "")
    with kernels("torch"):
        time_torch(report, data, options)
    report.text(f"- load average {os.getloadavg()[0]:.1f} at the end", "")
    if options.save:
        print(f"\nwritten to {report.save()}")


def compare_programs(report: Report, data: Data, rounds: int) -> None:
    """Compare compiled functions and PyTorch's way, on one thread."""
    torch.set_num_threads(1)
    batches, peers, root = {}, {}, data_root()
    for dtype in DTYPES.values():
        typed = data.to(dtype)
        trees = partial(topologies, typed.trees)
        batches |= compare_batches(report, typed.patterns, typed.weights, trees, rounds)
        peers |= compare_peers(report, typed.patterns, typed.weights, typed.trees[0], rounds)
    public = None if root is None else time_variational_steps(report, root, max(rounds // 2, 3))
    with kernels("numba"):
        growth = time_growth(report, rounds, "compiled")
    check_programs(report, batches, peers, public)
    check_growth(report, growth, "compiled")
    report.text("")


def time_torch(report: Report, data: Data, options: argparse.Namespace) -> None:
    """Report the times of PyTorch's way."""
    times: dict[str, dict[int, Times]] = {name: {} for name in DTYPES}
    for threads in options.threads:
        torch.set_num_threads(threads)
        time_batches(report, data, threads, options.rounds)
        for name, dtype in DTYPES.items():
            title = f"{name}, {_threads(threads)}"
            times[name][threads] = compare(report, data.to(dtype), title, options.rounds)
    torch.set_num_threads(1)
    growth = time_growth(report, options.rounds, "PyTorch")
    check(report, times)
    check_growth(report, growth, "PyTorch")


def load(report: Report) -> Data:
    """Read DS1 and its topologies, or draw data of that size."""
    root = data_root()
    if root is not None:
        alignment = read_alignment(root / "phylo" / "alignments" / "DS1.fasta")
        trees = read_trees(root / "phylo" / "reference" / "DS1.100_topologies.nwk", rooted=False, branch_lengths=False)
        report.text(f"- DS1: {alignment!r}", "")
        return Data(alignment.patterns, alignment.weights, trees.parents)
    trees = random_trees(NUM_TAXA, 100)
    lengths = torch.full((2 * NUM_TAXA - 3,), 0.1, dtype=torch.float64)
    patterns = TreeLikelihood(trees[0], lengths, num_sites=NUM_PATTERNS).sample()
    report.text(f"- PYRO_EXT_DATA is not set: {NUM_PATTERNS} simulated sites of {NUM_TAXA} taxa, random trees", "")
    return Data(patterns, torch.ones(NUM_PATTERNS, dtype=torch.float64), trees)


def time_batches(report: Report, data: Data, threads: int, rounds: int) -> None:
    """Report the times of batches of topologies, from the matrices alone and from the branch lengths."""
    of_matrices, of_lengths = [], []
    for name, dtype in DTYPES.items():
        typed = data.to(dtype)
        for batch in (1, 10, 100):
            turns = max(rounds // max(batch // 4, 1), 3)
            times = interleaved_times(matrix_steps(typed, batch), turns)
            of_matrices.append([name, str(batch), *(f"{t.wall:.2f}" for t in times.values())])
            header = ["", "trees", *times]
            times = interleaved_times(length_steps(typed, batch), turns)
            of_lengths.append([name, str(batch), *(f"{t.wall:.2f}" for t in times.values())])
            from_lengths = ["", "trees", *times]
    report.table(f"From transition matrices, {_threads(threads)}", header, of_matrices)
    title = f"From branch lengths, with gradients, rescaled where needed, {_threads(threads)}"
    report.table(title, from_lengths, of_lengths)


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number > 1 else ''}"


def matrix_steps(data: Data, batch: int) -> dict[str, Step]:
    lengths = branch_lengths(batch, data)
    matrices = JC69(lengths).transition_matrices(lengths).clone().requires_grad_()
    frequencies, trees = lengths.new_full((4,), 0.25), topologies(data.trees, batch)

    def evaluate(rescale: bool) -> Tensor:
        return site_log_likelihoods(next(trees), matrices, frequencies, data.patterns, rescale=rescale) @ data.weights

    steps: dict[str, Step] = {}
    for rescale, name in ((False, "as is"), (True, "rescaled")):
        steps[name] = without_gradients(lambda rescale=rescale: evaluate(rescale))
        steps[f"{name}, with gradients"] = with_gradients(lambda rescale=rescale: evaluate(rescale), matrices)
    return steps


def length_steps(data: Data, batch: int) -> dict[str, Step]:
    lengths, trees = branch_lengths(batch, data).requires_grad_(), topologies(data.trees, batch)
    rates, frequencies = lengths.new_tensor([1.0, 4.0, 1.0, 1.0, 4.0, 1.0]), lengths.new_tensor([0.3, 0.2, 0.2, 0.3])
    shape = lengths.new_tensor(0.5)

    def jc() -> Tensor:
        return TreeLikelihood(next(trees), lengths, weights=data.weights, validate_args=False).log_prob(data.patterns)

    def gtr() -> Tensor:
        models = GTR(rates, frequencies), GammaRates(shape, 4)
        likelihood = TreeLikelihood(next(trees), lengths, *models, weights=data.weights, validate_args=False)
        return likelihood.log_prob(data.patterns)

    return {"JC69": with_gradients(jc, lengths), "GTR+G4": with_gradients(gtr, lengths)}


def compare(report: Report, data: Data, title: str, rounds: int) -> Times:
    """Report the times of ten trees by all methods, with gradients in branch lengths; their results must agree."""
    lengths, trees = branch_lengths(10, data).requires_grad_(), topologies(data.trees, 10)
    tips = data.patterns.mT.contiguous()
    one_tree = data.trees[0]
    shared = torchtree_functions(one_tree.tolist(), tips, data.weights)

    def ours(trees: Tensor, rows: Tensor, rescale: bool = False) -> Tensor:
        model = JC69(rows)
        matrices = model.transition_matrices(rows)
        return site_log_likelihoods(trees, matrices, model.frequencies, data.patterns, rescale=rescale) @ data.weights

    def loop() -> Tensor:
        return torch.stack([ours(tree, row) for tree, row in zip(next(trees), lengths, strict=True)])

    ways: dict[str, Callable[[], Tensor]] = {
        "10 topologies at once": lambda: ours(next(trees), lengths),
        "the same, rescaled": lambda: ours(next(trees), lengths, rescale=True),
        "1 topology, 10 lengths": lambda: ours(one_tree, lengths),
        "tree after tree": loop,
        "node by node": lambda: node_by_node(next(trees).tolist(), lengths, tips, data.weights),
        **{f"{name}, 1 topology": lambda function=function: function(lengths) for name, function in shared.items()},
    }
    expected = ours(one_tree, lengths)
    node = node_by_node([one_tree.tolist()] * 10, lengths, tips, data.weights)
    for log_likelihoods in (node, *(function(lengths).reshape(10) for function in shared.values())):
        torch.testing.assert_close(log_likelihoods, expected, rtol=1e-5, atol=0)
    times = interleaved_times({name: with_gradients(way, lengths) for name, way in ways.items()}, max(rounds // 2, 3))
    first = times["10 topologies at once"]
    rows = [[name, *_columns(t.wall, first.wall), f"{t.cpu:.1f}", f"{t.least:.1f}"] for name, t in times.items()]
    rows += [[f"vbpi-torch, quoted {name}", *_columns(t, first.wall), "", ""] for name, t in QUOTED[10].items()]
    header = ["", "ms", "ms a tree", "ratio", "processor ms", "least ms"]
    report.table(f"Ten trees with gradients in branch lengths, {title}", header, rows)
    return times


def _columns(milliseconds: float, first: float) -> list[str]:
    return [f"{milliseconds:.1f}", f"{milliseconds / 10:.2f}", f"{milliseconds / first:.2f}"]


def time_growth(report: Report, rounds: int, program: str) -> dict[int, float]:
    """Report nanoseconds per tree, taxon and pattern; return those of the largest alignments by the number of taxa."""
    patterns, rows, last = (250, 1000, 4000), [], {}
    for num_taxa in (25, 50, 100, 200, 400):
        row = [str(num_taxa)]
        for size in patterns:
            trees = random_trees(num_taxa, NUM_DIFFERENT)
            states = torch.eye(4)[torch.randint(4, (num_taxa, size))]
            data = Data(states, torch.ones(size), trees)
            step = matrix_steps(data, 4)["rescaled, with gradients"]
            turns = max(rounds * 10**5 // (num_taxa * size), 4)
            last[num_taxa] = interleaved_times({"": step}, min(turns, rounds))[""].wall * 1e6 / (4 * num_taxa * size)
            row.append(f"{last[num_taxa]:.1f}")
        rows.append(row)
    title = (
        f"Nanoseconds per tree, taxon and pattern: four trees with gradients, rescaled, {program}, float32, 1 thread"
    )
    report.table(title, ["taxa", *(f"{size} patterns" for size in patterns)], rows)
    return last


def check(report: Report, by_type: dict[str, dict[int, Times]]) -> None:
    """Report which targets are met; ``by_type`` has the times by type and number of threads."""
    ours = "10 topologies at once"
    for name, target in TARGETS.items():
        least = min(times[ours].least for times in by_type[name].values())
        report.check(least <= target, f"10 topologies with gradients, {name}, within {target:g} ms: {least:.1f} ms")
        for threads, times in by_type[name].items():
            ratio, title = times["tree after tree"].wall / times[ours].wall, f"{name}, {_threads(threads)}"
            report.check(ratio >= 2.5, f"at least 2.5 x our own loop over trees, {title}: {ratio:.2f} x")
        best = {way: min(times[way].wall for times in by_type[name].values()) for way in times}
        peers = [time for way, time in best.items() if "torchtree" in way]
        if peers:
            ratio = min(peers) / best[ours]
            report.check(ratio >= 1, f"no slower than torchtree's best, {name}: {ratio:.2f} x")
    ratio = QUOTED[10]["at best"] / min(times[ours].least for times in by_type["float32"].values())
    report.check(ratio >= 4, f"at least 4 x the public code as quoted at its best: {ratio:.1f} x")


def check_growth(report: Report, growth: dict[int, float], program: str) -> None:
    """Report whether the time per taxon and pattern stays the same."""
    sizes = [*growth]
    ratio = growth[sizes[-1]] / growth[sizes[0]]
    text = f"{program}: time per taxon and pattern, {sizes[-1]} taxa compared with {sizes[0]}: {ratio:.2f} x"
    report.check(ratio <= 1.25, text)


def branch_lengths(batch: int, data: Data) -> Tensor:
    """Draw branch lengths like those of DS1, with mean .05."""
    return torch.rand(batch, data.trees.shape[1] - 1, dtype=data.patterns.dtype) * 0.09 + 0.005


def topologies(trees: Tensor, batch: int) -> Iterator[Tensor]:
    """Yield batches of different topologies in turn, more batches than the cache of plans holds."""
    batches = [trees[torch.randperm(len(trees))[:batch]] for _ in range(NUM_DIFFERENT)]
    return (batches[i % NUM_DIFFERENT] for i in count())


def with_gradients(function: Callable[[], Tensor], argument: Tensor) -> Step:
    def step() -> None:
        torch.autograd.grad(function().sum(), argument)

    return step


def without_gradients(function: Callable[[], Tensor]) -> Step:
    def step() -> None:
        with torch.no_grad():
            function()

    return step


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="the number of turns of the fast steps (default: 60)")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of threads of PyTorch, one after the other (default: 1 2)",
    )
    parser.add_argument("--quick", action="store_true", help="a few turns of everything, to see whether it runs")
    parser.add_argument("--save", action="store_true", help="write the results into benchmarks/results/")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 3
    return options


if __name__ == "__main__":
    main()
