"""``pyro-ext evidence ALIGNMENT TREE``: the marginal likelihood of tree topologies, by one method or by many."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from pyro_ext.cli.errors import naming_options
from pyro_ext.cli.parsing import command_parser, option_names, parse
from pyro_ext.cli.tree_options import add_tree_options

__all__ = ["evidence_parser", "run"]


def run(words: Sequence[str]) -> int:
    """Estimate, print the table and write the results if asked.

    Args:
        words: what follows ``evidence``.

    Raises:
        ValueError: if an option or a file is wrong, or a method does not apply; nothing has been written then.
        OSError: if a file cannot be read or written.
        KeyboardInterrupt: on Ctrl-C, after the results of the trees done by then.
    """
    parser = evidence_parser()
    options = parse(parser, (), words)
    from pyro_ext.cli.evidence.job import Job

    with naming_options(option_names(parser)):
        job = Job.prepare(options)
        report = job.run()
    print(report.text())
    if job.out is not None:
        report.write(job.out)
        print(f"results are in {job.out}")
    if report.interrupted:
        raise KeyboardInterrupt
    return 0


def evidence_parser() -> ArgumentParser:
    """Return the parser of everything that can be said after ``evidence``."""
    parser = command_parser(
        "pyro-ext evidence ALIGNMENT TREE (--method NAME ... | --all) [options]",
        "Estimate the evidence, or marginal likelihood, of tree topologies: branch lengths and the process of "
        "substitution are integrated out. With several trees, their posterior probabilities follow.",
    )
    parser.add_argument("alignment", help="aligned DNA sequences: FASTA, PHYLIP or NEXUS, also .gz")
    parser.add_argument("tree", help="one tree or several, Newick or NEXUS, also .gz; only topologies count")
    parser.add_argument("--method", action="append", default=[], help="a method; may be given several times")
    parser.add_argument("--all", action="store_true", help="all nineteen methods, but those that do not apply")
    parser.add_argument("--out", type=str | None, default=None, help="a folder for evidence.csv, report.md and a plot")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--num_trees", type=int | None, default=None, help="take the first trees of the file only")
    parser.add_argument(
        "--names",
        choices=("word", "joined", "ten"),
        default="word",
        help="names in the alignment end at a blank, are a whole line of FASTA, or ten characters of PHYLIP",
    )
    parser.add_argument("--rooted", type=bool, default=False, help="whether the roots of the trees count")
    add_tree_options(parser, weights=False)
    parser.add_argument("--seed", type=int | None, default=None, help="repeats a result; by default drawn, and printed")
    parser.add_argument(
        "--threads", type=int | None, default=None, help="the number of threads of PyTorch; by default as it chooses"
    )
    parser.add_argument(
        "--progress",
        type=bool | None,
        default=None,
        metavar="{true,false}",
        help="whether to show progress bars; by default on a terminal",
    )
    _add_model(parser)
    _add_settings(parser)
    return parser


def _add_model(parser: ArgumentParser) -> None:
    from pyro_ext.models.phylo.process import FREQUENCIES, RATES, SUBSTITUTION_MODELS

    group = parser.add_argument_group("model of substitution")
    group.add_argument(
        "--substitution", choices=SUBSTITUTION_MODELS, default="JC69", help="how nucleotides replace one another"
    )
    group.add_argument(
        "--frequencies",
        choices=FREQUENCIES,
        help="the frequencies of the nucleotides, for HKY85 and GTR; by default empirical, as in the alignment",
    )
    group.add_argument("--rates", choices=RATES, default="constant", help="the distribution of rates over sites")
    group.add_argument("--num_categories", type=int, default=4, help="the number of categories of rates, if they vary")
    group.add_argument("--invariant", action="store_true", help="a proportion of the sites never changes")
    group.add_argument(
        "--branch_rate",
        type=float,
        default=10.0,
        help="the rate of the exponential prior of branch lengths, 1 / their mean, from 1e-6 to 1e9",
    )


def _add_settings(parser: ArgumentParser) -> None:
    from pyro_ext.inference.evidence import EvidenceSettings

    group = parser.add_argument_group("settings of the methods")
    group.add_class_arguments(EvidenceSettings, as_group=False, skip={"batch_size"}, instantiate=False)
    group.add_argument(
        "--batch_size",
        type=int | None,
        default=None,
        help="the number of trees evaluated at once; by default what the caches of the processor hold",
    )
