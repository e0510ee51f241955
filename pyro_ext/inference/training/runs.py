"""Runs from the outside: training as one function, and what was trained read back from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pyro_ext.inference.training.folder import RunFolder
from pyro_ext.inference.training.local import materialise
from pyro_ext.inference.training.metrics import NOT_METRICS
from pyro_ext.inference.training.plan import Origin, TrainingPlan
from pyro_ext.inference.training.results import FitResult, frame_of_history
from pyro_ext.inference.training.settings import FitSettings
from pyro_ext.utils.random_state import isolated_random_state

__all__ = ["LoadedRun", "fit", "load_run"]

_OURS = "pyro_ext."


@dataclass
class LoadedRun:
    """What lies in the folder of a run.

    Args:
        plan: the training plan with the trained modules, in evaluation mode.
        settings: the settings of the run by name, such as ``"seed"``, ``"batch_size"`` and ``"optimizer.lr"``.
        history: one row of metrics per epoch.
        metrics: those of the last epoch, and those on the test data, named ``test_...``.
        data: the data that the plan was built for, where they had to be loaded.
    """

    plan: TrainingPlan
    settings: dict[str, Any]
    history: list[dict[str, float]]
    metrics: dict[str, float]
    data: Any = None

    @property
    def model(self) -> Any:
        """The trained model, where the plan has one ELBO; call it within ``local_params()``."""
        return self.plan.elbo_objective("model").model

    @property
    def guide(self) -> Any:
        """The trained guide, where the plan has one ELBO; call it within ``local_params()``."""
        return self.plan.elbo_objective("guide").guide

    def to_frame(self) -> Any:
        """Return the history as a ``pandas.DataFrame``, see :meth:`FitResult.to_frame`."""
        return frame_of_history(self.history)


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


def load_run(folder: str | Path, plan: TrainingPlan | None = None) -> LoadedRun:
    """Return the trained modules of a run, its settings and its metrics.

    Nothing in the folder is run: parameters are loaded as data. What ``pyro-ext fit`` wrote for a model of this
    package is built again from its options; for a model of your own, hand over the plan to load into.

    Args:
        folder: the folder of the run, by :func:`~pyro_ext.inference.fit` or ``pyro-ext fit``.
        plan: a plan like the one that was trained, as your ``build`` returns it.

    Raises:
        ValueError: if there is no checkpoint, it does not fit the plan, or ``plan`` is needed and not given.

    Example:
        >>> import tempfile
        >>> from pyro_ext.inference import LossObjective, Player
        >>> def build():
        ...     network = torch.nn.Linear(1, 1)
        ...     loss = LossObjective(lambda x, y, index, network: network(x).square().mean(), network=network)
        ...     return TrainingPlan([Player("network", loss)])
        >>> with tempfile.TemporaryDirectory() as out:
        ...     quiet = {"enable_progress_bar": False}
        ...     result = fit(build(), torch.ones(4, 1), FitSettings(max_epochs=1, seed=0), out=f"{out}/run", **quiet)
        ...     loaded = load_run(f"{out}/run", build())
        >>> loaded.metrics == result.metrics, loaded.settings["optimizer.lr"]
        (True, 0.001)
    """
    run = RunFolder(folder)
    if not run.checkpoint.is_file():
        raise ValueError(f"{str(run.checkpoint)!r} does not exist; name the folder of a run")
    checkpoint = run.load_checkpoint()
    saved = checkpoint["fit"]
    data = None
    if plan is None:
        plan, data = _rebuilt(saved["origin"], run.path)
    _load(plan, checkpoint["state_dict"], saved["example"], saved["settings"]["seed"])
    extra = checkpoint["state_dict"]["_extra_state"]
    last = extra["history"][-1] if extra["history"] else {}
    metrics = {name: value for name, value in last.items() if name not in NOT_METRICS}
    metrics |= {f"test_{name}": value for name, value in extra["test"].items()}
    return LoadedRun(plan, dict(saved["settings"]), list(extra["history"]), metrics, data)


def _load(plan: TrainingPlan, state: Mapping[str, Any], example: Any, seed: int) -> None:
    batch = example if isinstance(example, tuple | list) else (example,)
    with isolated_random_state(seed, torch.device("cpu")):
        if example is not None:
            materialise(plan.in_order(), batch)
    names = [player.name for player in plan.players]
    saved = sorted({key.split(".")[1] for key in state if key.startswith("objectives.")})
    if saved != sorted(names):
        raise ValueError(f"the run has the players {', '.join(saved)}, the plan has {', '.join(names)}")
    for player in plan.players:
        prefix = f"objectives.{player.name}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        try:
            player.objective.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"the checkpoint does not fit the plan: {reason}; build it with the run's options"
            ) from error
        player.objective.eval()


def _rebuilt(origin: Mapping[str, Any] | None, folder: Path) -> tuple[TrainingPlan, Any]:
    if origin is None:
        raise ValueError(f"{str(folder)!r} does not say how its plan was built; pass it: load_run(folder, plan)")
    source = Origin(**origin)
    for target in (source.build, source.load):
        if not target.startswith(_OURS):  # a checkpoint must not choose what code is run
            raise ValueError(
                f"{str(folder)!r} was made with {target}, which is not part of pyro_ext; pass what your build returns: "
                "load_run(folder, plan)"
            )
    data = _called(source.load, source.data_options)
    return _called(source.build, source.options, data), data


def _called(target: str, options: Mapping[str, Any], *data: Any) -> Any:
    """Call a function, given as ``module:name``, with options as they are written in files."""
    try:
        from jsonargparse import ArgumentParser
    except ImportError as error:
        raise ImportError("load_run needs jsonargparse: pip install 'pyro-ext[fit]'") from error
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(function, skip={"data"} if data else set())
    parts = parser.instantiate(parser.parse_object(dict(options)))
    return function(*data, **vars(parts))
