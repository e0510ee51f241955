"""What comes out of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_ext.inference.training.plan import TrainingPlan

__all__ = ["FitResult", "FitWarning", "frame_of_history"]


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

    def to_frame(self) -> Any:
        """Return the history as a ``pandas.DataFrame``: one row for each epoch, a column for each metric.

        Metrics that were not computed in an epoch are not a number there. The index is the epoch.

        Raises:
            ImportError: if pandas is not installed.

        Example:
            >>> rows = [{"epoch": 1, "step": 10, "train_loss": 2.5}]
            >>> rows += [{"epoch": 2, "step": 20, "train_loss": 2.0, "loss": 1.0}]
            >>> FitResult({}, rows, plan=None, seed=0).to_frame()
                   step  train_loss  loss
            epoch
            1        10         2.5   NaN
            2        20         2.0   1.0
        """
        return frame_of_history(self.history)


def frame_of_history(history: Sequence[dict[str, float]]) -> Any:
    """Return rows of metrics as a ``pandas.DataFrame`` whose index is the epoch.

    Args:
        history: one row of metrics for each epoch.

    Raises:
        ImportError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_frame needs pandas: pip install pandas") from error
    names = dict.fromkeys(name for row in history for name in row)
    frame = pandas.DataFrame([*history], columns=["epoch", *(name for name in names if name != "epoch")])
    whole = [name for name in ("epoch", "step") if name in frame]
    return frame.astype(dict.fromkeys(whole, "int64")).set_index("epoch")
