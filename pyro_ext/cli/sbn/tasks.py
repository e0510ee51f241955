"""What ``pyro-ext sbn`` does: fit, evaluate, sample."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_ext.cli.tree_options import reading_options
from pyro_ext.distributions import SubsplitBayesianNetwork, tree_kl
from pyro_ext.distributions.trees.divergence import log_prob_in_parts
from pyro_ext.phylo import TreeSet, read_trees, reference_sample, write_trees
from pyro_ext.phylo.support import Coverage
from pyro_ext.phylo.writing import format_of
from pyro_ext.plotting import save, tree_probabilities
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.files import check_target, write_text
from pyro_ext.utils.tables import csv_table, markdown_table

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["evaluate", "fit", "sample"]

_DRAWS = 10_000  # trees drawn at a time; the most probable ones are looked for among so many and the reference sample


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
    """

    network: str
    kl: float
    floor: float | None
    normalized: bool
    coverage: Coverage
    golden: TreeSet
    log_prob: Tensor
    best: list[tuple[str, float, float]]

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
        return "\n".join([*lines, *(["", self._best_table()] if self.best else [])])

    def markdown(self) -> str:
        """Return a report."""
        parts = [
            "# Subsplit Bayesian network against a reference sample",
            markdown_table(self.facts(), ("", ""), left=(0, 1)),
            "![probabilities](probabilities.png)",
            *([self._best_table()] if self.best else []),
            *([self.missing] if self.missing else []),
            "All reference trees are in `trees.csv`.",
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, out: Path) -> None:
        """Write ``probabilities.png``, ``trees.csv`` and ``report.md`` into a folder."""
        frequency = self.golden.probabilities()
        title = f"{len(frequency):,} distinct trees of the reference sample"
        plot = tree_probabilities(frequency, self.log_prob, xlabel="frequency in the reference sample", title=title)
        columns = (self.golden.to_newick(), frequency.tolist(), self.log_prob.tolist())
        rows = [dict(zip(("tree", "frequency", "log_prob"), row, strict=True)) for row in zip(*columns, strict=True)]
        out.mkdir(parents=True, exist_ok=True)
        save(plot, out / "probabilities.png")
        write_text(out / "trees.csv", csv_table(rows, ("tree", "frequency", "log_prob")))
        write_text(out / "report.md", self.markdown())

    def _best_table(self) -> str:
        rows = [(f"{probability:.6f}", f"{share:.6f}", newick) for newick, probability, share in self.best]
        return markdown_table(rows, ("probability", "frequency", "most probable trees"), left=(2,))


def fit(options: Namespace) -> None:
    """Fit a network to files of trees, write it and its plot."""
    out = _new_file(options.out, ".npz", options.overwrite)
    plot_file = _new_file(str(out.with_suffix(".png")), ".png", options.overwrite)
    read = read_trees(
        *options.trees,
        rooted=options.rooted,
        branch_lengths=False,
        progress=options.progress,
        **reading_options(options, options.seed),
    )
    trees = read.unique()
    method = options.method or ("maximum_likelihood" if trees.rooted else "em")
    network, history = SubsplitBayesianNetwork.fit(
        trees,
        method=method,
        alpha=options.alpha,
        prior=options.prior,
        max_iterations=options.max_iterations,
        min_iterations=options.min_iterations,
        tolerance=options.tolerance,
        progress=options.progress,
    )
    frequency, log_prob = trees.probabilities(), log_prob_in_parts(network, trees.parents)
    title = f"{len(trees):,} distinct trees that the network is fitted to"
    plot = tree_probabilities(frequency, log_prob, xlabel="frequency in the sample", title=title)
    network.save(out)
    save(plot, plot_file)
    print(f"{len(read):,} trees, {len(trees):,} of them distinct")
    print(trees)
    print(network.subsplits)
    if options.method is None:
        print(f"method {method}, as the trees are {'rooted' if trees.rooted else 'unrooted'}")
    if method == "em":
        ended = "converged" if history.converged else "stopped before it converged"
        print(f"{history.num_iterations} iterations, {ended}")
    print(f"mean log-likelihood {float((frequency * log_prob).sum()):.6f}")
    print(f"the network is in {out}, its plot in {plot_file}")


