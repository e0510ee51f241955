"""The time of ``import pyro_ext`` and of ``import pyro``, each in a new interpreter: the least of several runs."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

WITH_SUBPACKAGES = "import pyro_ext.ops, pyro_ext.distributions, pyro_ext.inference, pyro_ext.models"


def seconds(statement: str) -> float:
    """Return the wall time, in seconds, of a new interpreter that runs ``statement`` and ends."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="the number of runs of each import (default: 7)")
    repeats = parser.parse_args().repeats
    statements = ["pass", "import pyro", "import pyro_ext", WITH_SUBPACKAGES]
    best = dict.fromkeys(statements, float("inf"))
    for _ in range(repeats + 1):  # in turns, so that other work slows all alike; the first round fills caches
        best = {statement: min(best[statement], seconds(statement)) for statement in statements}
    bare = best["pass"]
    for statement in statements[1:]:
        own = best[statement] - bare
        ratio = own / (best["import pyro"] - bare)
        print(f"{own:7.3f} s  {ratio:5.2f} x pyro  {statement}")


if __name__ == "__main__":
    main()
