"""What comes out of a run, and training itself as one function."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_ext.inference.training.plan import TrainingPlan
from pyro_ext.inference.training.settings import FitSettings

__all__ = ["FitResult", "FitWarning", "fit"]


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


def fit(
    plan: TrainingPlan,
    data: Any,
    settings: FitSettings | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **trainer: Any,
) -> FitResult:
    """Train what a plan describes, under Lightning's Trainer.

    A run repeats exactly for a given seed, also when it was interrupted and resumed in between: from the last completed
    epoch, or from the last step at which there was a checkpoint.

    Args:
        plan: who minimises what; ``TrainingPlan.of(model, guide, elbo)`` for a model and a guide.
        data: :class:`~pyro_ext.datasets.Splits`; a mapping with ``"train"`` and perhaps ``"valid"`` and ``"test"``;
            arrays, a dataset or a DataLoader, which is all for training then.
        settings: epochs, batch size, seed and the like; ``FitSettings()`` if None.
        out: the folder for checkpoint and metrics; without it nothing is written.
        resume: whether to continue the run in ``out``.
        overwrite: whether to replace a run in ``out``; its files are removed when training begins.
        **trainer: flags of :class:`lightning.pytorch.Trainer` (``accelerator``, ``devices``, ``strategy``,
            ``callbacks``, ``logger``, ``check_val_every_n_epoch``, ``gradient_clip_val``, ...).

    Returns:
        Metrics, their history and the trained plan.

    Raises:
        ValueError: if an argument is wrong, ``out`` is not empty and neither ``resume`` nor ``overwrite`` is set, there
            is nothing to resume, or a plate draws its own subsample although there are several processes.
        ImportError: if Lightning is not installed.
        KeyboardInterrupt: on Ctrl-C; ``out`` then holds a checkpoint to resume from.

    Example:
        >>> def model(x, y, index):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", 20, subsample=index):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> guide = pyro.infer.autoguide.AutoNormal(model)
        >>> plan = TrainingPlan.of(model, guide, pyro.infer.Trace_ELBO())
        >>> settings = FitSettings(max_epochs=2, batch_size=10, seed=0)
        >>> result = fit(plan, 3.0 + torch.randn(20), settings, enable_progress_bar=False)
        >>> len(result.history), sorted(result.metrics)
        (2, ['train_loss'])
    """
    try:
        import lightning.pytorch  # noqa: F401 - imported here: it is slow to import and not always installed
    except ImportError as error:
        raise ImportError("fit needs lightning: pip install 'pyro-ext[fit]'") from error
    from pyro_ext.inference.training.engine import prepare

    run = prepare(plan, data, settings, out=out, resume=resume, overwrite=overwrite, **trainer)
    return run.train()
