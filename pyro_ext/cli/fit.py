"""``pyro-ext fit MODEL``: train, evaluate, and write a folder of results."""

from __future__ import annotations

import logging
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from pyro_ext.cli.commands import COMMANDS, Commands
from pyro_ext.models import AVAILABLE, describe

if TYPE_CHECKING:
    from pyro_ext.inference.fit import Run

__all__ = ["add_parser", "run"]

_DESCRIPTION = "Fit a model to data. The options depend on the model: pyro-ext fit MODEL --help lists them."


def add_parser(commands: Commands) -> None:
    """Add the parser; only the chosen model's own is made in full, since that takes seconds."""
    parser = ArgumentParser(usage="pyro-ext fit MODEL [options]", description=_DESCRIPTION, exit_on_error=False)
    commands.add_subcommand("fit", parser, help=COMMANDS["fit"].help)
    models = parser.add_subcommands(dest="model", metavar="MODEL", required=True)
    words = commands.arguments
    chosen = words[0] if words and not words[0].startswith("-") else None
    if chosen is None and not {"-h", "--help"} & {*words}:
        raise ValueError(f"fit needs a MODEL before its options: one of {', '.join(AVAILABLE)}")
    look = None
    if chosen is not None:
        if find_spec("lightning") is None:
            raise ImportError("fitting needs lightning: pip install 'pyro-ext[fit]'")
        from pyro_ext.cli.fit_arguments import first_look, full_parser, rewritten

        look = first_look(chosen, words[1:])
        words[1:] = rewritten(look, words[1:])
    for name, model in describe().items():
        own = full_parser(look) if look is not None and name == chosen else ArgumentParser()
        models.add_subcommand(name, own, help=f"{model.summary} ({model.paper.split(',')[0]})")


def run(namespace: Namespace) -> int:
    """Fit the model and write the results.

    Raises:
        ValueError: if an option is wrong; nothing has been written then.
        KeyboardInterrupt: on Ctrl-C, after a hint how to continue.
    """
    from pyro_ext.cli.fit_report import write_results

    # Notices about hardware and services; errors and warnings still come through.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    name = namespace.model
    options = namespace[name]
    out = Path(options.out or Path("runs") / (options.name or name))
    job, built = _prepare(name, options, out)
    try:
        result = job.train()
    except KeyboardInterrupt:
        if job.folder is not None and job.folder.checkpoint.is_file():
            print(f"continue with: pyro-ext fit {name} --out {out} --resume", file=sys.stderr)
        raise
    except ValueError:  # not an option's fault any more
        traceback.print_exc()
        return 1
    if job.trainer.is_global_zero:
        write_results(out, name, options, built, result)
        print(f"results are in {out}")
    return 0


def _prepare(name: str, options: Namespace, out: Path) -> tuple[Run, Any]:
    import pyro
    import torch

    from pyro_ext.cli.fit_arguments import FirstLook, builder, full_parser
    from pyro_ext.datasets import load
    from pyro_ext.inference.fit import local_params, prepare

    parser = full_parser(FirstLook(name, options.data.name, out, (), False))
    data = load(options.data.name, **_arguments(options.data, without="name"))
    seed = options.seed if options.seed is not None else int(torch.seed() % 2**31)
    config = _config(parser, options, seed)
    parts = parser.instantiate(options)
    if 0 <= seed < 2**31:  # otherwise prepare says what is wrong
        pyro.set_rng_seed(seed)
    with local_params():
        built = builder(name)(data, **_arguments(parts.model))
    built.elbo = parts.elbo or built.elbo
    flags = {flag: value for flag, value in _arguments(parts.trainer).items() if value is not None}
    flags["callbacks"] = [*_as_list(flags.get("callbacks")), _saves_config(config, out)]
    job = prepare(
        built,
        data,
        lr=options.lr,
        lr_decay=options.lr_decay,
        lr_decay_every=options.lr_decay_every,
        seed=seed,
        out=out,
        resume=options.resume,
        batch_size=options.batch_size,
        checkpoint_every_n_steps=options.checkpoint_every_n_steps,
        **flags,
    )
    return job, built


def _arguments(options: Namespace, without: str = "") -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name != without}


def _as_list(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return [*callbacks] if isinstance(callbacks, (list, tuple)) else [callbacks]


def _config(parser: ArgumentParser, options: Namespace, seed: int) -> str:
    noted = options.clone()
    noted.seed = seed
    noted.resume = False
    noted.pop("config", None)
    return str(parser.dump(noted))


def _saves_config(text: str, out: Path) -> Any:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from pyro_ext.inference.fit.folder import write_atomically

    class SaveConfig(Callback):
        """Writes the options of the run when it is about to begin."""

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.is_global_zero:
                out.mkdir(parents=True, exist_ok=True)
                write_atomically(out / "config.yaml", text)

    return SaveConfig()
