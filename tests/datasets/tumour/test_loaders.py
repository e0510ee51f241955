import os

import pytest
import torch

from pyro_ext.datasets import TUMOURS, MissingDataError, TumourSimulator, load, simulated_tumours, tumour
from pyro_ext.ops.mutations import MISSING, fill_missing, is_conflict_free, is_linear


def test_noisy_matrices_have_conflicts_and_clean_ones_none():
    data = simulated_tumours(num_train=400, num_valid=51)
    for part, number in ((data.train, 400), (data.valid, 51)):
        assert (len(part), int(part.y.sum())) == (number, number // 2)
        assert torch.equal(is_conflict_free(part.x), part.y == 0)
        assert part.x.dtype == torch.int8
    assert not torch.equal(data.train.x[:51], data.valid.x)
    assert 100 < int(data.train.y[:200].sum() * 2) < 300  # in random order


def test_classes_of_branching_have_as_many_ones():
    data = simulated_tumours(
        num_train=600, num_valid=10, labels="branching", cells=8, mutations=6, false_positive=0, false_negative=0
    )
    x, y = data.train.x, data.train.y
    assert torch.equal(is_linear(x), y == 0)
    assert bool(is_conflict_free(x).all())
    ones = x.sum((1, 2))
    assert torch.equal(ones[y == 0].sort().values, ones[y == 1].sort().values)
    odd = simulated_tumours(num_train=7, num_valid=3, labels="branching", false_positive=0, false_negative=0)
    assert (len(odd.train), int(odd.train.y.sum())) == (7, 3)


def test_true_matrices():
    data = simulated_tumours(
        num_train=300, num_valid=10, labels="matrix", cells=5, mutations=9, missing=0.1, false_positive=0.05
    )
    x, y = data.train.x, data.train.y
    assert bool(is_conflict_free(y).all())
    assert not bool(is_conflict_free(fill_missing(x)).any())
    assert (x.shape, y.shape, y.dtype) == ((300, 5, 9), (300, 5, 9), torch.int8)
    assert abs((x == MISSING).double().mean() - 0.1) < 0.02
    assert not bool((y == MISSING).any())


def test_rates_that_vary():
    """Of chains whose errors are false negatives only: the share of ones that are lost is uniform from 0 to .4."""
    simulator = TumourSimulator("branching", 20, 20, 0.0, 0.4, random_rates=True)
    seen = simulator.given(torch.ones(400), torch.Generator().manual_seed(0))
    fixed = TumourSimulator("branching", 20, 20, 0.0, 0.2).given(torch.ones(400), torch.Generator().manual_seed(0))
    assert abs(seen.double().mean() - fixed.double().mean()) < 0.02
    noisy = TumourSimulator(random_rates=True).draw(40, torch.Generator().manual_seed(1))
    assert torch.equal(is_conflict_free(noisy[0]), noisy[1] == 0)


@pytest.mark.parametrize("labels", ["noise", "branching"])
def test_matrices_for_labels(labels):
    simulator = TumourSimulator(labels, 6, 8, 0.0 if labels == "branching" else 0.01, 0.0)
    y = torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.5
    x = simulator.given(y, torch.Generator().manual_seed(1))
    assert x.shape == (60, 6, 8)
    assert torch.equal(is_linear(x) if labels == "branching" else is_conflict_free(x), ~y)
    assert len(simulator.draw(1)[0]) == 1
    with pytest.raises(ValueError, match="labels='matrix' has no labels"):
        TumourSimulator("matrix").given(y)


@pytest.mark.parametrize("options", [{"genealogy": "subclones"}, {"growth": 3.0}])
def test_other_tumours(options):
    data = simulated_tumours(num_train=20, num_valid=4, **options)
    assert torch.equal(is_conflict_free(data.train.x), data.train.y == 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "clean"}, "labels must be one of noise, branching, matrix; got 'clean'"),
        ({"cells": 2}, "cells must be an integer of at least 3"),
        ({"mutations": 1}, "mutations must be an integer of at least 2"),
        ({"false_positive": 1.0}, r"false_positive must be a number in \[0, 1\), got 1.0"),
        ({"missing": -0.1}, r"missing must be a number in \[0, 1\)"),
        ({"genealogy": "subclones", "growth": 1.0}, "growth is of the coalescent"),
        ({"num_train": 200, "false_positive": 0.0, "false_negative": 0.0}, "hardly ever make a conflict"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        simulated_tumours(**{"num_train": 10, "num_valid": 4, **options})


def test_a_matrix_of_ones_own(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("cell\ta\tb\nA\t1\tNA\nB\t0\t1\n")
    data = tumour(str(path), steps_per_epoch=5)
    assert (data.name, data.matrix.cells, data.train.steps_per_epoch) == ("mine", ("A", "B"), 5)
    assert data.train[0][0].tolist() == [[1, MISSING], [0, 1]]


def test_files_that_are_not_there(monkeypatch):
    monkeypatch.delenv("PYRO_EXT_DATA", raising=False)
    with pytest.raises(MissingDataError, match=r"tnbc.csv was not found: get .* folder tumour inside"):
        load("tumour")
    with pytest.raises(ValueError, match=r"matrix must be the path of a file or one of .*tnbc; got 'none.csv'"):
        load("tumour", matrix="none.csv")


@pytest.mark.data
@pytest.mark.parametrize("name", TUMOURS)
def test_real_matrices(name):
    if not os.environ.get("PYRO_EXT_DATA"):
        pytest.skip("PYRO_EXT_DATA is not set")
    data = tumour(name)
    assert (data.name, data.matrix.shape[0] > 5) == (name, True)
