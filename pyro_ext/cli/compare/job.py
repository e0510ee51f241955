"""The work of ``pyro-ext compare``: check, train, measure, train again, write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from pyro.infer import ELBO, TraceTailAdaptive_ELBO, TraceTMC_ELBO

from pyro_ext.cli.compare.arguments import LEAST_EPOCHS, MOST_EPOCHS, Arguments, Estimator, estimators
from pyro_ext.cli.compare.code import CodeUse, code_use
from pyro_ext.cli.compare.report import Row, as_csv, report, variance_plot
from pyro_ext.cli.compare.training import Setting, load_weights
from pyro_ext.cli.errors import naming_options
from pyro_ext.cli.progress import progress_bar
from pyro_ext.inference import TraceLeaveOneOut_ELBO, TraceVIMCO_ELBO
from pyro_ext.inference.compare import ExactELBO, GradientFigures, Subject, compare_gradients, refusal
from pyro_ext.inference.training import FitResult, TrainingPlan
from pyro_ext.inference.training.metrics import num_rows
from pyro_ext.utils.checks import positive_int, positive_number
from pyro_ext.utils.files import check_folder, write_text

__all__ = ["Job"]

_OTHER_BOUNDS = (TraceVIMCO_ELBO, TraceTMC_ELBO, TraceTailAdaptive_ELBO)


@dataclass
class Job:
    """A comparison whose options have been checked.

    Args:
        arguments: the options.
        setting: what is trained, and how.
        plan: the training plan, at fresh or loaded weights.
        metric: the held-out metric that final values are compared by; empty if the plan has none.
        subject: the model, its guide and the batch that gradients are measured on.
        epochs: the number of epochs of training before measuring; known after :meth:`rows` unless it was given.
        given_epochs: whether it was given, or training ends as soon as the code is in use.
        elbos: the estimators that apply, by label.
        refused: why the others do not, by label.
        inexact: why there is no exact gradient to find a bias with, if so; known after :meth:`rows`.
        code: how much the discrete sites say at the weights measured at, if there are any; known after :meth:`rows`.
    """

    arguments: Arguments
    setting: Setting
    plan: TrainingPlan
    metric: str
    subject: Subject
    epochs: int
    given_epochs: bool
    elbos: dict[str, ELBO]
    refused: dict[str, str]
    inexact: str | None = None
    code: CodeUse | None = None

    @property
    def out(self) -> Path:
        """The folder of results."""
        return Path(self.arguments.options.out)

    @property
    def weights(self) -> Path:
        """The folder of the checkpoint of weights trained to measure at."""
        return self.out / "weights"

    @classmethod
    def prepare(cls, arguments: Arguments) -> Job:
        """Check everything; nothing is written.

        Raises:
            ValueError: if an option is wrong, the model has no ELBO or several, or no estimator applies to it.
        """
        options = arguments.options
        _check(options)
        wanted = estimators(options.elbos)
        setting = _setting(arguments)
        plan = setting.build()
        subject = setting.subject(plan)
        nesting = plan.elbo_objective("compare").elbo.max_plate_nesting
        elbos, refused = _applicable(wanted, options.evaluations, nesting, subject)
        given_epochs = options.epochs is not None or arguments.checkpoint is not None
        epochs = (options.epochs or 0) if given_epochs else MOST_EPOCHS
        if arguments.checkpoint is not None:
            load_weights(plan, arguments.checkpoint["state_dict"])
        elif epochs:
            reason = refusal(TraceLeaveOneOut_ELBO(options.evaluations, max_plate_nesting=nesting), subject)
            if reason is not None:
                raise ValueError(
                    f"--epochs: TraceLeaveOneOut_ELBO, by which weights are trained, cannot be used: {reason}; give "
                    "--epochs 0 or --checkpoint FOLDER"
                )
        return cls(arguments, setting, plan, setting.metric(plan), subject, epochs, given_epochs, elbos, refused)

    def rows(self) -> list[Row]:
        """Train, measure, train by each estimator; return a row for each.

        Raises:
            KeyboardInterrupt: on Ctrl-C.
        """
        if self.epochs:
            by = TraceLeaveOneOut_ELBO(self.arguments.options.evaluations, max_plate_nesting=self._nesting)
            until = None if self.given_epochs else self._in_use
            with progress_bar(self.epochs, "epoch", "weights") as bar:
                trained = self.setting.train(self.plan, by, self.epochs, bar, self.weights, until)
            self.epochs = len(trained.history)
            self.subject = self.setting.subject(self.plan)
        self.code = code_use(self.subject)
        figures = self._figures()
        results = self._trained() if self.metric and self.arguments.options.fit_epochs else {}
        rows = {name: Row(name, note=f"n/a: {reason}") for name, reason in self.refused.items()}
        for name, result in {**dict.fromkeys(self.elbos), **results}.items():
            final = None if result is None else result.metrics.get(self.metric)
            remarks = () if result is None else tuple(result.warnings)
            rows[name] = Row(name, figures[name], final, self._note(name), remarks)
        return [rows[each.label] for each in estimators(self.arguments.options.elbos)]

    def write(self, rows: list[Row]) -> None:
        """Write the results into the folder, the report last."""
        options, program = self.arguments.options, self.arguments.program
        self.out.mkdir(parents=True, exist_ok=True)
        noted = {**self.arguments.noted, "seed": self.setting.seed}
        write_text(self.out / "config.yaml", str(yaml.safe_dump(noted, sort_keys=False)))
        write_text(self.out / "compare.csv", as_csv(rows, self.metric))
        variance_plot(rows, self.out / "variance.png")
        data = Path(self.arguments.data_options.get("path") or program.data).name
        text = report(
            f"Gradient estimators of {program.name} on {data}",
            rows,
            self._facts(),
            options.evaluations,
            (self.metric, self.plan.headline_mode) if self.metric else None,
            options.fit_epochs,
            self.complaint(),
        )
        write_text(self.out / "report.md", text)

    def complaint(self) -> str:
        """Return why estimators may not differ at the weights measured at; empty if there is no reason."""
        if self.code is None:
            return ""
        longer = "more epochs" if self.given_epochs else f"more than {self.epochs} epochs"
        return self.code.complaint(f"train for {longer} by --epochs, at another --lr, or measure at a --checkpoint")

    def _in_use(self, epoch: int) -> bool:
        """Return whether training may end after this epoch, counted from 1."""
        if epoch < LEAST_EPOCHS:
            return False
        use = code_use(self.subject)
        return use is None or use.used

    @property
    def _nesting(self) -> float:
        return float(self.plan.elbo_objective("compare").elbo.max_plate_nesting)

    def _figures(self) -> dict[str, GradientFigures]:
        options = self.arguments.options
        exact: ELBO | None = ExactELBO(options.max_leaves, max_plate_nesting=self._nesting)
        self.inexact = refusal(exact, self.subject)
        if self.inexact is not None:
            exact = None
        total = options.repeats * len(self.elbos)  # and those of an exact gradient that has to be averaged
        with progress_bar(total, "gradient", "gradients") as bar:
            figures = compare_gradients(
                self.elbos,
                self.subject,
                reference=exact,
                repeats=options.repeats,
                seed=self.setting.seed,
                advance=lambda turns: bar.update(min(turns, total - bar.n)),
            )
        return {name: replace(own, bias_z=None) if self._note(name) else own for name, own in figures.items()}

    def _trained(self) -> dict[str, FitResult]:
        results: dict[str, FitResult] = {}
        epochs = self.arguments.options.fit_epochs
        with progress_bar(epochs * len(self.elbos), "epoch") as bar:
            for name, elbo in self.elbos.items():
                bar.set_description(name)
                results[name] = self.setting.train(self.setting.build(), elbo, epochs, bar)
        return results

    def _note(self, name: str) -> str:
        elbo = self.elbos[name]
        other = isinstance(elbo, _OTHER_BOUNDS) and elbo.num_particles > 1
        return "a bound other than the ELBO" if other else ""

    def _facts(self) -> dict[str, str]:
        options = self.arguments.options
        weights = f"those of {options.checkpoint}" if options.checkpoint else "fresh"
        if self.epochs:
            weights = f"after {self.epochs} epochs of `TraceLeaveOneOut_ELBO` (`weights/last.ckpt`)"
        optimizers = ", ".join(f"{player.optimizer.name} at {player.optimizer.lr:g}" for player in self.plan.players)
        facts = {
            "weights": weights,
            "gradients": f"{options.repeats} of each estimator, on one batch of {num_rows(self.subject.batch)}",
            "code": "no discrete sites that differ from the model's" if self.code is None else self.code.fact(),
            "exact gradient": "by enumeration" if self.inexact is None else f"none: {self.inexact}",
            "optimiser, batch size, seed": f"{optimizers}, {options.batch_size}, {self.setting.seed}",
            "device": str(self.setting.device),
        }
        return facts if self.metric else facts | {"final metric": "none: the model or its data hold nothing out"}


def _check(options: Namespace) -> None:
    positive_int("evaluations", options.evaluations)
    positive_int("repeats", options.repeats, minimum=4)
    positive_int("fit_epochs", options.fit_epochs, minimum=0)
    positive_int("max_leaves", options.max_leaves)
    positive_int("batch_size", options.batch_size)
    if options.lr is not None:
        positive_number("lr", options.lr)
    if options.seed is not None:
        positive_int("seed", options.seed, minimum=0, maximum=2**31 - 1)
    if options.epochs is not None:
        positive_int("epochs", options.epochs, minimum=0)
        if options.epochs and options.checkpoint is not None:
            raise ValueError("--epochs trains fresh weights and --checkpoint loads others; give one of them")
    path = check_folder("out", options.out)
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"--out: {options.out!r} is not empty; choose another folder")


def _setting(arguments: Arguments) -> Setting:
    options, program = arguments.options, arguments.program
    device = _device(options.device)
    with naming_options(name for name in arguments.option_names if name.startswith("--data.")):
        data = program.loaded(arguments.data_options)

    def make() -> TrainingPlan:
        plan = program.build(data, **arguments.model_options)
        plan.origin = program.origin(*arguments.plain_options())
        return plan

    seed = int(torch.seed() % 2**31) if options.seed is None else options.seed
    return Setting(make, data, options.lr, options.batch_size, seed, device)


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
    wanted: list[Estimator], evaluations: int, nesting: float, subject: Subject
) -> tuple[dict[str, ELBO], dict[str, str]]:
    """Return the estimators that work on the model, by label, and why the others do not."""
    elbos: dict[str, ELBO] = {}
    refused: dict[str, str] = {}
    for each in wanted:
        try:
            elbo = each.make(evaluations, nesting)
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
