"""The race itself: every estimator for every seed, resumed where it was stopped."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyro
from lightning.pytorch import Callback, LightningModule, Trainer
from pyro.infer import ELBO, Trace_ELBO

from pyro_ext.cli.demo.report import Outcome, curve, metrics_csv, report
from pyro_ext.cli.progress import progress_bar
from pyro_ext.datasets import Splits, digits
from pyro_ext.inference import (
    FitSettings,
    OptimizerSettings,
    TraceLeaveOneOut_ELBO,
    TraceUnorderedSet_ELBO,
    TrainingPlan,
    fit,
    local_params,
)
from pyro_ext.inference.training import FitWarning
from pyro_ext.models.categorical_vae import build
from pyro_ext.plotting import save
from pyro_ext.utils.checks import positive_int
from pyro_ext.utils.files import write_text

__all__ = ["Settings", "race"]

_EVALUATIONS = 4  # of the model, for each image and step
_CATEGORIES = 10
_BATCH = 100
_LEARNING_RATE = 1e-3  # that of the paper
_ESTIMATORS: dict[str, Callable[[], ELBO]] = {
    "Trace_ELBO": lambda: Trace_ELBO(num_particles=_EVALUATIONS, vectorize_particles=True, max_plate_nesting=1),
    "TraceLeaveOneOut_ELBO": lambda: TraceLeaveOneOut_ELBO(num_samples=_EVALUATIONS, max_plate_nesting=1),
    "TraceUnorderedSet_ELBO": lambda: TraceUnorderedSet_ELBO(num_samples=_EVALUATIONS, max_plate_nesting=1),
}
_PLOTS = ("elbo.png", "reconstruction.png", "samples.png")


@dataclass(frozen=True)
class Settings:
    """What a demonstration is made of; a folder holds one of them.

    Args:
        epochs: the number of epochs of each run, over the 1,500 training digits in batches of 100.
        seeds: the number of runs of each estimator, at least two: their spread is the noise to compare with.
        seed: the first seed.
        num_latents: the number of latent variables of 10 categories.

    Raises:
        ValueError: if a number is too small.
    """

    epochs: int = 60
    seeds: int = 2
    seed: int = 0
    num_latents: int = 2

    def __post_init__(self) -> None:
        positive_int("epochs", self.epochs)
        positive_int("seeds", self.seeds, minimum=2)
        positive_int("seed", self.seed, minimum=0)
        positive_int("num_latents", self.num_latents)


def race(settings: Settings, out: str | Path, overwrite: bool = False) -> bool:
    """Fit, compare and report into a folder.

    A demonstration that was stopped is continued; one that is finished is left alone.

    Args:
        settings: what to run.
        out: the folder: new, empty, or that of a demonstration with the same settings.
        overwrite: whether to replace the demonstration that ``out`` holds.

    Returns:
        Whether there was anything left to do.

    Raises:
        ValueError: if ``out`` holds something else.
        OSError: if ``out`` cannot be written to.
        KeyboardInterrupt: on Ctrl-C.
    """
    out = Path(out)
    _claim(out, settings, overwrite)
    if (out / "report.md").is_file():
        return False
    data = digits()
    seeds = range(settings.seed, settings.seed + settings.seeds)
    outcomes: list[Outcome] = []
    drawn: TrainingPlan | None = None
    with progress_bar(len(_ESTIMATORS) * len(seeds) * settings.epochs, "epoch") as bar:
        for name in _ESTIMATORS:
            for seed in seeds:
                outcome, plan = _fit_one(name, seed, settings, data, out, _Share(bar, len(outcomes) * settings.epochs))
                outcomes.append(outcome)
                drawn = plan if drawn is None or seed == seeds[0] else drawn
    assert drawn is not None
    _write(outcomes, drawn, settings, out)
    return True


class _Share(Callback):
    """Shows a run as its share of one progress bar over all runs."""

    def __init__(self, bar: Any, start: int) -> None:
        self.bar = bar
        self.start = start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the epochs that are done and the last held-out loss."""
        self.show(trainer.current_epoch, pl_module.progress.history)

    def show(self, epochs: int, history: list[dict[str, float]]) -> None:
        """Set the bar to so many epochs of this run."""
        if history:
            self.bar.set_postfix_str(f"held-out −ELBO {history[-1]['neg_elbo']:.2f}", refresh=False)
        self.bar.update(self.start + epochs - self.bar.n)


