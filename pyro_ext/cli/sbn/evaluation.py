"""``pyro-ext sbn evaluate``: a network beside a reference sample of trees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_ext.cli.sbn.files import new_folder, read_network
from pyro_ext.cli.tree_options import reading_options
from pyro_ext.distributions import (
    SearchLimitError,
    SubsplitBayesianNetwork,
    TreeFrequency,
    tree_dispersion,
    tree_kl,
)
from pyro_ext.distributions.trees.divergence import log_prob_in_parts
from pyro_ext.phylo import TreeSet, reference_sample
from pyro_ext.phylo.support import Coverage
from pyro_ext.plotting import probability_ratios, save, tree_probabilities
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.files import write_text
from pyro_ext.utils.tables import csv_table, markdown_table

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["Comparison", "evaluate"]


_Best = tuple[str, float, float]
"""Newick text, probability and reference frequency of a tree."""


@dataclass(frozen=True)
class Comparison:
    """A network beside a reference sample.

    Args:
        network: the file of the network.
        kl: the divergence of the network from the sample, in nats.
        floor: the least probability that a tree was taken to have, if any.
        normalized: whether the weights of the sample were scaled to sum to 1.
        coverage: how much of the sample the support of the network holds.
        golden: the distinct trees of the sample.
        log_prob: the log-probabilities of those trees under the network.
        best: Newick text, probability and frequency of the most probable trees.
        all_best: whether these are as many as were asked for, or all there are.
        dispersion: how widely the network's probabilities scatter around the frequencies of the sample, in nats.
        sampled: the log-frequencies of the trees in another sample, for comparison, if there is one.
        sampled_dispersion: how widely these scatter.
    """

    network: str
    kl: float
    floor: float | None
    normalized: bool
    coverage: Coverage
    golden: TreeSet
    log_prob: Tensor
    best: list[_Best]
    all_best: bool
    dispersion: float
    sampled: Tensor | None = None
    sampled_dispersion: float = float("nan")

    def facts(self) -> list[tuple[str, str]]:
        """Return the figures by name."""
        with_floor = "" if self.floor is None else f", floor {self.floor:g}"
        weights = "" if self.normalized else ", weights as they are"
        return [
            ("network", self.network),
            ("reference sample", f"{len(self.golden)} distinct trees of {self.golden.num_taxa} taxa"),
            (f"KL divergence{with_floor}{weights}", f"{self.kl:.8f} nats"),
            ("reference trees in the support", f"{self.coverage.trees:.4%}"),
            ("their weight", f"{self.coverage.weight:.4%}"),
            ("reference subsplits in the support", f"{self.coverage.splits:.4%}"),
            ("probability of all reference trees", f"{float(self.log_prob.exp().sum()):.6f}"),
            ("dispersion of probabilities", f"{self.dispersion:.4f} nats"),
            *self._facts_of_sample(),
        ]

    def _facts_of_sample(self) -> list[tuple[str, str]]:
        if self.sampled is None:
            return []
        there = self.sampled > -torch.inf
        weight = float(self.golden.probabilities()[there].sum())
        return [
            ("reference trees in the short sample", f"{float(there.double().mean()):.4%}, of weight {weight:.4%}"),
            ("dispersion of its frequencies", f"{self.sampled_dispersion:.4f} nats"),
        ]

    @property
    def missing(self) -> str:
        """Why the divergence is infinite, and what can be done; empty if it is finite."""
        if self.kl < float("inf"):
            return ""
        never = self.log_prob == -torch.inf
        weight = float(self.golden.probabilities()[never].sum())
        return (
            f"The divergence is infinite, since the network gives probability 0 to {int(never.sum()):,} of the "
            f"{len(never):,} reference trees, of weight {weight:.4%}. If they come from the beginning of a run, leave "
            "that out with --burnin 0.25; a longer run to fit to may hold them; or give every tree at least a small "
            "probability with --floor 2.2e-16."
        )

    def text(self) -> str:
        """Return everything as lines to print."""
        width = max(len(name) for name, _ in self.facts()) + 1
        lines = [f"{name + ':':<{width}} {value}" for name, value in self.facts()]
        return "\n".join([*lines, *(["", self._best_table()] if self.best or not self.all_best else [])])

    def markdown(self) -> str:
        """Return a report."""
        parts = [
            "# Subsplit Bayesian network against a reference sample",
            markdown_table(self.facts(), ("", ""), left=(0, 1)),
            "![probabilities](probabilities.png)",
            "![dispersion](dispersion.png)",
            *([self._best_table()] if self.best or not self.all_best else []),
            *([self.missing] if self.missing else []),
            "All reference trees are in `trees.csv`.",
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, out: Path) -> None:
        """Write ``probabilities.png``, ``dispersion.png``, ``trees.csv`` and ``report.md`` into a folder."""
        frequency = self.golden.probabilities()
        title = f"{len(frequency):,} distinct trees of the reference sample"
        plot = tree_probabilities(frequency, self.log_prob, xlabel="frequency in the reference sample", title=title)
        columns = (self.golden.to_newick(), frequency.tolist(), self.log_prob.tolist())
        rows = [dict(zip(("tree", "frequency", "log_prob"), row, strict=True)) for row in zip(*columns, strict=True)]
        out.mkdir(parents=True, exist_ok=True)
        save(plot, out / "probabilities.png")
        log_probs = {"network": self.log_prob} | ({} if self.sampled is None else {"short sample": self.sampled})
        save(probability_ratios(frequency, log_probs, title=title), out / "dispersion.png")
        write_text(out / "trees.csv", csv_table(rows, ("tree", "frequency", "log_prob")))
        write_text(out / "report.md", self.markdown())

    def _best_table(self) -> str:
        rows = [(f"{probability:.6f}", f"{share:.6f}", newick) for newick, probability, share in self.best]
        table = markdown_table(rows, ("probability", "frequency", "most probable trees"), left=(2,))
        return table if self.all_best else f"{table}\n\nNo more trees are proved to be the next most probable ones."


def evaluate(options: Namespace) -> None:
    """Compare a network with a reference sample, print what comes out and write it if asked."""
    out = None if options.out is None else new_folder(options.out, options.overwrite)
    positive_int("--top", options.top, minimum=0)
    network, rooted = read_network(options.network)
    if rooted != network.subsplits.rooted:
        raise ValueError(
            f"{options.network} draws {'' if rooted else 'un'}rooted trees by the splits of "
            f"{'un' if rooted else ''}rooted ones, of which no coverage is known: use tree_kl in Python"
        )
    golden = reference_sample(
        *options.golden,
        taxa=network.subsplits.taxa,
        rooted=rooted if options.rooted is None else options.rooted,
        counts=options.counts,
        progress=options.progress,
        **reading_options(options, options.seed),
    )
    divergence = tree_kl(golden, network, floor=options.floor, normalize=not options.unnormalized)
    best, all_best = _most_probable(network, golden, options.top)
    short = _short_sample(options, golden)
    comparison = Comparison(
        network=options.network,
        kl=float(divergence),
        floor=options.floor,
        normalized=not options.unnormalized,
        coverage=network.subsplits.coverage(golden),
        golden=golden,
        log_prob=log_prob_in_parts(network, golden.parents),
        best=best,
        all_best=all_best,
        dispersion=float(tree_dispersion(golden, network)),
        sampled=None if short is None else log_prob_in_parts(short, golden.parents),
        sampled_dispersion=float("nan") if short is None else float(tree_dispersion(golden, short)),
    )
    if out is not None:
        comparison.write(out)
    print(comparison.text())
    if comparison.missing:
        print(f"\n{comparison.missing}")
    if out is not None:
        print(f"results are in {out}")


def _short_sample(options: Namespace, golden: TreeSet) -> TreeFrequency | None:
    """Return the frequencies of the trees in the files of ``--sample``, None without."""
    if options.sample is None:
        return None
    trees = reference_sample(
        *options.sample,
        taxa=golden.taxa,
        rooted=golden.rooted,
        progress=options.progress,
        **reading_options(options, options.seed),
    )
    return TreeFrequency.from_trees(trees)


def _most_probable(network: SubsplitBayesianNetwork, golden: TreeSet, number: int) -> tuple[list[_Best], bool]:
    """Return Newick, probability and reference frequency of the most probable trees, and whether these are all."""
    if not number:
        return [], True
    try:
        ranked, complete = network.most_probable_trees(number), True
    except SearchLimitError as error:
        ranked, complete = error.proved, False
    frequency = dict(zip(map(tuple, golden.parents.tolist()), golden.probabilities().tolist(), strict=True))
    newick = TreeSet(golden.taxa, ranked.values, rooted=golden.rooted).to_newick() if len(ranked.values) else []
    shares = [frequency.get(tuple(tree), 0.0) for tree in ranked.values.tolist()]
    return list(zip(newick, ranked.log_prob.exp().tolist(), shares, strict=True)), complete
