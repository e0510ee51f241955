"""``pyro-ext tumour denoise``: a mutation matrix without conflicts, by a trained network, and its tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from pyro_ext.cli.parsing import command_parser
from pyro_ext.utils.files import check_folder

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from pyro_ext.models.tumour.elimination import Denoised, FlipPolicy
    from pyro_ext.phylo import MutationMatrix

__all__ = ["parser", "run"]

_FILES = ("denoised.csv", "report.md", "matrices.png", "tree.nwk", "tree.png")


def parser() -> ArgumentParser:
    """Return the parser of the task."""
    made = command_parser(
        "pyro-ext tumour denoise MATRIX.csv --run FOLDER --out FOLDER [options]",
        "Flip entries of a mutation matrix until it has a perfect phylogeny, by a network that pyro-ext fit "
        "tumour_elimination has trained; write the matrix, its tree as Newick, and plots of both.",
    )
    made.add_argument(
        "matrix", help="a table of cells x mutations, with commas or tabs, names optional; 3 or NA is missing"
    )
    made.add_argument("--run", required=True, help="the folder of a run of pyro-ext fit tumour_elimination")
    made.add_argument("--out", required=True, help="the folder for the denoised matrix, the tree, plots and a report")
    made.add_argument("--overwrite", action="store_true", help="replace files that exist")
    for name, entry in (("false_positive", "0 is read as 1"), ("false_negative", "1 is read as 0")):
        made.add_argument(
            f"--{name}",
            type=float | None,
            default=None,
            help=f"the probability that a {entry}, in (0, 1); by default that of the run",
        )
    made.add_argument("--num_samples", type=int, default=128, help="the number of sequences of flips drawn")
    made.add_argument(
        "--temperature", type=float, default=3.0, help="what logits are divided by; 1 draws as the network was trained"
    )
    made.add_argument(
        "--max_flips", type=int | None, default=None, help="the largest number of flips; by default half of the entries"
    )
    made.add_argument(
        "--gamma",
        type=float | None,
        default=None,
        help="the weight of a nat in what the network sees; by default that of the run; 100 may help where one kind of "
        "error is much rarer than in the run, or the matrix is larger",
    )
    made.add_argument("--seed", type=int, default=0, help="the seed of the draws")
    return made


def run(options: Namespace) -> None:
    """Denoise a matrix, write the results and print a summary.

    Args:
        options: what :func:`parser` reads.

    Raises:
        ValueError: if an option or a file is wrong; nothing has been written then.
        OSError: if a file cannot be read or written.
    """
    import pyro

    from pyro_ext.models.tumour.elimination import denoise
    from pyro_ext.phylo import read_mutations

    out = check_folder("out", options.out)
    existing = [name for name in _FILES if (out / name).exists()]
    if existing and not options.overwrite:
        raise ValueError(f"out: {str(out / existing[0])!r} exists; --overwrite replaces it")
    matrix = read_mutations(options.matrix)
    policy = _policy(options.run)
    rates = tuple(
        getattr(policy, name) if getattr(options, name) is None else getattr(options, name)
        for name in ("false_positive", "false_negative")
    )
    pyro.set_rng_seed(options.seed)
    found = denoise(
        policy,
        matrix.values.unsqueeze(0),
        (rates[0], rates[1]),
        options.num_samples,
        options.temperature,
        options.max_flips,
        options.gamma,
    )
    text = _write(matrix, found, (float(rates[0]), float(rates[1])), out)
    print(f"{text}\n\nresults are in {out}")


def _policy(folder: str) -> FlipPolicy:
    """Return the network of a run."""
    from pyro_ext.inference import load_run
    from pyro_ext.models.tumour.elimination import FlipPolicy

    for player in load_run(folder).plan.players:
        for module in player.objective.modules():
            if isinstance(module, FlipPolicy):
                return module
    raise ValueError(f"run: {folder!r} is not a run of tumour_elimination; pyro-ext fit tumour_elimination makes one")


def _write(matrix: MutationMatrix, found: Denoised, rates: tuple[float, float], out: Path) -> str:
    """Write the files of a result and return the summary."""
    from pyro_ext.models.tumour.elimination import draw_flips
    from pyro_ext.ops.mutations import count_conflicts
    from pyro_ext.phylo import perfect_phylogeny, phylogeny_newick, write_mutations
    from pyro_ext.plotting import clone_tree, save
    from pyro_ext.utils.files import write_text
    from pyro_ext.utils.tables import markdown_table

    denoised = matrix.replace(found.matrix[0].to(matrix.values))
    gained = int(((denoised.values == 1) & (matrix.values == 0)).sum())
    lost = int(((denoised.values == 0) & (matrix.values == 1)).sum())
    missing = int((~matrix.observed).sum())
    left = int(found.conflicts)
    facts = [
        ("cells x mutations", " x ".join(map(str, matrix.shape))),
        ("missing entries", f"{missing}"),
        ("rates of false positives, false negatives", f"{rates[0]:g}, {rates[1]:g}"),
        ("pairs of mutations in conflict, missing entries read as 0", f"{int(count_conflicts(matrix.filled()))}"),
        ("after denoising", f"{left}"),
        ("entries read as 0 that are 1", f"{gained}"),
        ("entries read as 1 that are 0", f"{lost}"),
        ("negative log-likelihood", f"{float(found.neg_log_likelihood):.2f} nats"),
    ]
    width = max(len(name) for name, _ in facts) + 1
    lines = [f"{name + ':':<{width}} {value}" for name, value in facts]
    plots = ["![what was changed](matrices.png)"]
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
    write_mutations(denoised, out / "denoised.csv")
    save(draw_flips(matrix.values.unsqueeze(0), {"denoised": found.matrix}), out / "matrices.png")
    if left:
        lines.append(
            "conflicts are left, so that there is no tree: raise --num_samples or --max_flips, or train longer"
        )
    else:
        tree = perfect_phylogeny(denoised)
        write_text(out / "tree.nwk", phylogeny_newick(tree) + "\n")
        save(clone_tree(tree), out / "tree.png")
        plots.append("![the tree of clones](tree.png)")
    report = ["# A mutation matrix without noise", markdown_table(facts, ("", ""), left=(0, 1)), *plots]
    write_text(out / "report.md", "\n\n".join([*report, *lines[len(facts) :]]) + "\n")
    return "\n".join(lines)
