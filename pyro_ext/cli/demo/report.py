"""What the demonstration found: its table, its one sentence, its curve, its files."""

from __future__ import annotations

import csv
import io
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Comparison", "Outcome", "compare", "curve", "metrics_csv", "report", "write_text"]


@dataclass(frozen=True)
class Outcome:
    """One fitted model.

    Args:
        estimator: the ELBO's name.
        seed: what it was fitted with.
        train: the negative ELBO per training image (nats) of every epoch.
        valid: the same of held-out images.
        milliseconds: the median time of a step.
        checkpoint: where the fitted parameters lie, relative to the report.
    """

    estimator: str
    seed: int
    train: Sequence[float]
    valid: Sequence[float]
    milliseconds: float
    checkpoint: str


@dataclass(frozen=True)
class Comparison:
    """Final held-out losses of two estimators, over seeds.

    Args:
        means: reference, candidate (nats).
        spreads: their standard deviations over seeds.
        gain: how much lower the candidate's mean is; negative if it is higher.
        noise: the standard error of ``gain`` that the seeds give rise to.
    """

    means: tuple[float, float]
    spreads: tuple[float, float]
    gain: float
    noise: float

    @property
    def ratio(self) -> float:
        """How many times the noise the gain is."""
        return self.gain / self.noise if self.noise > 0 else math.copysign(math.inf, self.gain)


def compare(reference: Sequence[float], candidate: Sequence[float]) -> Comparison:
    """Compare final losses, two or more seeds each.

    Example:
        >>> found = compare([25.3, 25.1], [20.2, 20.4])
        >>> round(found.gain, 2), round(found.noise, 3), round(found.ratio, 1)
        (4.9, 0.141, 34.6)
    """
    groups = (reference, candidate)
    first, second = (statistics.fmean(group) for group in groups)
    spreads = (statistics.stdev(reference), statistics.stdev(candidate))
    noise = math.sqrt(sum(spread**2 / len(group) for spread, group in zip(spreads, groups, strict=True)))
    return Comparison((first, second), spreads, first - second, noise)


def metrics_csv(outcomes: Sequence[Outcome]) -> str:
    """Return all losses of all runs as comma-separated values, one row per epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["estimator", "seed", "epoch", "train_neg_elbo", "valid_neg_elbo"])
    for run in outcomes:
        for epoch, losses in enumerate(zip(run.train, run.valid, strict=True), start=1):
            writer.writerow([run.estimator, run.seed, epoch, *(f"{loss:.6f}" for loss in losses)])
    return text.getvalue()


def curve(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw the held-out losses by epoch, mean and range over seeds, into a PNG file."""
    from pyro_ext.plotting import loss_curve, save

    names = dict.fromkeys(run.estimator for run in outcomes)
    ax = loss_curve(
        {name: np.array([run.valid for run in outcomes if run.estimator == name]) for name in names},
        ylabel="held-out −ELBO per image (nats)",
    )
    save(ax, path)


def report(outcomes: Sequence[Outcome], setting: str, command: str) -> str:
    """Return the report in Markdown.

    Args:
        outcomes: the runs of the reference estimator and of the candidate, in this order.
        setting: a paragraph on what was run.
        command: how to run it again.
    """
    reference, candidate = dict.fromkeys(run.estimator for run in outcomes)
    found = compare(*([run.valid[-1] for run in outcomes if run.estimator == name] for name in (reference, candidate)))
    rows = [
        f"| `{run.estimator}` | {run.seed} | {run.valid[-1]:.3f} | {run.train[-1]:.3f} | {run.milliseconds:.1f} |"
        for run in outcomes
    ]
    means = [
        f"- `{name}`: {mean:.3f} on average, standard deviation {spread:.3f} over the seeds"
        for name, mean, spread in zip((reference, candidate), found.means, found.spreads, strict=True)
    ]
    lines = [
        f"# The categorical VAE: `{candidate}` next to Pyro's `{reference}`",
        setting,
        _sentence(reference, candidate, found),
        "\n".join(
            ["| estimator | seed | held-out −ELBO | training −ELBO | ms per step |", "|---|---|---|---|---|", *rows]
        ),
        "Losses are nats per image after the last epoch.\n\n" + "\n".join(means),
        "![held-out loss by epoch](elbo.png)",
        f"Held-out images above their reconstructions, `{candidate}`:\n\n![reconstructions](reconstruction.png)",
        "Checkpoints:\n\n" + "\n".join(f"- `{run.checkpoint}`" for run in outcomes),
        f"Run again with `{command}`. {_machine()}",
    ]
    return "\n\n".join(lines) + "\n"


def _sentence(reference: str, candidate: str, found: Comparison) -> str:
    better = "better" if found.gain > 0 else "worse"
    outside = "outside" if abs(found.ratio) > 3 else "within"
    return (
        f"**`{candidate}` is {better} by {abs(found.gain):.2f} nats per held-out image** "
        f"({found.means[1]:.2f} against {found.means[0]:.2f}): {abs(found.ratio):.1f} times the seed noise, "
        f"a standard error of {found.noise:.3f}; the difference is {outside} the noise."
    )


def _machine() -> str:
    import pyro
    import torch

    return (
        f"Measured with Python {platform.python_version()}, PyTorch {torch.__version__}, Pyro {pyro.__version__}, "
        f"{torch.get_num_threads()} thread(s) on {os.cpu_count()} CPU core(s)."
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
