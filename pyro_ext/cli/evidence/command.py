"""``pyro-ext evidence ALIGNMENT TREE``: the marginal likelihood of tree topologies, by one method or by many."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from pyro_ext.cli.commands import COMMANDS, Commands

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the parser."""
    from pyro_ext.inference.evidence.settings import EvidenceSettings

    parser = ArgumentParser(
        usage="pyro-ext evidence ALIGNMENT TREE (--method NAME ... | --all) [options]",
        description="Estimate the evidence, or marginal likelihood, of tree topologies: branch lengths and the process "
        "of substitution are integrated out. With several trees, their posterior probabilities follow.",
        exit_on_error=False,
    )
    parser.add_argument("alignment", help="aligned DNA sequences: FASTA, PHYLIP or NEXUS, also .gz")
    parser.add_argument("tree", help="one tree or several, Newick or NEXUS, also .gz; only topologies count")
    parser.add_argument("--method", action="append", default=[], help="a method; may be said several times")
    parser.add_argument("--all", action="store_true", help="all nineteen methods, but those that do not apply")
    _add_model(parser)
    parser.add_argument("--num_trees", type=int | None, default=None, help="take the first trees of the file only")
    parser.add_argument("--rooted", type=bool, default=False, help="whether the roots of the trees count")
    parser.add_argument("--seed", type=int | None, default=None, help="repeats a result; by default drawn, and printed")
    parser.add_argument("--threads", type=int | None, default=None, help="of PyTorch; by default as it chooses")
    parser.add_argument("--progress", type=bool | None, default=None, help="progress bars; by default on a terminal")
    parser.add_argument("--out", type=str | None, default=None, help="a folder for evidence.csv, report.md and a plot")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_class_arguments(EvidenceSettings, skip={"batch_size"}, instantiate=False)
    parser.add_argument(
        "--batch_size", type=int | None, default=None, help="trees evaluated at once; by default what caches hold"
    )
    commands.add_subcommand("evidence", parser, help=COMMANDS["evidence"].help)


def run(namespace: Namespace) -> int:
    """Estimate, print the table and write the results if asked.

    Raises:
        ValueError: if an option or a file is wrong, or a method does not apply; nothing has been written then.
        KeyboardInterrupt: on Ctrl-C, after the results of the trees done by then.
    """
    from pyro_ext.cli.evidence_job import Job

    try:
        job = Job.prepare(namespace)
        found = job.run()
        print(found.text())
        if job.out is not None:
            found.write(job.out)
            print(f"results are in {job.out}")
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        raise ValueError(f"{name}{error.strerror or error}") from error
    if found.interrupted:
        raise KeyboardInterrupt
    return 0


def _add_model(parser: ArgumentParser) -> None:
    from pyro_ext.models.phylo.process import FREQUENCIES, RATES, SUBSTITUTION_MODELS

    parser.add_argument("--substitution", choices=SUBSTITUTION_MODELS, default="JC69", help="the process (JC69)")
    parser.add_argument(
        "--frequencies",
        choices=FREQUENCIES,
        help="of the states, for HKY85 and GTR; by default as in the alignment (empirical)",
    )
    parser.add_argument("--rates", choices=RATES, default="constant", help="over sites (constant)")
    parser.add_argument("--num_categories", type=int, default=4, help="of the rates, if they vary")
    parser.add_argument("--invariant", action="store_true", help="a share of the sites never changes")
    parser.add_argument(
        "--branch_rate",
        type=float,
        default=10.0,
        help="of the exponential prior of branch lengths: 1 / their mean (10), from 1e-6 to 1e9",
    )
