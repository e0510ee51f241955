"""What ``pyro-ext sbn evaluate`` prints and leaves in its folder."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pyro_ext.inference.fit.folder import write_atomically
from pyro_ext.phylo import TreeSet
from pyro_ext.phylo.support import Coverage
from pyro_ext.plotting import save, tree_probabilities

__all__ = ["Comparison", "write_comparison"]


@dataclass(frozen=True)
class Comparison:
    """A network beside a reference sample.

    Args:
        network: the file of the network.
        kl: the divergence of the network from the sample, in nats.
        floor: the least probability a tree was taken to have, if any.
        normalized: whether the sample's weights were scaled to sum to 1.
        coverage: how much of the sample the network's support holds.
        golden: the distinct trees of the sample.
        log_prob: their log-probabilities under the network.
        best: Newick, probability and frequency of the most probable trees found.
    """

    network: str
    kl: float
    floor: float | None
    normalized: bool
    coverage: Coverage
    golden: TreeSet
    log_prob: Tensor
    best: list[tuple[str, float, float]]

    def rows(self) -> list[tuple[str, str]]:
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

    def text(self) -> str:
        """Return everything as lines to print."""
        width = max(len(name) for name, _ in self.rows()) + 1
        lines = [f"{name + ':':<{width}} {value}" for name, value in self.rows()]
        if self.best:
            lines += ["", "probability  frequency  most probable trees"]
            lines += [
                f"{probability:>11.6f}  {frequency:>9.6f}  {newick}" for newick, probability, frequency in self.best
            ]
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return a report."""
        lines = ["# Subsplit Bayesian network against a reference sample", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in self.rows()]
        lines += ["", "![probabilities](probabilities.png)", "", "| probability | frequency | tree |", "|---|---|---|"]
        lines += [
            f"| {probability:.6f} | {frequency:.6f} | `{newick}` |" for newick, probability, frequency in self.best
        ]
        return "\n".join([*lines, ""])


def write_comparison(out: Path, found: Comparison) -> None:
    """Write ``report.md``, ``trees.csv`` and ``probabilities.png`` into a folder."""
    golden = found.golden
    frequency = golden.probabilities()
    plot = tree_probabilities(frequency, found.log_prob, xlabel="frequency in the reference sample")
    out.mkdir(parents=True, exist_ok=True)
    save(plot, out / "probabilities.png")
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["tree", "frequency", "log_prob"])
    writer.writerows(zip(golden.to_newick(), frequency.tolist(), found.log_prob.tolist(), strict=True))
    write_atomically(out / "trees.csv", table.getvalue())
    write_atomically(out / "report.md", found.markdown())
