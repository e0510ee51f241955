"""The demonstration behind ``make demo``: Pyro's own gradient estimator next to ours, on real digits.

``python -m pyro_ext.cli.demo --out runs/demo`` fits the categorical variational autoencoder to the bundled digits with
``Trace_ELBO(4 particles)`` and with ``TraceUnorderedSet_ELBO(4 distinct codes)``, which evaluate the model equally
often, for several seeds each, and writes what came out. Started again, it goes on where it was stopped; what is
finished is left as it is.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyro
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from pyro.infer import ELBO, Trace_ELBO
from tqdm.auto import tqdm

from pyro_ext.cli.demo_report import Outcome, curve, metrics_csv, report, write_text
from pyro_ext.datasets import Splits, digits
from pyro_ext.inference import TraceUnorderedSet_ELBO
from pyro_ext.inference.fit import Built, fit
from pyro_ext.models.categorical_vae import build
from pyro_ext.plotting import save
from pyro_ext.utils.checks import positive_int

__all__ = ["Settings", "main", "run"]

_EVALUATIONS = 4  # of the model, for each image and step
_CATEGORIES = 10
_BATCH = 100
_ESTIMATORS: dict[str, Callable[[], ELBO]] = {
    "Trace_ELBO": lambda: Trace_ELBO(num_particles=_EVALUATIONS, vectorize_particles=True, max_plate_nesting=1),
    "TraceUnorderedSet_ELBO": lambda: TraceUnorderedSet_ELBO(num_samples=_EVALUATIONS, max_plate_nesting=1),
}
_PICTURES = ("elbo.png", "reconstruction.png", "samples.png")


@dataclass(frozen=True)
class Settings:
    """What a demonstration is made of; a folder holds one of them.

    Args:
        epochs: passes over the 1,500 training digits, in batches of 100.
        seeds: how many runs of each estimator, at least two: their spread is the noise to compare with.
        seed: the first seed.
        num_latents: how many variables of 10 categories the code has.

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


