"""``pyro-ext sbn fit|evaluate|sample|summarize``: subsplit Bayesian networks from files of trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from jsonargparse import ArgumentParser

from pyro_ext.cli.errors import naming_options
from pyro_ext.cli.parsing import command_parser, option_names, parse
from pyro_ext.cli.tree_options import add_tree_options

__all__ = ["TASKS", "run"]

_METHODS = ("auto", "em", "simple_average", "maximum_likelihood")

_HELP = """\
usage: pyro-ext sbn fit|evaluate|sample|summarize [options]

Subsplit Bayesian networks: distributions of tree topologies learnt from samples of trees.

tasks:
  fit        fit a network to trees
  evaluate   compare a network with a reference sample of trees
  sample     draw trees from a network
  summarize  most probable trees, point estimates and credible set of a network

pyro-ext sbn TASK --help lists the options of a task."""


def run(words: Sequence[str]) -> int:
    """Run one task.

    Args:
        words: what follows ``sbn``: the name of a task and its options.

    Raises:
        ValueError: if an option or the content of a file is wrong; nothing has been written then.
        OSError: if a file cannot be read or written.
    """
    if words and words[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    known = ", ".join(TASKS)
    if not words or words[0].startswith("-"):
        raise ValueError(f"sbn needs a task before its options: one of {known}")
    task = words[0]
    if task not in TASKS:
        raise ValueError(f"sbn has no task {task!r}; choose one of {known}")
    parser = TASKS[task]()
    options = parse(parser, (), words[1:])
    from pyro_ext.cli.sbn.evaluation import evaluate
    from pyro_ext.cli.sbn.summary import summarize
    from pyro_ext.cli.sbn.tasks import fit, sample

    with naming_options(option_names(parser)):
        {"fit": fit, "evaluate": evaluate, "sample": sample, "summarize": summarize}[task](options)
    return 0


def _fit_parser() -> ArgumentParser:
    parser = command_parser(
        "pyro-ext sbn fit TREES... --out FILE.npz [options]",
        "Fit a network to trees and write it, with a plot of its probabilities beside it.",
    )
    parser.add_argument("trees", nargs="+", help="files of trees: Newick or NEXUS (.trprobs, .t, .trees), also .gz")
    parser.add_argument("--out", required=True, help="the .npz file to write; a plot goes beside it as .png")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_reading(parser)
    group = parser.add_argument_group("estimation")
    group.add_argument(
        "--method",
        choices=_METHODS,
        default=None,
        help="how the probabilities are estimated: em for unrooted trees, maximum_likelihood for rooted ones, "
        "simple_average for both; by default em or maximum_likelihood, as the trees are; auto tries those that the "
        "trees allow, with an alpha of 0, 0.0001, 0.001, 0.01 and 0.1, takes the one under which held-out trees are "
        "most probable, in 5 folds, and prints what it chose",
    )
    group.add_argument(
        "--alpha",
        type=float,
        default=0.0,
        help="the strength of the Dirichlet prior; simple_average has none, auto chooses it",
    )
    group.add_argument(
        "--prior",
        choices=("uniform", "empirical"),
        default="uniform",
        help="the pseudo-counts of that prior: alike for all splits of a clade, or in the proportions of the simple "
        "average",
    )
    group.add_argument("--max_iterations", type=int, default=1000, help="the largest number of iterations of em")
    group.add_argument("--min_iterations", type=int, default=52, help="the smallest number of iterations of em")
    group.add_argument(
        "--tolerance", type=float, default=1e-5, help="em stops where its objective gains less than this"
    )
    return parser


def _evaluate_parser() -> ArgumentParser:
    parser = command_parser(
        "pyro-ext sbn evaluate FILE.npz --golden TREES... [options]",
        "Compare a network with a reference sample: divergence, dispersion, coverage, most probable trees, plots.",
    )
    parser.add_argument("network", help="a file written by pyro-ext sbn fit")
    parser.add_argument("--golden", nargs="+", required=True, help="files of the reference sample, of equal weight")
    parser.add_argument(
        "--sample",
        nargs="+",
        default=None,
        help="files of a short sample, such as the trees the network was fitted to; its frequencies are put beside",
    )
    parser.add_argument(
        "--floor",
        type=float | None,
        default=None,
        help="the least probability a tree is taken to have",
    )
    parser.add_argument("--unnormalized", action="store_true", help="leave the weights of the files as they are")
    parser.add_argument(
        "--counts",
        type=int | None,
        default=None,
        help="the number of trees in the sample behind each file, whose weights are rounded to counts of it",
    )
    parser.add_argument(
        "--top",
        type=int,
        default=10,
        help="how many of the network's most probable trees to print, exact; fewer where no more can be proved",
    )
    parser.add_argument("--out", type=str | None, default=None, help="a folder for report.md, trees.csv and the plots")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_reading(parser)
    return parser


def _sample_parser() -> ArgumentParser:
    parser = command_parser("pyro-ext sbn sample FILE.npz --out TREES [options]", "Draw trees from a network.")
    parser.add_argument("network", help="a file written by pyro-ext sbn fit")
    parser.add_argument("--num", type=int, default=1000, help="the number of trees")
    parser.add_argument("--out", required=True, help="the file: .nwk, .nex, either with .gz; a plot goes beside it")
    parser.add_argument("--distinct", action="store_true", help="draw without replacement, weighed by probability")
    parser.add_argument("--seed", type=int | None, default=None, help="repeats a draw; by default drawn, and printed")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _summarize_parser() -> ArgumentParser:
    parser = command_parser(
        "pyro-ext sbn summarize FILE.npz [options]",
        "Print the most probable trees, the point estimates and the entropy of a network, and write its credible set; "
        "all exact, without a draw.",
    )
    parser.add_argument("network", help="a file written by pyro-ext sbn fit")
    parser.add_argument("--level", type=float, default=0.95, help="the probability of the credible set, at most 1")
    parser.add_argument("--top", type=int, default=10, help="how many of its most probable trees to print")
    parser.add_argument(
        "--limit",
        type=int,
        default=500_000,
        help="the largest number of rooted trees to look at, some 80 microseconds each, until the set is proved",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="a folder for credible_set.nwk and .csv, map.nwk and mcc.nwk, trees with probabilities, and report.md",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _add_reading(parser: ArgumentParser) -> None:
    for name, text in (
        ("--rooted", "whether the roots of the trees count; by default as the files say"),
        ("--progress", "whether to show a progress bar; by default on a terminal"),
    ):
        parser.add_argument(name, type=bool | None, default=None, metavar="{true,false}", help=text)
    parser.add_argument("--seed", type=int, default=0, help="the seed by which multifurcations are resolved")
    add_tree_options(parser)


TASKS: Mapping[str, Callable[[], ArgumentParser]] = MappingProxyType(
    {"fit": _fit_parser, "evaluate": _evaluate_parser, "sample": _sample_parser, "summarize": _summarize_parser}
)
"""Name of a task -> the function that makes its parser."""
