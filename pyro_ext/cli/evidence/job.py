"""What ``pyro-ext evidence`` does: read, check, estimate."""

from __future__ import annotations

import secrets
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from pyro_ext.cli.evidence.report import Report
from pyro_ext.cli.tree_options import reading_options
from pyro_ext.inference.evidence import (
    EVIDENCE_METHODS,
    EvidenceComparison,
    EvidenceSettings,
    EvidenceWarning,
    compare_evidence,
)
from pyro_ext.inference.evidence.methods import method_named
from pyro_ext.models.phylo import FixedTopology, Process
from pyro_ext.phylo import Alignment, TreeSet, read_trees
from pyro_ext.phylo.alignment_files import read_alignment
from pyro_ext.utils.checks import optional_positive_int
from pyro_ext.utils.files import check_folder

if TYPE_CHECKING:
    from jsonargparse import Namespace

__all__ = ["Job"]

_IN_CACHE = 800_000  # taxa times patterns times trees that are evaluated at once without slowing one another down
_SMALLEST_BATCH = 8


@dataclass(frozen=True)
class Job:
    """An estimation whose options and files have been checked.

    Args:
        alignment: the aligned sequences.
        trees: distinct topologies over the taxa of the alignment.
        models: a model for each topology.
        methods: the methods to estimate by; all that apply if None.
        settings: the settings of the methods.
        seed: the seed of all estimates.
        progress: whether to show progress bars.
        out: the folder of results, if any.
        facts: what was estimated from what, by name, for the report.
    """

    alignment: Alignment
    trees: TreeSet
    models: Sequence[FixedTopology]
    methods: Sequence[str] | None
    settings: EvidenceSettings
    seed: int
    progress: bool
    out: Path | None
    facts: dict[str, str]

    @classmethod
    def prepare(cls, options: Namespace) -> Job:
        """Read the files and check the options.

        Raises:
            ValueError: if something is wrong with them.
            OSError: if a file cannot be opened.
        """
        methods = _methods(options)
        out = None if options.out is None else _folder(options.out, options.overwrite)
        optional_positive_int("--num_trees", options.num_trees)
        if optional_positive_int("--threads", options.threads) is not None:
            torch.set_num_threads(options.threads)
        process = Process(
            options.substitution, options.frequencies, options.rates, options.num_categories, options.invariant
        )
        alignment = read_alignment(options.alignment, names=options.names)
        settings = _settings(options, alignment)
        seed = secrets.randbelow(2**31) if options.seed is None else options.seed
        trees = _trees(options, alignment, seed)
        models = [FixedTopology(alignment, tree, process, options.branch_rate) for tree in trees.parents]
        facts = {
            "alignment": f"{options.alignment}, {alignment.num_taxa} taxa, {alignment.num_sites:,} sites",
            "trees": f"{options.tree}, {len(trees)} {'rooted' if trees.rooted else 'unrooted'}",
            "process": _described(process),
            "branch lengths": f"independent, exponential with mean {1 / options.branch_rate:g}",
            "settings": _changed(settings) or "all defaults",
            "seed": str(seed),
        }
        progress = sys.stderr.isatty() if options.progress is None else options.progress
        return cls(alignment, trees, models, methods, settings, seed, progress, out, facts)

    def run(self) -> Report:
        """Estimate the evidence of every tree.

        A method that fails on a tree does not affect the others; on Ctrl-C the trees done by then are reported.

        Raises:
            ValueError: if a method does not apply, or no method has an estimate for any tree.
            KeyboardInterrupt: on Ctrl-C before the first tree is done.
        """
        comparisons: list[EvidenceComparison] = []
        notes: list[str] = []
        with tqdm(total=len(self.models), desc="trees", disable=not self.progress or len(self.models) == 1) as bar:
            for number, model in enumerate(self.models, 1):
                label = f"tree {number}: " if len(self.models) > 1 else ""
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", EvidenceWarning)
                    try:
                        comparison = self._compare(model)
                    except KeyboardInterrupt:
                        if not any(comparisons):
                            raise
                        notes.append(f"interrupted: {number - 1} of {len(self.models)} trees are done")
                        break
                comparisons.append(comparison)
                texts = _texts(caught) if comparison else [next(iter(comparison.refused.values()))]
                notes += [label + text for text in texts]
                bar.update(1)
        if not any(comparisons):
            raise ValueError(notes[0])
        interrupted = len(comparisons) < len(self.models)
        return Report(self.trees.to_newick()[: len(comparisons)], comparisons, notes, self.facts, interrupted)

    def _compare(self, model: FixedTopology) -> EvidenceComparison:
        try:
            return compare_evidence(
                model, methods=self.methods, settings=self.settings, seed=self.seed, progress=self.progress
            )
        except ValueError as error:
            return EvidenceComparison({}, dict.fromkeys(self.methods or EVIDENCE_METHODS, str(error)))


