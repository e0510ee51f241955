"""The most probable mutation matrix that has a perfect phylogeny, exactly, by weighted MaxSAT."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.mutations import MISSING, observation_nll
from pyro_ext.phylo.mutation_matrix import MutationMatrix
from pyro_ext.utils.checks import number_between

__all__ = ["OptimalPhylogeny", "maximum_likelihood_phylogeny"]

_SCALE = 10_000  # of weights, which the solver takes as integers: they are right to .00005 nats


class OptimalPhylogeny(NamedTuple):
    """A mutation matrix without conflicts, of the largest likelihood.

    Attributes:
        matrix: the matrix, without missing entries.
        negative_log_likelihood: that of the observed entries, in nats.
        gained: the number of observed zeros that are ones in it.
        lost: the number of observed ones that are zeros in it.
    """

    matrix: MutationMatrix
    negative_log_likelihood: float
    gained: int
    lost: int


def maximum_likelihood_phylogeny(
    matrix: MutationMatrix, false_positive: float, false_negative: float
) -> OptimalPhylogeny:
    r"""Find the matrix without conflicts that makes what was observed most probable.

    .. math::  \min_A \; - \sum_{ij \text{ observed}} \log P(A'_{ij} \mid A_{ij}) \quad\text{such that no two columns of
        } A \text{ show all three gametes.}

    Each pair of columns has three variables, whether it shows each gamete, of which one must be false; changing an
    entry costs the difference of its log-likelihoods. RC2 of python-sat solves this exactly. Weights are rounded to
    integers, 1/10,000 of a nat each, so that the optimum is exact up to half of that for each entry. Equal rows and
    equal columns are merged before, without loss. The time grows exponentially in the worst case: 10 x 10 matrices take
    some milliseconds, real ones of up to 600 entries seconds to minutes, and others do not end.

    Args:
        matrix: cells x mutations; missing entries cost nothing.
        false_positive: the probability that a 0 is observed as 1, in (0, 1).
        false_negative: the probability that a 1 is observed as 0, in (0, 1).

    Raises:
        ValueError: if a rate lies outside (0, 1), or they have a sum of 1 or more, by which observations say the
            opposite of what they show.
        ImportError: if python-sat is not installed.

    References:
        | PhISCS: a combinatorial approach for subperfect tumor phylogeny reconstruction via integrative use of
        | single-cell and bulk sequencing data (Malikic et al., 2019), https://doi.org/10.1101/gr.234435.118
        | RC2: an efficient MaxSAT solver (Ignatiev et al., 2019), https://doi.org/10.3233/SAT190116

    Example:
        >>> optimum = maximum_likelihood_phylogeny(MutationMatrix.of([[1, 1], [1, 0], [0, 1]]), 0.001, 0.1)
        >>> optimum.matrix.values.tolist(), optimum.gained, optimum.negative_log_likelihood
        ([[1, 1], [1, 1], [0, 1]], 1, 2.72...)
    """
    alpha = number_between("false_positive", false_positive, 0, 1, "()")
    beta = number_between("false_negative", false_negative, 0, 1, "()")
    if alpha + beta >= 1:
        raise ValueError(f"false_positive and false_negative must have a sum below 1, got {alpha:g} + {beta:g}")
    cost = {1: math.log((1 - beta) / alpha), 0: math.log((1 - alpha) / beta)}  # of another true entry than observed
    rows, row_of, row_count = _merged(matrix.values)
    columns, column_of, column_count = _merged(rows.mT)
    table = columns.mT.tolist()
    weights = [
        [
            0 if entry == MISSING else round(_SCALE * cost[entry] * r * c)
            for entry, c in zip(line, column_count, strict=True)
        ]
        for line, r in zip(table, row_count, strict=True)
    ]
    solved = torch.tensor(_solve(table, weights), dtype=torch.int8)[row_of][:, column_of]
    observed = matrix.observed
    return OptimalPhylogeny(
        matrix.replace(solved),
        float(observation_nll(matrix.values, solved.double(), alpha, beta)),
        int(((solved == 1) & (matrix.values == 0) & observed).sum()),
        int(((solved == 0) & (matrix.values == 1) & observed).sum()),
    )


def _merged(rows: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Return the distinct rows, which of these each row is, and how often each comes."""
    distinct, group, count = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    return distinct, group, count.tolist()


def _solve(table: list[list[int]], weights: list[list[int]]) -> list[list[int]]:
    """Return the matrix without conflicts that differs from ``table`` by entries of the least weight."""
    try:
        from pysat.examples.rc2 import RC2Stratified
        from pysat.formula import WCNF
    except ImportError as error:
        raise ImportError("maximum_likelihood_phylogeny needs python-sat: pip install python-sat") from error
    n, m = len(table), len(table[0])

    def entry(row: int, column: int) -> int:
        return 1 + row * m + column

    formula: Any = WCNF()
    following = 1 + n * m
    for p, q in combinations(range(m), 2):
        both, first, second = following, following + 1, following + 2
        following += 3
        formula.append([-both, -first, -second])
        for row in range(n):
            one, other = entry(row, p), entry(row, q)
            formula.extend([[-one, -other, both], [-one, other, first], [one, -other, second]])
    for row, column in ((row, column) for row in range(n) for column in range(m)):
        if weights[row][column]:
            sign = 1 if table[row][column] == 1 else -1
            formula.append([sign * entry(row, column)], weight=weights[row][column])
    if not formula.soft:
        return [[0] * m for _ in range(n)]
    with RC2Stratified(formula, solver="g4") as solver:
        true = {literal for literal in solver.compute() if literal > 0}
    return [[int(entry(row, column) in true) for column in range(m)] for row in range(n)]