def run(settings: Settings, out: str | Path, overwrite: bool = False) -> bool:
    """Fit, compare and report into a folder.

    A demonstration that was stopped is taken up where it was; one that is finished is left alone.

    Args:
        settings: what to run.
        out: the folder: new, empty, or that of a demonstration with the same settings.
        overwrite: whether to do away with the demonstration that ``out`` holds.

    Returns:
        Whether there was anything left to do.

    Raises:
        ValueError: if ``out`` holds something else.
        OSError: if ``out`` cannot be written.
        KeyboardInterrupt: on Ctrl-C.
    """
    out = Path(out)
    _claim(out, settings, overwrite)
    if (out / "report.md").is_file():
        return False
    data = digits()
    seeds = range(settings.seed, settings.seed + settings.seeds)
    outcomes: list[Outcome] = []
    drawn: Built | None = None
    with tqdm(total=len(_ESTIMATORS) * len(seeds) * settings.epochs, unit="epoch") as bar:
        for name in _ESTIMATORS:
            for seed in seeds:
                outcome, built = _fit_one(name, seed, settings, data, out, _Bar(bar, len(outcomes) * settings.epochs))
                outcomes.append(outcome)
                drawn = built if drawn is None or seed == seeds[0] else drawn
    assert drawn is not None
    _write(outcomes, drawn, settings, out)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return 0 when done, 2 on bad input, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its notes would break up the progress bar
    try:
        torch.set_num_threads(positive_int("threads", arguments.threads))
        settings = Settings(arguments.epochs, arguments.seeds, arguments.seed, arguments.num_latents)
        done = run(settings, arguments.out, arguments.overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    path = arguments.out / "report.md"
    lines = path.read_text(encoding="utf-8").splitlines()
    print(next((line for line in lines if line.startswith("**")), ""))
    print(f"report: {path}" + ("" if done else " (finished before; --overwrite runs it again)"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pyro_ext.cli.demo", description=(__doc__ or "").splitlines()[0])
    default = Settings()
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the results (%(default)s)")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="passes over the data (%(default)s)")
    parser.add_argument("--seeds", type=int, default=default.seeds, help="runs of each estimator (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="the first seed (%(default)s)")
    parser.add_argument("--num_latents", type=int, default=default.num_latents, help="variables (%(default)s)")
    # networks this small gain nothing from a second thread, and lose much where the machine is busy
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; one is best here (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="do away with the demonstration in the folder")
    return parser


class _Bar(Callback):
    """Shows a run as its share of one progress bar over all runs."""

    def __init__(self, bar: tqdm, start: int) -> None:
        self.bar = bar
        self.start = start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the epochs behind and the last held-out loss."""
        self.show(trainer.current_epoch, pl_module.progress.history)

    def show(self, epochs: int, history: list[dict[str, float]]) -> None:
        """Set the bar to so many epochs of this run."""
        if history:
            self.bar.set_postfix_str(f"held-out −ELBO {history[-1]['neg_elbo']:.2f}", refresh=False)
        self.bar.update(self.start + epochs - self.bar.n)


def _fit_one(
    name: str, seed: int, settings: Settings, data: Splits, out: Path, progress: _Bar
) -> tuple[Outcome, Built]:
    folder = out / "runs" / f"{name}-seed{seed}"
    resume = (folder / "last.ckpt").is_file()
    if folder.exists() and not resume:
        shutil.rmtree(folder)  # stopped before its first checkpoint
    progress.bar.set_description(f"{name}, seed {seed}")
    pyro.set_rng_seed(seed)  # the initial weights: the same for both estimators
    built = build(data, num_latents=settings.num_latents, num_categories=_CATEGORIES)
    built.elbo = _ESTIMATORS[name]()
    result = fit(
        built,
        data,
        max_epochs=settings.epochs,
        seed=seed,
        out=folder,
        resume=resume,
        batch_size=_BATCH,
        callbacks=[progress],
        enable_progress_bar=False,
        accelerator="cpu",
    )
    progress.show(settings.epochs, result.history)
    steps = -(-len(data.train) // _BATCH)
    outcome = Outcome(
        estimator=name,
        seed=seed,
        train=[row["train_loss"] for row in result.history],
        valid=[row["neg_elbo"] for row in result.history],
        milliseconds=1000 * statistics.median(row["seconds"] for row in result.history) / steps,
        checkpoint=str((folder / "last.ckpt").relative_to(out)),
    )
    return outcome, built


def _claim(out: Path, settings: Settings, overwrite: bool) -> None:
    """Make ``out`` the folder of this demonstration, or find that it is."""
    mark = out / "settings.json"
    wanted = asdict(settings)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    if mark.is_file() and overwrite:
        _clear(out)
    elif mark.is_file():
        found = _settings_in(mark)
        if found != wanted:
            raise ValueError(f"{out} holds a demonstration with {found}; choose another --out, or --overwrite it")
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
    for name in ("metrics.csv", *_PICTURES):
        (out / name).unlink(missing_ok=True)
    if (out / "runs").is_dir():
        shutil.rmtree(out / "runs")


def _write(outcomes: list[Outcome], drawn: Built, settings: Settings, out: Path) -> None:
    """Write everything; the report last, for it marks the demonstration as finished."""
    write_text(out / "metrics.csv", metrics_csv(outcomes))
    curve(outcomes, out / "elbo.png")
    for name, plot in drawn.plots.items():
        save(plot(), out / f"{name}.png")
    setting = (
        f"The bundled 8 x 8 digits, 1,500 for training and 297 held out; a code of {settings.num_latents} variables of "
        f"{_CATEGORIES} categories; {settings.epochs} epochs in batches of {_BATCH}, Adam at 1e-3. Both estimators "
        f"evaluate the model {_EVALUATIONS} times for each image and step, and start from the same weights."
    )
    options = " ".join(f"--{name} {value}" for name, value in asdict(settings).items())
    command = f"python -m pyro_ext.cli.demo --out {shlex.quote(str(out))} --overwrite {options}"
    write_text(out / "report.md", report(outcomes, setting, command))


if __name__ == "__main__":
    raise SystemExit(main())