def evaluate(options: Namespace) -> None:
    """Compare a network with a reference sample, print what comes out and write it if asked."""
    out = None if options.out is None else _new_folder(options.out, options.overwrite)
    positive_int("--top", options.top, minimum=0)
    network, rooted = _network(options.network)
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
    comparison = Comparison(
        network=options.network,
        kl=float(divergence),
        floor=options.floor,
        normalized=not options.unnormalized,
        coverage=network.subsplits.coverage(golden),
        golden=golden,
        log_prob=log_prob_in_parts(network, golden.parents),
        best=_most_probable(network, golden, options.top),
    )
    if out is not None:
        comparison.write(out)
    print(comparison.text())
    if comparison.missing:
        print(f"\n{comparison.missing}")
    if out is not None:
        print(f"results are in {out}")


def sample(options: Namespace) -> None:
    """Draw trees and write them, with a plot of how often each came."""
    positive_int("--num", options.num)
    out = _new_file(options.out, None, options.overwrite)
    format_of(out)
    stem = out.with_suffix("") if out.suffix == ".gz" else out
    plot_file = _new_file(str(stem.with_suffix(".png")), ".png", options.overwrite)
    network, rooted = _network(options.network)
    seed = options.seed if options.seed is not None else int(torch.seed() % 2**31)
    torch.manual_seed(seed)
    taxa = network.subsplits.taxa
    if options.distinct:
        drawn = network.sample_without_replacement(options.num)
        possible = drawn.log_prob > -torch.inf
        weights = drawn.log_prob[possible].double().exp()
        trees = TreeSet(taxa, drawn.values[possible], rooted=rooted, weights=weights)
    else:
        trees = TreeSet(taxa, _drawn(network, options.num), rooted=rooted)
    distinct = trees.unique()
    xlabel = f"{'share' if options.distinct else 'frequency'} among the trees drawn"
    title = f"{len(distinct):,} distinct trees among {len(trees):,} drawn"
    log_prob = log_prob_in_parts(network, distinct.parents)
    plot = tree_probabilities(distinct.probabilities(), log_prob, xlabel=xlabel, title=title)
    write_trees(out, trees)
    save(plot, plot_file)
    print(f"{len(trees)} trees, {len(distinct)} of them distinct, seed {seed}")
    print(f"they are in {out}, a plot in {plot_file}")


def _network(path: str) -> tuple[SubsplitBayesianNetwork, bool]:
    """Read a network, and whether its trees are rooted."""
    network = SubsplitBayesianNetwork.load(path)
    if network.batch_shape:
        raise ValueError(f"{path} holds a batch of networks, {tuple(network.batch_shape)}: save the one to be used")
    return network, bool(network.event_shape[0] % 2)


def _drawn(network: SubsplitBayesianNetwork, number: int) -> Tensor:
    """Draw trees a part at a time, with a bar on a terminal if there are many."""
    parts = [min(_DRAWS, number - begun) for begun in range(0, number, _DRAWS)]
    shown = sys.stderr.isatty() and len(parts) > 1
    with tqdm(total=number, desc="trees", unit="tree", disable=not shown, leave=False) as bar:
        drawn = []
        for part in parts:
            drawn.append(network.sample((part,)))
            bar.update(part)
    return torch.cat(drawn)


def _most_probable(network: SubsplitBayesianNetwork, golden: TreeSet, number: int) -> list[tuple[str, float, float]]:
    """Return Newick, probability and reference frequency of the most probable trees, the most probable first.

    They are looked for among the reference sample and draws; of probability p, a tree is missed by all draws in one
    comparison out of ``exp(p * _DRAWS)``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = network.sample((_DRAWS,))
    candidates = torch.cat([golden.parents, drawn])
    distinct, place = candidates.unique(dim=0, return_inverse=True)
    frequency = torch.zeros(len(distinct), dtype=torch.float64)
    frequency.index_add_(0, place[: len(golden)], golden.probabilities())
    log_prob = log_prob_in_parts(network, distinct)
    top = log_prob.topk(min(number, len(distinct))).indices
    newick = TreeSet(golden.taxa, distinct[top], rooted=golden.rooted).to_newick()
    return list(zip(newick, log_prob[top].exp().tolist(), frequency[top].tolist(), strict=True))


def _new_file(name: str, suffix: str | None, overwrite: bool) -> Path:
    path = Path(name)
    if suffix is not None and path.suffix != suffix:
        raise ValueError(f"--out must end in {suffix}, got {name!r}")
    if path.is_dir():
        raise ValueError(f"--out: {name!r} is a folder; name a file")
    check_target(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{name!r} exists; choose another name, or say --overwrite")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} for {path.name!r}; make it first")
    return path


def _new_folder(name: str, overwrite: bool) -> Path:
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out: {name!r} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"--out: {name!r} is not empty; choose another folder, or say --overwrite")
    return path
