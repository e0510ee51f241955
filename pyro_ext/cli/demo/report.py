"""What the demonstration writes: a table, a sentence for each rival, a curve, all losses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyro_ext.cli.machine import machine
from pyro_ext.utils.tables import csv_table, markdown_table

__all__ = ["Comparison", "Outcome", "compare", "curve", "metrics_csv", "report"]

_CLEAR = 3.0  # standard errors; a difference of fewer is called within the noise


@dataclass(frozen=True)
class Outcome:
    """One fitted model.

    Args:
        estimator: the name of the ELBO.
        seed: the seed of the run.
        train: the negative ELBO per training image (nats) of every epoch.
        valid: the negative ELBO per held-out image (nats) of every epoch.
        milliseconds: the median time of a step.
        checkpoint: the file of the fitted parameters, relative to the report.
        warnings: what is to be said of the fitted model, that its code has collapsed for example.
    """

    estimator: str
    seed: int
    train: Sequence[float]
    valid: Sequence[float]
    milliseconds: float
    checkpoint: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Final held-out losses of two estimators, over seeds.

    Args:
        means: the mean losses of the rival and of the candidate (nats).
        gain: how much lower the candidate's mean is; negative if it is higher.
        noise: the standard error of ``gain``, from the spread of the losses over seeds.
    """

    means: tuple[float, float]
    gain: float
    noise: float

    @property
    def ratio(self) -> float:
        """The gain in standard errors."""
        return self.gain / self.noise if self.noise > 0 else math.copysign(math.inf, self.gain)


def compare(rival: Sequence[float], candidate: Sequence[float]) -> Comparison:
    """Compare final losses of two or more seeds each.

    Args:
        rival: the losses of one estimator.
        candidate: the losses of the other one.

    Example:
        >>> comparison = compare([25.3, 25.1], [20.2, 20.4])
        >>> round(comparison.gain, 2), round(comparison.noise, 3), round(comparison.ratio, 1)
        (4.9, 0.141, 34.6)
    """
    first, second = statistics.fmean(rival), statistics.fmean(candidate)
    noise = math.sqrt(sum(statistics.variance(losses) / len(losses) for losses in (rival, candidate)))
    return Comparison((first, second), first - second, noise)


def metrics_csv(outcomes: Sequence[Outcome]) -> str:
    """Return all losses of all runs as comma-separated values, one row per epoch."""
    rows = [
        {
            "estimator": run.estimator,
            "seed": run.seed,
            "epoch": epoch,
            "train_neg_elbo": f"{train:.6f}",
            "valid_neg_elbo": f"{valid:.6f}",
        }
        for run in outcomes
        for epoch, (train, valid) in enumerate(zip(run.train, run.valid, strict=True), start=1)
    ]
    return csv_table(rows)


def curve(outcomes: Sequence[Outcome], path: Path) -> None:
    """Plot the held-out losses by epoch, mean and range over seeds, into a PNG file."""
    from pyro_ext.plotting import loss_curve, save

    losses = {name: np.array([run.valid for run in runs]) for name, runs in _by_estimator(outcomes).items()}
    ax = loss_curve(losses, ylabel="−ELBO per held-out image (nats)", title="estimators on an equal budget")
    save(ax, path)


def report(outcomes: Sequence[Outcome], setting: str, command: str) -> str:
    """Return the report as Markdown.

    Args:
        outcomes: the runs of all estimators, those of the one that the others are compared with last.
        setting: a paragraph on what was run.
        command: how to run it again.
    """
    final = {name: [run.valid[-1] for run in runs] for name, runs in _by_estimator(outcomes).items()}
    *rivals, candidate = final
    rows = [
        (f"`{run.estimator}`", run.seed, f"{run.valid[-1]:.3f}", f"{run.train[-1]:.3f}", f"{run.milliseconds:.1f}")
        for run in outcomes
    ]
    means = [
        (f"`{name}`", f"{statistics.fmean(losses):.3f}", f"{statistics.stdev(losses):.3f}", len(losses))
        for name, losses in final.items()
    ]
    parts = [
        f"# The categorical VAE by {len(final)} gradient estimators",
        setting,
        *(_sentence(rival, candidate, final[rival], final[candidate]) for rival in rivals),
        markdown_table(means, ("estimator", "held-out −ELBO, mean", "standard deviation", "seeds")),
        "![held-out loss by epoch](elbo.png)",
        "Every run, after its last epoch, in nats per image:",
        markdown_table(rows, ("estimator", "seed", "held-out −ELBO", "training −ELBO", "ms per step")),
        *(f"`{run.estimator}`, seed {run.seed}: {text}." for run in outcomes for text in run.warnings),
        f"Held-out images above their reconstructions, `{candidate}`:",
        "![reconstructions](reconstruction.png)",
        "Checkpoints:",
        "\n".join(f"- `{run.checkpoint}`" for run in outcomes),
        f"Run again with `{command}`. Measured with {machine()}.",
    ]
    return "\n\n".join(parts) + "\n"


def _by_estimator(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    names = dict.fromkeys(run.estimator for run in outcomes)
    return {name: [run for run in outcomes if run.estimator == name] for name in names}


def _sentence(rival: str, candidate: str, rival_losses: Sequence[float], losses: Sequence[float]) -> str:
    comparison = compare(rival_losses, losses)
    better = "better" if comparison.gain > 0 else "worse"
    outside = "outside" if abs(comparison.ratio) > _CLEAR else "within"
    return (
        f"**`{candidate}` is {better} than `{rival}` by {abs(comparison.gain):.2f} nats per held-out image** "
        f"({comparison.means[1]:.2f} against {comparison.means[0]:.2f}): {abs(comparison.ratio):.1f} times the "
        f"standard error of the difference, {comparison.noise:.3f}, taken over {len(losses)} seeds of each; the "
        f"difference is {outside} the noise."
    )