def _fit_one(
    name: str, seed: int, settings: Settings, data: Splits, out: Path, share: _Share
) -> tuple[Outcome, TrainingPlan]:
    folder = out / "runs" / f"{name}-seed{seed}"
    resume = (folder / "last.ckpt").is_file()
    if folder.exists() and not resume:
        shutil.rmtree(folder)  # stopped before its first checkpoint
    share.bar.set_description(f"{name}, seed {seed}")
    pyro.set_rng_seed(seed)  # the initial weights: the same for all estimators
    plan = build(data, num_latents=settings.num_latents, num_categories=_CATEGORIES).with_elbo(_ESTIMATORS[name]())
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=_LEARNING_RATE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # told in the report
        result = fit(
            plan,
            data,
            FitSettings(max_epochs=settings.epochs, batch_size=_BATCH, seed=seed),
            out=folder,
            resume=resume,
            callbacks=[share],
            enable_progress_bar=False,
            accelerator="cpu",
        )
    share.show(settings.epochs, result.history)
    steps = -(-len(data.train) // _BATCH)
    outcome = Outcome(
        estimator=name,
        seed=seed,
        train=[row["train_loss"] for row in result.history],
        valid=[row["neg_elbo"] for row in result.history],
        milliseconds=1000 * statistics.median(row["seconds"] for row in result.history) / steps,
        checkpoint=str((folder / "last.ckpt").relative_to(out)),
        warnings=tuple(result.warnings),
    )
    return outcome, plan


def _claim(out: Path, settings: Settings, overwrite: bool) -> None:
    """Make ``out`` the folder of this demonstration, or see that it is."""
    mark = out / "settings.json"
    wanted = {"estimators": [*_ESTIMATORS], **asdict(settings)}
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    if mark.is_file() and overwrite:
        _clear(out)
    elif mark.is_file():
        present = _settings_in(mark)
        if present != wanted:
            raise ValueError(f"{out} holds a demonstration with {present}; choose another --out, or --overwrite it")
        return
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} holds files of something else; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(mark, json.dumps(wanted) + "\n")


def _settings_in(mark: Path) -> object:
    try:
        return json.loads(mark.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{mark} is damaged ({error}); choose another --out, or --overwrite this one") from error


def _clear(out: Path) -> None:
    """Remove what a demonstration wrote and nothing else; its mark stays, so that a half-cleared folder is known."""
    (out / "report.md").unlink(missing_ok=True)
    for name in ("metrics.csv", *_PLOTS):
        (out / name).unlink(missing_ok=True)
    if (out / "runs").is_dir():
        shutil.rmtree(out / "runs")


def _write(outcomes: list[Outcome], drawn: TrainingPlan, settings: Settings, out: Path) -> None:
    """Write everything; the report last, for it marks the demonstration as finished."""
    write_text(out / "metrics.csv", metrics_csv(outcomes))
    curve(outcomes, out / "elbo.png")
    for name, plot in drawn.plots.items():
        with local_params():
            save(plot(), out / f"{name}.png")
    setting = (
        f"The bundled 8 x 8 digits, 1,500 for training and 297 held out; a code of {settings.num_latents} variables of "
        f"{_CATEGORIES} categories; {settings.epochs} epochs in batches of {_BATCH}, Adam at 1e-3. All estimators "
        f"evaluate the model {_EVALUATIONS} times for each image and step, and start from the same weights."
    )
    options = " ".join(f"--{name} {value}" for name, value in asdict(settings).items())
    command = f"python -m pyro_ext.cli.demo --out {shlex.quote(str(out))} --overwrite {options}"
    write_text(out / "report.md", report(outcomes, setting, command))
