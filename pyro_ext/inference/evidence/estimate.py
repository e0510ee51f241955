"""The results of evidence estimation: one estimate, or a comparison of several methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.utils.tables import markdown_table

__all__ = ["EvidenceComparison", "EvidenceEstimate"]

_HEADER = ("method", "log evidence", "std. error", "ESS", "seconds", "remark")


@dataclass(frozen=True)
class EvidenceEstimate:
    """An estimate of the logarithm of the marginal likelihood, in nats.

    Args:
        log_evidence: the estimate of the log-evidence, or a score that ranks models without estimating it.
        std_error: the Monte Carlo standard error of ``log_evidence``; ``nan`` for scores and for methods without
            random draws.
        diagnostics: diagnostics by name: ``ess`` (the effective number of draws), ``pareto_k`` (the tail index of the
            weights: above 0.5 their variance is infinite, above 0.7 the estimate is worthless), ``acceptance``,
            ``divergences``, ``r_hat``, ``powers`` and others. Each method has its own.
        method: the name of the method.
        is_score: whether ``log_evidence`` is a score and not an estimate.
        seconds: the time in seconds that the method takes when it is run alone.
        draws: draws from the posterior, with weights where they come from another distribution; None for methods
            without random draws.

    Example:
        >>> EvidenceEstimate(-12.3, 0.02, method="bridge")
        EvidenceEstimate(bridge: -12.300 +- 0.020)
    """

    log_evidence: float
    std_error: float = math.nan
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    is_score: bool = False
    seconds: float = math.nan
    draws: EvidenceDraws | None = field(default=None, repr=False, compare=False)

    @property
    def is_lower_bound(self) -> bool:
        """Whether the expectation of ``log_evidence`` lies below the log-evidence, whatever the number of draws."""
        return self.method == "elbo"

    def to_arviz(self, seed: int = 0) -> Any:
        """Return the draws as ArviZ keeps them, see :meth:`EvidenceDraws.to_arviz`; the estimate is in ``attrs``.

        Args:
            seed: the seed with which weighted draws are resampled.

        Returns:
            An ``arviz.InferenceData``; from version 1 of ArviZ on an ``xarray.DataTree``.

        Raises:
            ValueError: if the method makes no draws.
            ImportError: if ArviZ is not installed.
        """
        if self.draws is None:
            raise ValueError(
                f"{self.method or 'this estimate'} has no draws: use a method that draws, such as bridge, "
                "stepping_stone, nested_sampling or vbis"
            )
        numbers = {"log_evidence": self.log_evidence, "std_error": self.std_error}
        return self.draws.to_arviz(attrs={"method": self.method, **numbers}, seed=seed)

    def __repr__(self) -> str:
        error = "" if math.isnan(self.std_error) else f" +- {self.std_error:.3f}"
        label = f"{self.method}, a score" if self.is_score else self.method
        return f"EvidenceEstimate({label}: {self.log_evidence:.3f}{error})"


@dataclass(frozen=True)
class EvidenceComparison(Mapping[str, EvidenceEstimate]):
    """Estimates of the evidence of one model by several methods: a mapping from method to estimate.

    Args:
        estimates: the estimates by the name of the method.
        refused: for each method without an estimate the reason: it does not apply to the model, or it failed.
    """

    estimates: Mapping[str, EvidenceEstimate]
    refused: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, method: str) -> EvidenceEstimate:
        if method in self.refused:
            raise KeyError(f"there is no estimate by {method}: {self.refused[method]}")
        return self.estimates[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def to_markdown(self) -> str:
        """Return a Markdown table with one row for each method.

        Example:
            >>> estimates = {"ml": EvidenceEstimate(-1.5, method="ml", is_score=True, seconds=0.25)}
            >>> print(EvidenceComparison(estimates).to_markdown())
            | method | log evidence | std. error | ESS | seconds | remark |
            |:-------|-------------:|-----------:|----:|--------:|:-------|
            | ml     |      -1.5000 |          - |   - |    0.25 | score  |
        """
        rows = [_row(name, estimate) for name, estimate in self.estimates.items()]
        rows += [[name, "-", "-", "-", "-", reason] for name, reason in self.refused.items()]
        return markdown_table(rows, _HEADER, left=(0, len(_HEADER) - 1))


def _row(name: str, estimate: EvidenceEstimate) -> list[str]:
    error = "-" if math.isnan(estimate.std_error) else f"{estimate.std_error:.4f}"
    ess = estimate.diagnostics.get("weight_ess", estimate.diagnostics.get("ess"))
    remark = "score" if estimate.is_score else "lower bound" if name == "elbo" else ""
    return [
        name, f"{estimate.log_evidence:.4f}", error, "-" if ess is None else f"{ess:.0f}",
        f"{estimate.seconds:.2f}", remark,
    ]  # fmt: skip
