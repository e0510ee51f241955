"""The options of commands that read files of trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["add_tree_options", "reading_options"]

_POLYTOMIES = ("refuse", "random", "zero_length", "all", "skip")


def add_tree_options(parser: ArgumentParser, weights: bool = True) -> None:
    """Add the options that say which trees of a file count, and how.

    Args:
        parser: the parser of the command.
        weights: whether weights matter to the command; without, they are not read.
    """
    group = parser.add_argument_group("trees")
    group.add_argument(
        "--burnin",
        type=int | float,
        default=0,
        help="what to leave out at the beginning of each file: a number of trees, or a share such as 0.25",
    )
    group.add_argument("--thin", type=int, default=1, help="of the trees behind the burn-in, keep every THIN-th")
    if weights:
        group.add_argument(
            "--weights",
            type=bool,
            default=True,
            metavar="{true,false}",
            help="whether weights in the files count; with false, each tree counts once",
        )
    group.add_argument(
        "--polytomies",
        choices=_POLYTOMIES,
        default="refuse",
        help="trees with multifurcations are refused; resolved at random by the seed, in the same way always, or in "
        "all ways of equal weight, by branches of length 0; or skipped",
    )
    group.add_argument(
        "--allow_truncated",
        action="store_true",
        help="read a file up to its last whole tree, as while a sampler is still writing it",
    )


def reading_options(options: Namespace, seed: int) -> dict[str, Any]:
    """Return the arguments of :func:`~pyro_ext.phylo.read_trees` that these options stand for.

    Args:
        options: the options of the command.
        seed: the seed of random resolutions.
    """
    return {
        "burnin": options.burnin,
        "thin": options.thin,
        "weights": options.get("weights", False),
        "polytomies": options.polytomies,
        "seed": seed,
        "allow_truncated": options.allow_truncated,
    }
