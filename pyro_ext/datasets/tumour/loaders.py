"""Simulated mutation matrices with what is to be inferred of them, and matrices of real patients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pyro_ext.datasets.base import IndexedDataset, Splits, WholeObject
from pyro_ext.datasets.locate import MissingDataError, find_file, how_to_get
from pyro_ext.datasets.tumour.simulator import Genealogy, Labels, TumourSimulator
from pyro_ext.phylo import MutationMatrix, read_mutations
from pyro_ext.utils.checks import positive_int

__all__ = ["TUMOURS", "SimulatedTumours", "TumourMatrix", "simulated_tumours", "tumour"]

TUMOURS = (
    "acute_lymphocytic_leukemia1",
    "acute_lymphocytic_leukemia4",
    "acute_lymphocytic_leukemia6",
    "colorectal1",
    "colorectal2",
    "colorectal3",
    "erbc",
    "myeloproliferative_neoplasms18",
    "renal_cell_carcinoma",
    "tnbc",
)
"""The names of the real matrices."""

_FOLDER = "tumour"
_SOURCE = (
    "the real data of scphylo-tools (https://github.com/faridrashidi/scphylo-tools, scphylo/datasets/real), as CSV,"
)


@dataclass(kw_only=True)
class SimulatedTumours(Splits):
    """Simulated mutation matrices, ``x``, with what is to be inferred of them, ``y``.

    Args:
        labels: what ``y`` is: ``"noise"``, ``"branching"`` or ``"matrix"``, see :func:`simulated_tumours`.
        false_positive: the probability that a 0 is observed as 1.
        false_negative: the probability that a 1 is observed as 0.
        missing: the probability that an entry is missing.
        simulator: what has drawn the matrices.
    """

    labels: Labels
    false_positive: float
    false_negative: float
    missing: float
    simulator: TumourSimulator


@dataclass(kw_only=True)
class TumourMatrix(Splits):
    """The mutation matrix of a patient. ``train`` is the matrix as a :class:`~pyro_ext.datasets.WholeObject`.

    Args:
        matrix: the matrix with its names.
    """

    matrix: MutationMatrix


def tumour(matrix: str = "tnbc", steps_per_epoch: int = 100) -> TumourMatrix:
    """Load the mutation matrix of a patient.

    Args:
        matrix: one of :data:`TUMOURS`, whose files are looked for in ``$PYRO_EXT_DATA/tumour/``, or the path of a table
            that :func:`~pyro_ext.phylo.read_mutations` reads.
        steps_per_epoch: the number of steps that make an epoch.

    Raises:
        ValueError: if it is neither a name nor the path of a file, or the file holds no mutation matrix.
        MissingDataError: if the file of a name is missing.
    """
    if matrix in TUMOURS:
        path = find_file(_FOLDER, f"{matrix}.csv")
        if path is None:
            raise MissingDataError(how_to_get(f"{matrix}.csv was", _SOURCE, _FOLDER))
    elif Path(matrix).is_file():
        path = Path(matrix)
    else:
        raise ValueError(f"matrix must be the path of a file or one of {', '.join(TUMOURS)}; got {matrix!r}")
    table = read_mutations(path)
    return TumourMatrix(
        path.name.partition(".")[0], WholeObject(table.values, steps_per_epoch=steps_per_epoch), matrix=table
    )


def simulated_tumours(
    num_train: int = 20000,
    num_valid: int = 2000,
    labels: Labels = "noise",
    cells: int = 10,
    mutations: int = 10,
    false_positive: float = 0.002,
    false_negative: float = 0.1,
    missing: float = 0.0,
    random_rates: bool = False,
    genealogy: Genealogy = "coalescent",
    growth: float = 0.0,
    seed: int = 0,
) -> SimulatedTumours:
    """Simulate mutation matrices of tumours, and what sequencing makes of them.

    What is to be inferred is one of three things.

    * ``"noise"``: the label is 1 for a matrix with errors, and 0 for one without. Half of the matrices are of each
      kind. Errors are drawn again until the matrix has a conflict; where n m draws give none, as for 2 of 1,000
      matrices at the default rates, the true matrix is drawn again, too.
    * ``"branching"``: the label is 1 for a simulated tumour that has branches, and 0 for a matrix that has none, is
      otherwise random and has the same number of ones (:func:`.simulate_linear`). Both have cells and mutations in a
      random order, and errors of the given rates; the publication trains without errors.
    * ``"matrix"``: ``y`` is the true matrix, int8 ``(N, n, m)``. Errors are drawn again until there is a conflict.

    Args:
        num_train: the number of matrices to train on.
        num_valid: the number of matrices to validate on.
        labels: what is to be inferred: ``"noise"``, ``"branching"`` or ``"matrix"``.
        cells: the number n of cells, at least 3.
        mutations: the number m of mutations, at least 2.
        false_positive: the probability that a 0 is observed as 1.
        false_negative: the probability that a 1 is observed as 0.
        missing: the probability that an entry is missing.
        random_rates: whether each matrix has rates of errors of its own, both the same uniform fraction of those
            given, for networks that are to work at all of them.
        genealogy: ``"coalescent"`` as in the publication, or ``"subclones"``, a population that grows in steps.
        growth: the rate of exponential growth of the coalescent.
        seed: the seed of all draws.

    Returns:
        ``x`` int8 ``(N, n, m)``, with 3 for missing entries; ``y`` int64 ``(N,)``, or int8 ``(N, n, m)``.

    Raises:
        ValueError: if an argument is out of range, or errors hardly ever make conflicts.

    References:
        | Tumor phylogeny topology inference via deep learning (Azer et al., 2020)
        | https://doi.org/10.1016/j.isci.2020.101655

    Example:
        >>> data = simulated_tumours(num_train=100, num_valid=10)
        >>> data.train, data.train.y.sum()
        (IndexedDataset(x (100, 10, 10), labels (100,)), tensor(50))
    """
    positive_int("num_train", num_train)
    positive_int("num_valid", num_valid)
    positive_int("seed", seed, 0)
    drawing = TumourSimulator(
        labels, cells, mutations, false_positive, false_negative, missing, random_rates, genealogy, growth
    )
    generator = torch.Generator().manual_seed(seed)
    train, valid = (IndexedDataset(*drawing.draw(number, generator)) for number in (num_train, num_valid))
    return SimulatedTumours(
        "simulated_tumours",
        train,
        valid,
        labels=labels,
        false_positive=false_positive,
        false_negative=false_negative,
        missing=missing,
        simulator=drawing,
    )
