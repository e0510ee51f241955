"""Race three gradient estimators on real digits, on the same budget of evaluations.

``python -m pyro_ext.cli.demo --out runs/demo`` fits the categorical variational autoencoder to the bundled digits with
Pyro's ``Trace_ELBO`` (4 particles), with ``TraceLeaveOneOut_ELBO`` (4 codes, each with the mean of the others as its
baseline) and with ``TraceUnorderedSet_ELBO`` (4 distinct codes), which evaluate the model equally often, for several
seeds each, and writes a report. Started again, it continues where it was stopped; what is finished is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_ext.cli.errors import one_line

__all__ = ["main", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; return 0 when done, 2 on bad input, 130 when interrupted.

    Args:
        argv: the words of the command; by default those of this process.
    """
    try:
        return run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return 130
    except Exception as error:
        message = one_line(error)
        if message is None:
            raise
        print(f"demo: {message}", file=sys.stderr)
        return 2


def run(words: Sequence[str]) -> int:
    """Run the race, and print its result.

    Args:
        words: the options.

    Raises:
        ValueError: if an option is wrong, or the folder holds something else.
        OSError: if the folder cannot be written to.
        KeyboardInterrupt: on Ctrl-C.
    """
    options, unknown = _parser().parse_known_args(words)
    if unknown:
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}")
    import torch

    from pyro_ext.cli.demo.race import Settings, race
    from pyro_ext.utils.checks import positive_int

    torch.set_num_threads(positive_int("threads", options.threads))
    settings = Settings(options.epochs, options.seeds, options.seed, options.num_latents)
    done = race(settings, options.out, options.overwrite)
    path = options.out / "report.md"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("**"):
            print(line)
    print(f"report: {path}" + ("" if done else " (finished before; --overwrite runs it again)"))
    return 0


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(
        "python -m pyro_ext.cli.demo", description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="the folder of results (%(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="the number of epochs of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="the number of runs of each estimator (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--num_latents", type=int, default=2, help="the number of latent variables (%(default)s)")
    # networks this small gain nothing from a second thread, and lose much where the machine is busy
    parser.add_argument(
        "--threads", type=int, default=1, help="the number of threads of PyTorch; one is best here (%(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the demonstration in the folder")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
