"""ScisTree2, a solver of cell lineage trees that is in use today, in the ``bench`` group of dependencies."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["has_scistree", "scistree"]


def has_scistree() -> bool:
    """Return whether ScisTree2 is installed."""
    return find_spec("scistree2") is not None


def scistree(x: Tensor, false_positive: float, false_negative: float) -> Tensor:
    """Return the matrix that ScisTree2 finds, by local search in trees, bool ``(n, m)``.

    It takes probabilities that an entry is 0; they are those under a uniform prior.

    Args:
        x: cells x mutations, ``(n, m)``; 1 present, 0 absent, 3 missing.
        false_positive: the rate of false positives.
        false_negative: the rate of false negatives.

    References:
        | ScisTree2 enables large-scale inference of cell lineage trees (Zhang et al., 2025)
        | https://github.com/yufengwudcs/ScisTree2
    """
    import scistree2

    of_one = false_positive / (false_positive + 1 - false_negative)
    of_zero = (1 - false_positive) / (1 - false_positive + false_negative)
    absent = torch.full(x.shape, 0.5, dtype=torch.float64).masked_fill(x == 1, of_one).masked_fill(x == 0, of_zero)
    table = scistree2.probability.from_probs(absent.mT.numpy())
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:  # it writes into the present one
        os.chdir(folder)
        try:
            _, genotypes, _ = scistree2.ScisTree2(threads=1, verbose=False).infer(table)
        finally:
            os.chdir(here)
    return torch.as_tensor(genotypes.to_numpy()).mT.bool()
