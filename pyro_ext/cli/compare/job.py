"""The work of ``pyro-ext compare``: check, train, measure, train again, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from pyro.infer import ELBO, TraceTailAdaptive_ELBO, TraceTMC_ELBO
from tqdm.auto import tqdm

from pyro_ext.cli.compare_arguments import Estimator, compare_parser, estimators
from pyro_ext.cli.compare_report import Row, as_csv, report, variance_plot
from pyro_ext.cli.compare_training import Setting, load_weights, saved_weights
from pyro_ext.cli.fit_arguments import FirstLook, builder
from pyro_ext.datasets import load
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceVIMCO_ELBO
from pyro_ext.inference.compare import ExactELBO, GradientFigures, Subject, compare_gradients, refusal
from pyro_ext.inference.fit import Built
from pyro_ext.inference.fit.folder import RunFolder, write_atomically
from pyro_ext.utils.checks import positive_int

__all__ = ["Job"]

_EPOCHS = 20  # of training before measuring, unless told otherwise
_OTHER_BOUNDS = (TraceVIMCO_ELBO, TraceTMC_ELBO, TraceTailAdaptive_ELBO)


@dataclass
class Job:
    """A comparison whose options have been checked.

    Args:
        name: the model's name.
        options: the options.
        config: the same as YAML.
        setting: what is trained, and how.
        built: the model at fresh or loaded weights.
        subject: the model and the batch that gradients are measured on.
        epochs: how long to train before measuring.
        elbos: the estimators that apply, by label.
        refused: why the others do not.
        inexact: why there is no exact gradient to find a bias with, if so; known after :meth:`rows`.
    """

    name: str
    options: Namespace
    config: str
    setting: Setting
    built: Built
    subject: Subject
    epochs: int
    elbos: dict[str, ELBO]
    refused: dict[str, str]
    inexact: str | None = None

    @property
    def out(self) -> Path:
        """Where the results go."""
        return Path(self.options.out)

    @property
    def weights(self) -> Path:
        """Where the checkpoint goes of weights trained to measure at."""
        return self.out / "weights"

    @classmethod
    def prepare(cls, name: str, options: Namespace) -> Job:
        """Check everything; nothing is written.

        Raises:
            ValueError: if an option is wrong, or no estimator applies to the model.
        """
        _check(options)
        wanted = estimators(options.elbos)
        parser = compare_parser(FirstLook(name, options.data.name, Path(options.out), (), False), None)
        setting = _setting(name, options, parser.instantiate(options))
        noted = options.clone()
        noted.seed = setting.seed
        noted.pop("config", None)
        weights = None if options.checkpoint is None else saved_weights(options.checkpoint)
        built = setting.build()
        subject = setting.subject(built)
        elbos, refused = _applicable(wanted, options.evaluations, built, subject)
        if weights is not None:
            load_weights(built, weights)
        epochs = _EPOCHS if options.epochs is None and weights is None else options.epochs or 0
        return cls(name, options, str(parser.dump(noted)), setting, built, subject, epochs, elbos, refused)

    def rows(self) -> list[Row]:
        """Train, measure, train by each estimator; return a row for each.

        Raises:
            KeyboardInterrupt: on Ctrl-C.
        """
        if self.epochs:
            with tqdm(total=self.epochs, unit="epoch", desc="weights") as bar:
                by = TraceLeaveOneOut_ELBO(
                    self.options.evaluations, max_plate_nesting=self.built.elbo.max_plate_nesting
                )
                self.setting.train(self.built, by, self.epochs, bar, self.weights, self.config)
            self.subject = self.setting.subject(self.built)
        figures = self._figures()
        bounds = self._bounds() if self.options.fit_epochs else {}
        found = [Row(name, figures[name], bounds.get(name), self._note(name)) for name in self.elbos]
        refused = [Row(name, note=f"n/a: {reason}") for name, reason in self.refused.items()]
        order = [each.label for each in estimators(self.options.elbos)]
        return sorted(found + refused, key=lambda row: order.index(row.estimator))

    def write(self, rows: list[Row]) -> None:
        """Write the results into the folder, the report last."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomically(self.out / "config.yaml", self.config)
        write_atomically(self.out / "compare.csv", as_csv(rows))
        variance_plot(rows, self.out / "variance.png")
        options = self.options
        title = f"Gradient estimators of {self.name} on {options.data.name}"
        text = report(title, rows, self._facts(), options.evaluations, options.fit_epochs)
        write_atomically(self.out / "report.md", text)

    @property
    def _nesting(self) -> Any:
        return self.built.elbo.max_plate_nesting

    def _figures(self) -> dict[str, GradientFigures]:
        options = self.options
        exact: ELBO | None = ExactELBO(options.max_leaves, max_plate_nesting=self._nesting)
        self.inexact = refusal(exact, self.subject)
        if self.inexact is not None:
            exact = None
        with tqdm(total=options.repeats * len(self.elbos), unit="gradient", desc="gradients") as bar:
            found = compare_gradients(
                self.elbos,
                self.subject,
                reference=exact,
                repeats=options.repeats,
                seed=self.setting.seed,
                advance=bar.update,
            )
        return {name: replace(f, bias_z=None) if self._note(name) else f for name, f in found.items()}

    def _bounds(self) -> dict[str, float | None]:
        bounds: dict[str, float | None] = {}
        with tqdm(total=self.options.fit_epochs * len(self.elbos), unit="epoch") as bar:
            for name, elbo in self.elbos.items():
                bar.set_description(name)
                result = self.setting.train(self.setting.build(), elbo, self.options.fit_epochs, bar)
                bounds[name] = result.metrics.get("neg_elbo")
        return bounds

    def _note(self, name: str) -> str:
        elbo = self.elbos[name]
        other = isinstance(elbo, _OTHER_BOUNDS) and elbo.num_particles > 1
        return "a bound other than the ELBO" if other else ""

    def _facts(self) -> dict[str, str]:
        options = self.options
        weights = f"those of {options.checkpoint}" if options.checkpoint else "fresh"
        if self.epochs:
            weights = f"after {self.epochs} epochs of `TraceLeaveOneOut_ELBO` (`weights/last.ckpt`)"
        return {
            "weights": weights,
            "gradients": f"{options.repeats} of each estimator, on one batch of {len(self.subject.batch[0])}",
            "exact gradient": "by enumeration" if self.inexact is None else f"none: {self.inexact}",
            "learning rate, batch size, seed": f"{options.lr:g}, {options.batch_size}, {self.setting.seed}",
            "device": str(self.setting.device),
        }


