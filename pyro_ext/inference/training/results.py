"""What comes out of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pyro_ext.inference.training.plan import TrainingPlan

__all__ = ["FitResult", "FitWarning"]


class FitWarning(UserWarning):
    """Training has ended in a way that is likely not what was wanted; the message says how to go on."""


@dataclass
class FitResult:
    """What came out of a run.

    Args:
        metrics: the last epoch's mean losses (``train_...``) and held-out metrics, and those on the test data, named
            ``test_...``.
        history: one row of metrics per epoch, with ``epoch``, ``step`` and ``seconds``.
        plan: what was trained; call its model and guide within ``local_params()``.
        seed: the seed that repeats the run.
        checkpoint: the last checkpoint, if there is a folder.
        metrics_file: the history as CSV, if there is a folder.
        warnings: what the plan's diagnosis of the metrics says.
    """

    metrics: dict[str, float]
    history: list[dict[str, float]]
    plan: TrainingPlan
    seed: int
    checkpoint: Path | None = None
    metrics_file: Path | None = None
    warnings: list[str] = field(default_factory=list)
