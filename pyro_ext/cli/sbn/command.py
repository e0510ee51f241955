"""``pyro-ext sbn fit|evaluate|sample``: subsplit Bayesian networks from files of trees."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from pyro_ext.cli.commands import COMMANDS, Commands

__all__ = ["add_parser", "run"]

_METHODS = ("em", "simple_average", "maximum_likelihood")


def add_parser(commands: Commands) -> None:
    """Add the parser and those of the three tasks."""
    parser = ArgumentParser(
        usage="pyro-ext sbn fit|evaluate|sample [options]",
        description="Subsplit Bayesian networks: laws of tree topologies learnt from samples of trees.",
        exit_on_error=False,
    )
    commands.add_subcommand("sbn", parser, help=COMMANDS["sbn"].help)
    tasks = parser.add_subcommands(dest="task", metavar="TASK", required=True)
    tasks.add_subcommand("fit", _fit_parser(), help="fit a network to trees")
    tasks.add_subcommand("evaluate", _evaluate_parser(), help="compare a network with a reference sample of trees")
    tasks.add_subcommand("sample", _sample_parser(), help="draw trees from a network")


def run(namespace: Namespace) -> int:
    """Run one task.

    Raises:
        ValueError: if an option or a file is wrong; nothing has been written then.
    """
    from pyro_ext.cli.sbn_tasks import evaluate, fit, sample

    options = namespace[namespace.task]
    task = {"fit": fit, "evaluate": evaluate, "sample": sample}[namespace.task]
    try:
        task(options)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        raise ValueError(f"{name}{error.strerror or error}") from error
    return 0


def _fit_parser() -> ArgumentParser:
    parser = ArgumentParser(
        usage="pyro-ext sbn fit TREES... --out FILE.npz [options]",
        description="Fit a network to trees and write it, with a plot of its probabilities beside it.",
        exit_on_error=False,
    )
    parser.add_argument("trees", nargs="+", help="files of trees: Newick or NEXUS (.trprobs, .t, .trees), also .gz")
    parser.add_argument("--out", required=True, help="the .npz file to write; a plot goes beside it as .png")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--method", choices=_METHODS, default="em", help="em for unrooted trees, the default")
    parser.add_argument("--alpha", type=float, default=0.0, help="strength of the Dirichlet prior, for em")
    parser.add_argument(
        "--prior",
        choices=("uniform", "empirical"),
        default="uniform",
        help="its pseudo-counts: alike for all splits of a clade, or in the proportions of the simple average",
    )
    parser.add_argument("--max_iterations", type=int, default=1000, help="of em, at most")
    parser.add_argument("--min_iterations", type=int, default=52, help="of em, at least")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="em stops where the objective gains less")
    _add_reading(parser)
    return parser


def _evaluate_parser() -> ArgumentParser:
    parser = ArgumentParser(
        usage="pyro-ext sbn evaluate FILE.npz --golden TREES... [options]",
        description="Compare a network with a reference sample: divergence, coverage, most probable trees, a plot.",
        exit_on_error=False,
    )
    parser.add_argument("network", help="a file by pyro-ext sbn fit")
    parser.add_argument("--golden", nargs="+", required=True, help="files of the reference sample, of equal weight")
    parser.add_argument(
        "--floor", type=float | None, default=None, help="the least probability a tree is taken to have (2.220446e-16)"
    )
    parser.add_argument("--unnormalized", action="store_true", help="leave the weights of the files as they are")
    parser.add_argument(
        "--counts", type=int | None, default=None, help="size of each file's sample: weights are rounded to its counts"
    )
    parser.add_argument("--top", type=int, default=10, help="how many of the most probable trees to print")
    parser.add_argument("--out", type=str | None, default=None, help="a folder for report.md, trees.csv and the plot")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_reading(parser)
    return parser


def _sample_parser() -> ArgumentParser:
    parser = ArgumentParser(
        usage="pyro-ext sbn sample FILE.npz --num N --out TREES [options]",
        description="Draw trees from a network.",
        exit_on_error=False,
    )
    parser.add_argument("network", help="a file by pyro-ext sbn fit")
    parser.add_argument("--num", type=int, default=1000, help="how many trees")
    parser.add_argument("--out", required=True, help="the file: .nwk, .nex, either with .gz; a plot goes beside it")
    parser.add_argument("--distinct", action="store_true", help="without replacement, weighed by their probabilities")
    parser.add_argument("--seed", type=int | None, default=None, help="repeats a draw; by default drawn, and printed")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    return parser


def _add_reading(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rooted", type=bool | None, default=None, help="whether the roots count; by default as the files say"
    )
    parser.add_argument("--progress", type=bool | None, default=None, help="a progress bar; by default on a terminal")
