"""``pyro-ext sbn summarize``: point estimates and credible sets of a network, exact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_ext.cli.sbn.files import new_folder, read_network
from pyro_ext.distributions import RankedTrees, SearchLimitError, SubsplitBayesianNetwork
from pyro_ext.phylo import TreeSet, write_trees
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.files import write_text
from pyro_ext.utils.tables import csv_table, markdown_table

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["summarize"]


class _Point(NamedTuple):
    """A point estimate: the tree, its probability, and the credible level, as text."""

    tree: Tensor
    probability: float
    level: str


def summarize(options: Namespace) -> None:
    """Print the most probable trees, the point estimates and the entropy of a network, and write the credible set."""
    out = None if options.out is None else new_folder(options.out, options.overwrite)
    positive_int("--top", options.top, minimum=0)
    network, rooted = read_network(options.network)
    ranked = network.credible_set(options.level, limit=options.limit)
    points = {
        "map": _point(network, ranked.values[0], ranked, options.limit),
        "mcc": _point(network, network.max_clade_credibility_tree(), ranked, options.limit),
    }
    probability = ranked.log_prob.double().exp()
    trees = TreeSet(network.subsplits.taxa, ranked.values, rooted=rooted, weights=probability)
    newick = trees.to_newick()
    facts = _facts(network, trees, points, options.level)
    best = [(f"{p:.6f}", tree) for p, tree in zip(probability.tolist(), newick[: options.top], strict=False)]
    table = [markdown_table(best, ("probability", "most probable trees"), left=(1,))] if best else []
    if out is not None:
        report = ["# Trees of a subsplit Bayesian network", markdown_table(facts, ("", ""), left=(0, 1)), *table]
        _write(out, trees, points, newick, "\n\n".join(report) + "\n")
    width = max(len(name) for name, _ in facts) + 1
    print("\n".join([*(f"{name + ':':<{width}} {value}" for name, value in facts), *(["", *table] if table else [])]))
    if out is not None:
        print(f"results are in {out}")


def _point(network: SubsplitBayesianNetwork, tree: Tensor, ranked: RankedTrees, limit: int) -> _Point:
    probability = float(network.log_prob(tree).exp())
    try:
        level = f"{float(network.credible_level(tree, limit=limit)):.4f}"
    except SearchLimitError as error:
        level = f"above {float(error.proved.log_prob.exp().sum()):.4f}"
    return _Point(tree, probability, level)


def _facts(
    network: SubsplitBayesianNetwork, trees: TreeSet, points: dict[str, _Point], level: float
) -> list[tuple[str, str]]:
    lower, upper = (float(bound) for bound in network.entropy_bounds())
    exact = upper - lower < 5e-7
    return [
        ("network", repr(network.subsplits)),
        (f"credible set of level {level:g}", f"{len(trees):,} trees"),
        ("entropy", f"{upper:.6f} nats" if exact else f"between {lower:.4f} and {upper:.4f} nats"),
        ("most probable tree", _line(points["map"])),
        ("tree of maximum clade credibility", _line(points["mcc"])),
    ]


def _line(point: _Point) -> str:
    return f"probability {point.probability:.6f}, credible level {point.level}"


def _write(out: Path, trees: TreeSet, points: dict[str, _Point], newick: list[str], report: str) -> None:
    """Write ``credible_set.nwk`` and ``.csv``, ``map.nwk``, ``mcc.nwk`` and ``report.md`` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_trees(out / "credible_set.nwk", trees)
    probability = trees.weights
    assert probability is not None
    columns = (range(1, len(trees) + 1), probability.tolist(), probability.cumsum(0).tolist(), newick)
    names = ("rank", "probability", "cumulative", "tree")
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    write_text(out / "credible_set.csv", csv_table(rows, names))
    for name, point in points.items():
        weight = torch.tensor([point.probability], dtype=torch.float64)
        tree = TreeSet(trees.taxa, point.tree.unsqueeze(0), rooted=trees.rooted, weights=weight)
        write_trees(out / f"{name}.nwk", tree)
    write_text(out / "report.md", report)
