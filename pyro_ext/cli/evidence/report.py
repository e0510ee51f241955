"""What ``pyro-ext evidence`` prints and leaves in its folder."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyro_ext.inference.evidence import EVIDENCE_METHODS, EvidenceComparison, EvidenceEstimate
from pyro_ext.plotting import plot_evidence, plot_topology_probabilities, save
from pyro_ext.utils.files import write_text
from pyro_ext.utils.tables import csv_table, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Report"]

_FIGURES = {"weight_ess": "ESS", "ess": "ESS", "pareto_k": "k", "r_hat": "R-hat", "divergences": "divergences"}
_MOST_IN_KEY = 12  # trees that the plot spells out
_LONGEST_IN_KEY = 90  # characters
_LONG = 1e9
_LEFT = ("method", "diagnostics", "")


@dataclass(frozen=True)
class Report:
    """Estimates of the evidence of one topology or of several.

    Args:
        newick: the topologies as Newick text.
        comparisons: the estimates for each topology.
        warnings: what the methods warned of.
        facts: what was estimated from what, by name.
        interrupted: whether there were further topologies, which were not reached.
    """

    newick: Sequence[str]
    comparisons: Sequence[EvidenceComparison]
    warnings: Sequence[str]
    facts: Mapping[str, str]
    interrupted: bool = False

    @property
    def methods(self) -> list[str]:
        """The methods that have an estimate for some topology."""
        return [*dict.fromkeys(name for comparison in self.comparisons for name in comparison)]

    def probabilities(self, method: str) -> list[float] | None:
        """Return the posterior probabilities of the topologies by a method, given equal prior probabilities.

        A score takes the place of the evidence where the method is one. The result is None where the method has no
        estimate for one of the topologies.
        """
        if not all(method in comparison for comparison in self.comparisons):
            return None
        values = [comparison[method].log_evidence for comparison in self.comparisons]
        return torch.tensor(values, dtype=torch.float64).softmax(0).tolist()

    def text(self) -> str:
        """Return everything as lines to print."""
        lines = [f"{name + ':':<16}{value}" for name, value in self.facts.items()]
        if len(self.newick) > 1:
            lines += ["", *(f"tree {i}: {newick}" for i, newick in enumerate(self.newick, 1))]
        lines += ["", self.table(), *(["", *self._legend()] if self._legend() else [])]
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)

    def table(self) -> str:
        """Return a Markdown table with straight columns, the topologies of a method below one another."""
        header = ["method", "tree", "log evidence", "std. error", "probability", "seconds", "diagnostics", ""]
        rows = [self._cells(*place) for place in self._places()]
        if len(self.newick) == 1:
            header, *rows = ([cell for i, cell in enumerate(line) if i not in (1, 4)] for line in [header, *rows])
        return markdown_table(rows, header, [at for at, name in enumerate(header) if name in _LEFT])

    def csv(self) -> str:
        """Return everything as comma-separated values, all figures of diagnostics included."""
        return csv_table([self._values(*place) for place in self._places()])

    def markdown(self) -> str:
        """Return a report."""
        parts = ["# The evidence of tree topologies", self.table(), *self._legend()]
        parts += ["\n".join(f"- {text}" for text in self.warnings)] if self.warnings else []
        parts += ["![evidence](evidence.png)", "\n".join(f"- {name}: {value}" for name, value in self.facts.items())]
        parts += ["\n".join(f"{i}. `{newick}`" for i, newick in enumerate(self.newick, 1))]
        return "\n\n".join([*parts, "All digits and diagnostics are in `evidence.csv`."]) + "\n"

    def write(self, out: Path) -> None:
        """Write ``evidence.csv``, ``report.md`` and ``evidence.png`` into a folder."""
        out.mkdir(parents=True, exist_ok=True)
        complete = {name: shares for name in self.methods if (shares := self.probabilities(name)) is not None}
        if len(self.newick) > 1 and complete:
            ax = self._probability_plot(complete)
        else:
            fullest = max(self.comparisons, key=len)
            scores = all(estimate.is_score for estimate in fullest.values())
            ax = plot_evidence(fullest, scores=scores, title="marginal likelihood of a tree topology, by each method")
        save(ax, out / "evidence.png")
        write_text(out / "evidence.csv", self.csv())
        write_text(out / "report.md", self.markdown())

    def _probability_plot(self, complete: Mapping[str, Sequence[float]]) -> Axes:
        """Plot the probabilities of the topologies, with what bounds and scores are, and a key to the trees."""
        remarks, errors = {}, {}
        for name, shares in complete.items():
            estimates = [comparison[name] for comparison in self.comparisons]
            if kind := _kind(name, estimates[0]):
                remarks[name] = f"from a {kind}"
            own = torch.tensor([estimate.std_error for estimate in estimates], dtype=torch.float64)
            if bool(own.isfinite().all()):
                p = torch.tensor(shares, dtype=torch.float64)
                slopes = p[:, None] * (torch.eye(len(p), dtype=p.dtype) - p)  # of probabilities by log-evidences
                errors[name] = (slopes * own).norm(dim=-1).tolist()
        key = [f"{i}: {newick}" for i, newick in enumerate(self.newick, 1)]
        is_short = len(key) <= _MOST_IN_KEY and max(map(len, key)) <= _LONGEST_IN_KEY
        title = "posterior probabilities of the topologies, if there are no others"
        return plot_topology_probabilities(
            complete, errors=errors, remarks=remarks, title=title, key=key if is_short else ["(trees: see report.md)"]
        )

    def _places(self) -> list[tuple[str, int]]:
        """Return the method and the topology of each estimate there is."""
        places = [(name, i) for name in self.methods for i in range(len(self.newick))]
        return [(name, i) for name, i in places if name in self.comparisons[i]]

    def _legend(self) -> list[str]:
        """Return what has to be known to read the table."""
        lines = ["Log evidences are in nats."]
        if any(estimate.is_score for comparison in self.comparisons for estimate in comparison.values()):
            lines[0] += " A score ranks topologies but estimates no evidence."
        if len(self.newick) > 1:
            lines[0] += " Probabilities hold if there are no other topologies, and all have equal prior probabilities."
        return lines + [f"- {text}" for text in self._missing()]

    def _missing(self) -> list[str]:
        """Return what has no estimate, and why."""
        lines = []
        for name in EVIDENCE_METHODS:
            reasons = {i: c.refused[name] for i, c in enumerate(self.comparisons, 1) if name in c.refused}
            if len(reasons) == len(self.newick) and len(set(reasons.values())) == 1:
                lines.append(f"{name}: {reasons[1]}")
            else:
                lines += [f"{name}, tree {i}: {reason}" for i, reason in reasons.items()]
        return lines

    def _cells(self, method: str, tree: int) -> list[str]:
        estimate, shares = self.comparisons[tree][method], self.probabilities(method)
        error = "-" if math.isnan(estimate.std_error) else f"{estimate.std_error:.4f}"
        return [
            method,
            str(tree + 1),
            f"{estimate.log_evidence:.4f}" if abs(estimate.log_evidence) < _LONG else f"{estimate.log_evidence:.6g}",
            error,
            "-" if shares is None else f"{shares[tree]:.4f}",
            f"{estimate.seconds:.2f}",
            _figures(estimate),
            _kind(method, estimate),
        ]

    def _values(self, method: str, tree: int) -> dict[str, str | float]:
        estimate, shares = self.comparisons[tree][method], self.probabilities(method)
        values: dict[str, str | float] = {"method": method, "tree": tree + 1, "topology": self.newick[tree]}
        values |= {"log_evidence": estimate.log_evidence, "std_error": estimate.std_error}
        values |= {"probability": math.nan if shares is None else shares[tree], "seconds": estimate.seconds}
        values |= {"is_score": str(estimate.is_score)}
        figures = {name: value for name, value in estimate.diagnostics.items() if isinstance(value, numbers.Real)}
        return values | {name: float(value) for name, value in figures.items()}


def _kind(method: str, estimate: EvidenceEstimate) -> str:
    return "score" if estimate.is_score else "lower bound" if estimate.is_lower_bound else ""


def _figures(estimate: EvidenceEstimate) -> str:
    """Return the diagnostics that tell most."""
    shown: dict[str, str] = {}
    for name, label in _FIGURES.items():
        value = estimate.diagnostics.get(name)
        if value is not None and label not in shown:
            shown[label] = f"{value:.2f}" if label in ("k", "R-hat") else f"{value:.0f}"
    return ", ".join(f"{label} {value}" for label, value in shown.items())
