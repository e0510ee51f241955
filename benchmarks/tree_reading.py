"""How long trees take to be read from Newick: one large tree, with plain and quoted names, and many small ones.

Beside ours, compiled and without Numba, stands treeswift where it is installed (``make bench`` installs it). Ours gives
canonical trees of checked taxa as tensors, treeswift an object per node. Branch lengths have 20 digits.
"""

from __future__ import annotations

import argparse
import importlib.util
import random

import torch
from support.gradients import Step
from support.report import Report
from support.timing import interleaved_times

from pyro_ext.ops.kernels import Kernels, kernels
from pyro_ext.phylo import parse_trees


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    random.seed(0)
    report = Report("tree_reading", "Reading trees")
    taxa, number = options.taxa, options.number
    texts = {
        f"1 tree, {taxa:,} taxa": newick(taxa),
        f"1 tree, {taxa:,} taxa, quoted names": newick(taxa, quoted=True),
        f"{number:,} trees, 50 taxa": "\n".join(newick(50) for _ in range(number)),
        f"{number:,} trees, 50 taxa, topologies": "\n".join(newick(50, lengths=False) for _ in range(number)),
    }
    rows, least = [], {}
    for name, text in texts.items():
        steps = {"compiled": ours(text, "auto"), "without Numba": ours(text, "torch")}
        if importlib.util.find_spec("treeswift"):
            steps["treeswift"] = peer(text)
        times = interleaved_times(steps, options.rounds, inner=1)
        least[name] = {side: time.least for side, time in times.items()}
        rows.append(
            [
                name,
                *(f"{least[name][side]:,.1f}" if side in least[name] else "-" for side in SIDES),
                _ratio(least[name]),
            ]
        )
    report.table("Milliseconds, the least of the turns", ["text", *SIDES, "treeswift / compiled"], rows)
    large, quoted, many, topologies = least.values()
    if "treeswift" in large:
        report.check(
            large["compiled"] <= 2 * large["treeswift"],
            f"one large tree within 2 x treeswift: {large['compiled'] / large['treeswift']:.2f} x",
        )
    report.check(
        quoted["compiled"] <= 1.5 * large["compiled"],
        f"quoted names within 1.5 x plain ones: {quoted['compiled'] / large['compiled']:.2f} x",
    )
    each = [1e3 * side["compiled"] / number for side in (many, topologies)]
    report.text("", f"A small tree takes {each[0]:.0f} microseconds with its lengths, {each[1]:.0f} without.")
    if options.save:
        print(f"\nwritten to {report.save()}")


SIDES = ("compiled", "without Numba", "treeswift")


def newick(taxa: int, quoted: bool = False, lengths: bool = True) -> str:
    """Return a random tree, joined from its leaves two by two."""
    nodes = [f"'taxon {i}'" if quoted else f"t{i}" for i in range(taxa)]

    def length() -> str:
        return f":{random.random():.20f}" if lengths else ""

    while len(nodes) > 1:
        first = nodes.pop(random.randrange(len(nodes)))
        at = random.randrange(len(nodes))
        nodes[at] = f"({first}{length()},{nodes[at]}{length()})"
    return nodes[0] + ";"


def ours(text: str, choice: Kernels) -> Step:
    """Return a step that reads all trees."""

    def step() -> None:
        with kernels(choice):
            parse_trees(text, rooted=True)

    return step


def peer(text: str) -> Step:
    """Return a step of treeswift, which reads a text tree by tree."""
    import treeswift

    lines = text.split("\n")

    def step() -> None:
        for line in lines:
            treeswift.read_tree_newick(line)

    return step


def _ratio(times: dict[str, float]) -> str:
    return f"{times['treeswift'] / times['compiled']:.2f}" if "treeswift" in times else "-"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taxa", type=int, default=4000, help="the taxa of the large tree (default: 4,000)")
    parser.add_argument("--number", type=int, default=5000, help="the number of small trees (default: 5,000)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each reader (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="the number of threads of PyTorch (default: 1)")
    parser.add_argument("--save", action="store_true", help="write the report into benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
