"""What an estimation of the evidence returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["EvidenceEstimate", "EvidenceWarning"]


class EvidenceWarning(UserWarning):
    """An estimate came out but should not be relied on."""


@dataclass(frozen=True)
class EvidenceEstimate:
    """An estimate of the logarithm of the marginal likelihood, in nats.

    Args:
        log_evidence: the estimate; for a score the score, which compares models but estimates nothing.
        std_error: the Monte Carlo standard error of ``log_evidence``; ``nan`` where the method draws nothing, or
            returns a score.
        diagnostics: figures by name: ``ess`` (the effective number of draws), ``pareto_k`` (the tail index of the
            weights: above 0.5 their variance is infinite, above 0.7 the estimate is worthless), ``acceptance``,
            ``divergences``, ``r_hat``, ``powers`` and others, as the method has them.
        method: its name.
        is_score: whether this is a score and not an estimate.
        seconds: the time it took, shared parts included.

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

    def __repr__(self) -> str:
        error = "" if math.isnan(self.std_error) else f" +- {self.std_error:.3f}"
        label = f"{self.method}, a score" if self.is_score else self.method
        return f"EvidenceEstimate({label}: {self.log_evidence:.3f}{error})"
