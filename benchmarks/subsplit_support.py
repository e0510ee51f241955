"""Large supports of subsplit networks: seconds and memory to build, index and fit many trees of many taxa.

The trees are those of a random walk by nearest-neighbour interchanges, like those of a Markov chain over topologies.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable

import torch
from support.report import Report
from torch import Tensor

from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.phylo import SubsplitSupport, canonicalize, random_trees


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    report = Report("subsplit_support", "Large supports of subsplit networks")
    report.text(f"- {options.trees} trees of {options.taxa} taxa, {options.moves} interchanges apart", "")
    trees = random_walk(options.trees, options.taxa, options.moves, options.seed)
    steps: list[list[str]] = []

    def timed(name: str, call: Callable[[], object]) -> object:
        begin = time.perf_counter()
        result = call()
        steps.append([name, f"{time.perf_counter() - begin:.1f}", f"{_peak_gb():.2f}"])
        return result

    steps.append(["start", "0.0", f"{_peak_gb():.2f}"])
    support = timed("support", lambda: SubsplitSupport.from_trees(trees))
    assert isinstance(support, SubsplitSupport)
    report.text(f"- {support!r}", "")
    network = timed("simple average", lambda: SubsplitBayesianNetwork.from_trees(trees, support=support))
    assert isinstance(network, SubsplitBayesianNetwork)
    timed(
        f"EM, {options.iterations} iterations",
        lambda: SubsplitBayesianNetwork.fit(
            trees, method="em", support=support, max_iterations=options.iterations, min_iterations=1
        ),
    )
    timed("log_prob of 1000 trees", lambda: network.log_prob(trees[:1000]))
    timed("1000 samples", lambda: network.sample((1000,)))
    report.table("Seconds, and largest memory so far", ["step", "s", "GB"], steps)
    if options.save:
        print(f"\nwritten to {report.save()}")


def random_walk(num_trees: int, num_taxa: int, moves: int, seed: int) -> Tensor:
    """Return canonical trees ``(T, 2n - 2)``, each ``moves`` interchanges away from the one before."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    (parent,) = random_trees(num_taxa, 1).tolist()
    children: list[list[int]] = [[] for _ in parent]
    for node, above in enumerate(parent[1:], 1):
        children[above].append(node)
    rows = []
    for _ in range(num_trees):
        for _ in range(moves):
            _interchange(parent, children, rng.randrange(num_taxa + 1, len(parent)), rng)
        rows.append(list(parent))
    return canonicalize(torch.tensor(rows)).parents


def _interchange(parent: list[int], children: list[list[int]], node: int, rng: random.Random) -> None:
    """Exchange the sister of an internal node with one of the children of the node."""
    above = parent[node]
    if above == 0:
        return
    side, below = 1 - children[above].index(node), rng.randrange(2)
    sister, child = children[above][side], children[node][below]
    children[above][side], children[node][below] = child, sister
    parent[child], parent[sister] = above, node


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taxa", type=int, default=500, help="the number of taxa")
    parser.add_argument("--trees", type=int, default=10_000, help="the number of trees")
    parser.add_argument("--moves", type=int, default=5, help="the number of interchanges between two trees")
    parser.add_argument("--iterations", type=int, default=3, help="the number of iterations of EM")
    parser.add_argument("--threads", type=int, default=2, help="the number of threads of PyTorch")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the random walk")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
