import os
from pathlib import Path

import pytest
import torch

from pyro_ext.datasets import simulated_tumours
from pyro_ext.ops.mutations import fill_missing, is_conflict_free, observation_nll
from pyro_ext.phylo import MutationMatrix, maximum_likelihood_phylogeny, perfect_phylogeny, read_mutations

pytest.importorskip("pysat", reason="python-sat is not installed")

FREE = (torch.arange(2**16).unsqueeze(-1) >> torch.arange(16) & 1).reshape(-1, 4, 4)
FREE = FREE[is_conflict_free(FREE)]


def test_all_matrices_without_conflicts():
    """The optimum over all 21,196 of them, of matrices with missing entries and equal rows or columns."""
    observed = torch.rand(20, 4, 4, generator=torch.Generator().manual_seed(0)).mul(2.3).to(torch.int8)
    observed[observed == 2] = 3
    observed[:4, 3], observed[4:8, :, 2] = observed[:4, 0], observed[4:8, :, 1]
    for place, (alpha, beta) in zip(range(20), [(0.02, 0.15), (0.3, 0.1), (1e-6, 0.4)] * 7, strict=False):
        result = maximum_likelihood_phylogeny(MutationMatrix.of(observed[place]), alpha, beta)
        costs = observation_nll(observed[place], FREE.double(), alpha, beta)
        assert result.negative_log_likelihood == pytest.approx(float(costs.min()), abs=1e-3)
        assert bool(is_conflict_free(result.matrix.values))
        changed = (result.matrix.values != observed[place]) & (observed[place] != 3)
        assert result.gained + result.lost == int(changed.sum())


def test_simulated_matrices_are_no_better():
    data = simulated_tumours(num_train=20, num_valid=2, labels="matrix", cells=12, mutations=8)
    for observed, truth in zip(data.train.x, data.train.y, strict=True):
        result = maximum_likelihood_phylogeny(MutationMatrix.of(observed), 0.002, 0.1)
        assert result.negative_log_likelihood <= observation_nll(observed, truth, 0.002, 0.1) + 1e-3
        perfect_phylogeny(result.matrix)


def test_a_matrix_without_conflicts_stays():
    matrix = MutationMatrix.of(FREE[5000], ["a", "b", "c", "d"])
    result = maximum_likelihood_phylogeny(matrix, 0.01, 0.1)
    assert torch.equal(result.matrix.values, matrix.values)
    assert (result.matrix.cells, result.gained, result.lost) == (matrix.cells, 0, 0)
    nothing = maximum_likelihood_phylogeny(MutationMatrix.of([[3, 3], [3, 3]]), 0.01, 0.1)
    assert (nothing.negative_log_likelihood, nothing.gained, nothing.lost) == (0, 0, 0)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((0.0, 0.1), r"false_positive must be a number in \(0, 1\), got 0.0"),
        ((0.1, 1.0), r"false_negative must be a number in \(0, 1\)"),
        ((0.5, 0.6), "must have a sum below 1, got 0.5 . 0.6"),
    ],
)
def test_wrong_rates(rates, message):
    with pytest.raises(ValueError, match=message):
        maximum_likelihood_phylogeny(MutationMatrix.of([[1]]), *rates)


def test_without_the_solver(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pysat.formula", None)
    with pytest.raises(ImportError, match="pip install python-sat"):
        maximum_likelihood_phylogeny(MutationMatrix.of([[1]]), 0.1, 0.1)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rates", "optimum", "gained"),
    [
        ("tnbc", (1.24e-6, 0.0973), 107.27, 38),
        ("renal_cell_carcinoma", (2.67e-5, 0.1643), 153.08, 46),
        ("myeloproliferative_neoplasms18", (6.04e-6, 0.4309), 256.01, 128),
        pytest.param("acute_lymphocytic_leukemia6", (1e-6, 0.17857), 541.69, 191, marks=pytest.mark.slow),
    ],
)
def test_real_matrices(name, rates, optimum, gained):
    if not os.environ.get("PYRO_EXT_DATA"):
        pytest.skip("PYRO_EXT_DATA is not set")
    matrix = read_mutations(Path(os.environ["PYRO_EXT_DATA"]) / "tumour" / f"{name}.csv")
    result = maximum_likelihood_phylogeny(matrix, *rates)
    assert not bool(is_conflict_free(fill_missing(matrix.values)))
    assert result.negative_log_likelihood == pytest.approx(optimum, abs=0.006)
    assert (result.gained, result.lost) == (gained, 0)
