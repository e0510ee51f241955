"""``pyro-ext fit MODEL``: train, evaluate, and write a folder of results."""

from __future__ import annotations

import errno
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_ext.cli.errors import naming_options
from pyro_ext.cli.models import model_list
from pyro_ext.models import MODELS

if TYPE_CHECKING:
    from pyro_ext.cli.fit.arguments import Arguments
    from pyro_ext.inference.training import Run

__all__ = ["run"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""Errors of the disk that training writes to; others come from the model's or the data's own code."""


def run(words: Sequence[str]) -> int:
    """Fit the model and write the results.

    Args:
        words: what follows ``fit``.

    Raises:
        ValueError: if an option is wrong; nothing has been written then.
        NotImplementedError: if the ELBO cannot be used on the model; nothing has been written then.
        KeyboardInterrupt: on Ctrl-C, after a hint how to continue.
    """
    if words and words[0] in ("-h", "--help"):
        print(model_list("fit"))
        return 0
    if not words or words[0].startswith("-"):
        raise ValueError(f"fit needs a MODEL before its options: one of {', '.join(MODELS)}, or my_module:build")
    if find_spec("lightning") is None:
        raise ImportError("fitting needs lightning: pip install 'pyro-ext[fit]'")
    from pyro_ext.cli.fit.arguments import Arguments
    from pyro_ext.cli.fit.report import write_results
    from pyro_ext.inference import FitWarning
    from pyro_ext.inference.training.folder import BusyFolderError

    arguments = Arguments.parsed(words[0], words[1:])
    with naming_options(arguments.option_names):
        job = _prepare(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # printed below, without where in the code they come from
            result = job.train()
    except KeyboardInterrupt:
        if job.folder is not None and job.folder.checkpoint.is_file():
            again = ["pyro-ext", "fit", arguments.program.name, "--out", str(arguments.out), "--resume"]
            print(f"continue with: {shlex.join(again)}", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in _DISK:
            traceback.print_exc()
            return 1
        where = f": {error.filename}" if error.filename else ""
        reason = f"{error.strerror or error}{where}"
        print(f"pyro-ext: writing failed: {reason}; --resume continues once it works", file=sys.stderr)
        return 1
    except BusyFolderError:
        raise
    except (ValueError, NotImplementedError):  # not an option's fault any more
        traceback.print_exc()
        return 1
    if job.trainer.is_global_zero:
        for message in result.warnings:
            print(f"warning: {message}", file=sys.stderr)
        for message in write_results(arguments, result):
            print(f"warning: {message}", file=sys.stderr)
        print(f"results are in {arguments.out}")
    return 0


def _prepare(arguments: Arguments) -> Run:
    import pyro
    import torch

    from pyro_ext.inference.training import TrainingPlan, local_params, prepare
    from pyro_ext.utils.checks import positive_int

    program, options = arguments.program, arguments.options
    seed = int(torch.seed() % 2**31) if options.seed is None else options.seed
    positive_int("seed", seed, minimum=0, maximum=2**31 - 1)
    arguments.settings(seed, max_epochs=1)  # refused before anything slow
    with naming_options(name for name in arguments.option_names if name.startswith("--data.")):
        data = program.loaded(arguments.data_options)
    pyro.set_rng_seed(seed)
    with local_params():
        with naming_options(name for name in arguments.option_names if name.startswith("--model.")):
            plan = program.build(data, **arguments.model_options)
        if not isinstance(plan, TrainingPlan):
            raise ValueError(f"MODEL: {program.name!r} must return a TrainingPlan, got {type(plan).__name__}")
        plan = arguments.applied(plan)
    plan.origin = program.origin(*arguments.plain_options())
    trainer, noted = arguments.trainer()
    settings = arguments.settings(seed, trainer.pop("max_epochs"))
    flags = {name: value for name, value in trainer.items() if value is not None}
    flags["callbacks"] = [
        *_as_list(flags.get("callbacks")),
        *_callbacks(arguments, arguments.config(plan, seed, noted)),
    ]
    if not sys.stdout.isatty():
        flags["enable_progress_bar"] = False
    if options.logger is not None:
        flags["logger"] = _logger(options.logger, arguments.out)
    return prepare(
        plan,
        data,
        settings,
        out=arguments.out,
        resume=options.resume,
        overwrite=options.overwrite,
        **flags,
    )


def _as_list(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return [*callbacks] if isinstance(callbacks, (list, tuple)) else [callbacks]


def _callbacks(arguments: Arguments, config: str) -> list[Any]:
    from pyro_ext.cli.fit.progress import Announcement, EpochLines, SaveConfig

    lines = [] if sys.stdout.isatty() else [EpochLines()]
    return [SaveConfig(config, arguments.out), Announcement(), *lines]


def _logger(name: str, out: Path) -> Any:
    from lightning.pytorch import loggers

    from pyro_ext.cli.fit.arguments import LOGGERS
    from pyro_ext.utils.checks import one_of

    one_of("--logger", name, LOGGERS)
    kinds = {
        "csv": loggers.CSVLogger,
        "tensorboard": loggers.TensorBoardLogger,
        "wandb": loggers.WandbLogger,
        "mlflow": loggers.MLFlowLogger,
    }
    try:
        return kinds[name](save_dir=str(out / "logs"))
    except ModuleNotFoundError as error:
        raise ValueError(f"--logger {name}: {' '.join(str(error).split())}") from error
