"""Times of the code of github.com/zcrabbit/sbn, from a checkout ported to Python 3, on one file of trees."""

from __future__ import annotations

import gzip
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

__all__ = ["Peer"]


class Peer:
    """A checkout of the other implementation.

    Args:
        folder: the folder with ``models.py`` and ``utils.py``; both need ete3, bitarray and Biopython.

    Raises:
        SystemExit: if these files do not exist or cannot be imported.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "models.py").is_file():
            raise SystemExit(f"--peer: there is no models.py in {folder}; give a checkout of github.com/zcrabbit/sbn")
        sys.path.insert(0, str(folder))
        try:
            self._models, self._utils = import_module("models"), import_module("utils")
        except (ImportError, SyntaxError) as error:
            raise SystemExit(
                f"--peer: {folder} cannot be imported: {error}; port it to Python 3 and install what it needs"
            ) from error

    def times(self, path: Path) -> dict[str, float]:
        """Return the seconds to read a file, to fit by the simple average, and to make one iteration of EM.

        Args:
            path: a ``.trprobs`` file of MrBayes, plain or gzipped.
        """
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "trees.trprobs"
            plain.write_bytes(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
            read = _seconds(lambda: self._utils.mcmc_treeprob(str(plain), "nexus"))
            trees, names, weights = self._utils.mcmc_treeprob(str(plain), "nexus")
        shares = [weight / sum(weights) for weight in weights]
        taxa = sorted(trees[names[0]].get_leaf_names())

        def fit(iterations: int) -> None:
            self._models.SBN(taxa).bn_em_prob(trees, names, shares, maxiter=iterations, miniter=iterations)

        average = _seconds(lambda: self._models.SBN(taxa).bn_train_prob(trees, names, shares))
        one, two = (_seconds(lambda n=n: fit(n)) for n in (1, 2))
        return {"read, short run": read, "simple average": average, "EM iteration": two - one}


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