def _methods(options: Namespace) -> list[str] | None:
    """Return the methods asked for, each once; None for all that apply."""
    if options.all and options.method:
        raise ValueError("give either --method NAME, once or several times, or --all")
    if not options.all and not options.method:
        raise ValueError("give --method NAME, once or several times, or --all")
    for name in options.method:
        method_named(name)
    return list(dict.fromkeys(options.method)) or None


def _settings(options: Namespace, alignment: Alignment) -> EvidenceSettings:
    own = {field.name: options[field.name] for field in fields(EvidenceSettings)}
    if options.batch_size is None:
        fitting = _IN_CACHE // (alignment.num_taxa * alignment.num_patterns)
        own["batch_size"] = min(max(fitting, _SMALLEST_BATCH), EvidenceSettings().batch_size)
    return EvidenceSettings(**own)


def _trees(options: Namespace, alignment: Alignment, seed: int) -> TreeSet:
    """Return the distinct topologies of the file, those of the alignment's taxa."""
    trees = read_trees(options.tree, rooted=options.rooted, **reading_options(options, seed))
    if trees.taxa != alignment.taxa:
        only = sorted({*trees.taxa} ^ {*alignment.taxa})
        where = {name: "tree" if name in trees.taxa else "alignment" for name in only}
        shown = ", ".join(f"{name!r} is only in the {where[name]}" for name in only[:3])
        more = f" and {len(only) - 3} more" if len(only) > 3 else ""
        raise ValueError(f"{options.alignment} and {options.tree} have different taxa: {shown}{more}")
    lengths = trees.branch_lengths
    if lengths is not None and bool((lengths < 0).any()):
        row, column = (lengths < 0).nonzero()[0].tolist()
        raise ValueError(
            f"{options.tree}, tree {row + 1}: branch length {lengths[row, column]:g} is negative; repair the file, or "
            "take the lengths out, since only topologies count"
        )
    return trees[: options.num_trees].unique()


def _folder(name: str, overwrite: bool) -> Path:
    folder = check_folder("out", name)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"--out: {name!r} is not empty; choose another folder, or say --overwrite")
    return folder


def _described(process: Process) -> str:
    free = process.free_parameters
    parts = [process.substitution, f"{process.rates} rates"]
    if process.rates != "constant":
        parts[1] += f" in {process.num_categories} categories"
    if process.frequencies is not None:
        parts.insert(1, f"{process.frequencies} frequencies")
    return ", ".join(parts) + (f"; integrated out: {', '.join(free)}" if free else "")


def _changed(settings: EvidenceSettings) -> str:
    usual = EvidenceSettings()
    own = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return ", ".join(f"{name}={value}" for name, value in own.items() if value != getattr(usual, name))


def _texts(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return what the estimators warned of; other warnings are passed on."""
    texts = []
    for warning in caught:
        if issubclass(warning.category, EvidenceWarning):
            texts.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return list(dict.fromkeys(texts))