def _check(options: Namespace) -> None:
    positive_int("evaluations", options.evaluations)
    positive_int("repeats", options.repeats, minimum=4)
    positive_int("fit_epochs", options.fit_epochs, minimum=0)
    positive_int("max_leaves", options.max_leaves)
    if options.seed is not None and not 0 <= options.seed < 2**31:
        raise ValueError(f"seed must be an integer from 0 to 2**31 - 1, got {options.seed}")
    if options.epochs is not None:
        positive_int("epochs", options.epochs, minimum=0)
        if options.epochs and options.checkpoint is not None:
            raise ValueError("--epochs trains fresh weights and --checkpoint loads others; give one of them")
    if find_spec("matplotlib") is None:
        raise ValueError("the picture needs matplotlib: pip install 'pyro-ext[plot]'")
    path = RunFolder(options.out).path
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"--out: {options.out!r} is not empty; choose another folder")


def _setting(name: str, options: Namespace, parts: Namespace) -> Setting:
    arguments = {option: value for option, value in vars(options.data).items() if option != "name"}
    return Setting(
        make=partial(builder(name), **vars(parts.model)),
        data=load(options.data.name, **arguments),
        lr=options.lr,
        batch_size=options.batch_size,
        seed=int(torch.seed() % 2**31) if options.seed is None else options.seed,
        device=_device(options.device),
    )


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _applicable(
    wanted: list[Estimator], evaluations: int, built: Built, subject: Subject
) -> tuple[dict[str, ELBO], dict[str, str]]:
    """Return the estimators that work on the model, by label, and why the others do not."""
    elbos: dict[str, ELBO] = {}
    refused: dict[str, str] = {}
    for each in wanted:
        try:
            elbo = each.make(evaluations, built.elbo.max_plate_nesting)
        except NotImplementedError as error:
            refused[each.label] = str(error)
            continue
        reason = refusal(elbo, subject)
        if reason is None:
            elbos[each.label] = elbo
        else:
            refused[each.label] = reason
    if not elbos:
        raise ValueError(f"--elbos: no estimator applies to this model. {_joined(refused)}")
    return elbos, refused


def _joined(reasons: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
