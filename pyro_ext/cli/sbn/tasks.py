"""``pyro-ext sbn fit`` and ``sample``: networks from trees, and trees from networks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_ext.cli.sbn.choice import chosen, fit_options
from pyro_ext.cli.sbn.files import new_file, read_network
from pyro_ext.cli.tree_options import reading_options
from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.distributions.trees.divergence import log_prob_in_parts
from pyro_ext.phylo import TreeSet, read_trees, write_trees
from pyro_ext.phylo.writing import format_of
from pyro_ext.plotting import save, tree_probabilities
from pyro_ext.utils.checks import positive_int

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["fit", "sample"]

_DRAWS = 10_000  # trees drawn at a time


def fit(options: Namespace) -> None:
    """Fit a network to files of trees, write it and its plot."""
    out = new_file(options.out, ".npz", options.overwrite)
    plot_file = new_file(str(out.with_suffix(".png")), ".png", options.overwrite)
    read = read_trees(
        *options.trees,
        rooted=options.rooted,
        branch_lengths=False,
        progress=options.progress,
        **reading_options(options, options.seed),
    )
    trees = read.unique()
    choice = chosen(read, options)
    network, history = SubsplitBayesianNetwork.fit(
        trees, method=choice.method, alpha=choice.alpha, **fit_options(options)
    )
    frequency, log_prob = trees.probabilities(), log_prob_in_parts(network, trees.parents)
    title = f"{len(trees):,} distinct trees that the network is fitted to"
    plot = tree_probabilities(frequency, log_prob, xlabel="frequency in the sample", title=title)
    network.save(out)
    save(plot, plot_file)
    print(f"{len(read):,} trees, {len(trees):,} of them distinct")
    print(trees)
    print(network.subsplits)
    if choice.why:
        print(choice.why)
    if choice.method == "em":
        ended = "converged" if history.converged else "stopped before it converged"
        print(f"{history.num_iterations} iterations, {ended}")
    print(f"mean log-likelihood {float((frequency * log_prob).sum()):.6f}")
    print(f"the network is in {out}, its plot in {plot_file}")


def sample(options: Namespace) -> None:
    """Draw trees and write them, with a plot of how often each came."""
    positive_int("--num", options.num)
    out = new_file(options.out, None, options.overwrite)
    format_of(out)
    stem = out.with_suffix("") if out.suffix == ".gz" else out
    plot_file = new_file(str(stem.with_suffix(".png")), ".png", options.overwrite)
    network, rooted = read_network(options.network)
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
