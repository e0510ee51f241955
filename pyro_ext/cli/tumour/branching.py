"""``pyro-ext tumour branching``: the probability that the phylogeny of a mutation matrix has branches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from pyro_ext.cli.parsing import command_parser
from pyro_ext.utils.files import write_text
from pyro_ext.utils.tables import markdown_table

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from torch import nn

    from pyro_ext.models.tumour.prediction import LabelProbability
    from pyro_ext.phylo import MutationMatrix, OptimalPhylogeny

__all__ = ["parser", "run"]

_TITLE = "cells in rows, mutations in columns, those of many cells first"


def parser() -> ArgumentParser:
    """Return the parser of the task."""
    made = command_parser(
        "pyro-ext tumour branching MATRIX --run FOLDER [options]",
        "The probability that the phylogeny of a mutation matrix has branches, by a network trained with 'pyro-ext fit "
        "tumour_branching --out FOLDER'.",
    )
    add_input(made, "tumour_branching")
    made.add_argument(
        "--samples",
        type=int,
        default=200,
        help="the number of random samples of cells and mutations, where the matrix is larger than the network takes",
    )
    made.add_argument("--seed", type=int, default=0, help="the seed of these samples")
    return made


def add_input(made: ArgumentParser, model: str) -> None:
    """Add the options that all tasks have.

    Args:
        made: the parser.
        model: the model that the run must be of.
    """
    made.add_argument(
        "matrix",
        help="a table with a row for each cell and a column for each mutation, commas or tabs, with names or without: "
        "0, 1, and 3 or NA for missing entries",
    )
    made.add_argument("--run", required=True, help=f"the folder of a run of {model}")
    made.add_argument(
        "--out", type=str | None, default=None, help="a folder for report.md, a plot of the matrix and one of the tree"
    )
    made.add_argument("--overwrite", action="store_true", help="replace files that exist")
    made.add_argument(
        "--false_positive",
        type=float,
        default=0.001,
        help="the probability that a 0 is observed as 1, by which the most probable tree is found",
    )
    made.add_argument(
        "--false_negative", type=float, default=0.1, help="the probability that a 1 is observed as 0, in the same way"
    )
    made.add_argument(
        "--tree",
        type=bool,
        default=True,
        metavar="{true,false}",
        help="whether to look for that tree, which takes seconds to minutes, and for some large matrices does not end",
    )


def run(options: Namespace) -> None:
    """Print the probability, and write report and plots if asked."""
    from pyro_ext.models.tumour.prediction import predict_label
    from pyro_ext.phylo import read_mutations

    out = new_folder(options.out, options.overwrite)
    matrix = read_mutations(options.matrix)
    network = _network(options.run)
    result = predict_label(network, matrix.values, options.samples, options.seed)
    facts = _facts(options.matrix, matrix, result)
    optimum = None if out is None else best_tree(matrix, options)
    width = max(len(name) for name, _ in facts) + 1
    print("\n".join(f"{name + ':':<{width}} {value}" for name, value in facts))
    if any(result.padded):
        print(
            "the network was not trained on matrices filled up with zeros, of which it may say anything: train one for "
            "this size (--data.cells, --data.mutations), or one that takes any size (--model.network pairs)"
        )
    if out is not None:
        _write(out, matrix, facts, optimum, options)
        print(f"results are in {out}")


def new_folder(name: str | None, overwrite: bool) -> Path | None:
    """Return the folder to write to, if there is one.

    Raises:
        ValueError: if it is a file, or not empty and not to be overwritten.
    """
    if name is None:
        return None
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out: {name!r} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"--out: {name!r} is not empty; choose another folder, or say --overwrite")
    return path


def _network(folder: str) -> nn.Module:
    from pyro_ext.datasets import SimulatedTumours
    from pyro_ext.inference import LossObjective, load_run
    from pyro_ext.models.tumour.programs import LabelGuide

    loaded = load_run(folder)
    objective = loaded.plan.players[0].objective
    guide = objective.modules_by_name["guide"] if isinstance(objective, LossObjective) else None
    tells = loaded.data.labels if isinstance(loaded.data, SimulatedTumours) else None
    if not isinstance(guide, LabelGuide) or tells != "branching":
        raise ValueError(f"--run: {folder!r} is no run of tumour_branching; train one with pyro-ext fit")
    network: nn.Module = guide.network
    return network


def _facts(path: str, matrix: MutationMatrix, result: LabelProbability) -> list[tuple[str, str]]:
    from pyro_ext.ops.mutations import count_conflicts, is_linear

    filled = matrix.filled()
    n, m = matrix.shape
    missing = int((~matrix.observed).sum())
    size = f"{n} cells x {m} mutations" + (f", {missing / (n * m):.1%} of the entries missing" if missing else "")
    fitted = []
    if any(result.sampled):
        fitted.append(f"{len(result.samples)} random samples of it, standard deviation {result.std:.3f}")
    if any(result.padded):
        fitted.append(f"filled up with zeros: {result.padded[0]} cells, {result.padded[1]} mutations")
    return [
        ("matrix", f"{path}, {size}"),
        ("pairs in conflict", f"{int(count_conflicts(filled))} of {m * (m - 1) // 2}"),
        ("exact test", "a chain of mutations" if bool(is_linear(filled)) else "branches, if nothing is an error"),
        ("seen by the network as", "; ".join(fitted) or "it is"),
        ("probability of branches", f"{result.probability:.4f}"),
    ]


def _write(
    out: Path,
    matrix: MutationMatrix,
    facts: list[tuple[str, str]],
    optimum: OptimalPhylogeny | None,
    options: Namespace,
) -> None:
    from pyro_ext.models.tumour.networks import sort_matrices
    from pyro_ext.plotting import finish, mutation_matrices, save

    out.mkdir(parents=True, exist_ok=True)
    plots = [
        save(
            finish(mutation_matrices(sort_matrices(matrix.values)), title=_TITLE, legend=False), out / "matrix.png"
        ).name
    ]
    if optimum is not None:
        draw_tree(out, optimum)
        plots.append("tree.png")
        flips = f"{optimum.gained} zeros taken as ones, {optimum.lost} ones as zeros"
        facts = [
            *facts,
            ("most probable tree", f"{optimum.negative_log_likelihood:.3f} nats, {flips}"),
            (
                "by rates of errors",
                f"false positives {options.false_positive:g}, false negatives {options.false_negative:g}",
            ),
        ]
    pictures = [f"![{name.removesuffix('.png')}]({name})" for name in plots]
    table = markdown_table(facts, ("", ""), left=(0, 1))
    write_text(out / "report.md", "\n\n".join(["# Branches in the phylogeny of a tumour", table, *pictures]) + "\n")


def best_tree(matrix: MutationMatrix, options: Namespace) -> OptimalPhylogeny | None:
    """Return the most probable matrix that has a tree, by the options of :func:`add_input`; None where none is wanted.

    Without the solver that finds it, a line says so.
    """
    from pyro_ext.phylo import maximum_likelihood_phylogeny

    if not options.tree:
        return None
    try:
        return maximum_likelihood_phylogeny(matrix, options.false_positive, options.false_negative)
    except ImportError as error:
        print(f"no tree is drawn: {error}")
        return None


def draw_tree(out: Path, optimum: OptimalPhylogeny) -> None:
    """Draw the tree of a matrix without conflicts as ``tree.png``, and write it as ``tree.nwk``.

    Args:
        out: the folder, which exists.
        optimum: the matrix.
    """
    from pyro_ext.phylo import perfect_phylogeny, phylogeny_newick
    from pyro_ext.plotting import clone_tree, save

    tree = perfect_phylogeny(optimum.matrix)
    save(clone_tree(tree), out / "tree.png")
    write_text(out / "tree.nwk", phylogeny_newick(tree) + "\n")
