import math

import pytest
import torch

from pyro_ext.datasets import observe, simulate_coalescent, simulate_linear, simulate_subclones
from pyro_ext.datasets.tumour import coalescent
from pyro_ext.datasets.tumour.linear import shuffle
from pyro_ext.ops.mutations import MISSING, is_conflict_free, is_linear


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spectrum(matrices, n):
    """How many mutations of each matrix are in 1, ..., n - 1 cells, (B, n - 1)."""
    sizes = matrices.sum(1)
    return torch.stack([(sizes == i).sum(-1) for i in range(1, n)], -1).double()


def test_site_frequencies_of_the_coalescent():
    """E[number of mutations of i cells] = theta / i, within 3 standard errors, of a random number of mutations."""
    n, theta, batch = 10, 3.0, 20_000
    matrices = simulate_coalescent(batch, n, theta=theta, generator=seeded())
    assert bool(is_conflict_free(matrices).all())
    counts = spectrum(matrices, n)
    error = (counts.mean(0) - theta / torch.arange(1, n)) / (counts.std(0) / math.sqrt(batch))
    assert error.abs().max() < 3
    total = counts.sum(-1)  # Watterson's variance
    a1, a2 = (sum(1 / i**power for i in range(1, n)) for power in (1, 2))
    variance = theta * a1 + theta**2 * a2
    assert abs(total.var() / variance - 1) < 3 * math.sqrt(3 / batch) * 1.5  # its fourth moment is above a Gaussian's


def test_fixed_numbers_of_mutations():
    matrices = simulate_coalescent(2000, 10, 10, generator=seeded(1))
    assert matrices.shape == (2000, 10, 10)
    assert bool(is_conflict_free(matrices).all())
    sizes = matrices.sum(1)
    assert (int(sizes.min()), int(sizes.max())) == (1, 9)
    share = spectrum(matrices, 10).sum(0) / sizes.numel()
    expected = torch.tensor([0.376, 0.183, 0.120, 0.082, 0.070], dtype=torch.float64)  # an independent program's
    torch.testing.assert_close(share[:5], expected, rtol=0, atol=0.012)


def test_two_cells_coalesce_at_rate_one():
    """The number of mutations of two cells is geometric with mean theta."""
    matrices = simulate_coalescent(20_000, 2, theta=1.5, generator=seeded(2))
    number = matrices.any(1).sum(-1).double()
    assert abs(number.mean() - 1.5) < 3 * math.sqrt(1.5 + 1.5**2) / math.sqrt(20_000)
    assert abs((number == 0).double().mean() - 1 / 2.5) < 3 * math.sqrt(0.24 / 20_000)


def test_growth():
    """Two lineages that coalesce at rate e^{gt}: E[T] by numerical integration of the survival function."""
    g, theta = 2.0, 1.0
    matrices = simulate_coalescent(20_000, 2, theta=theta, growth=g, generator=seeded(3))
    t = torch.linspace(0, 20, 200_001, dtype=torch.float64)
    mean = torch.trapezoid((-(g * t).expm1() / g).exp(), t)
    number = matrices.any(1).sum(-1).double()
    assert abs(number.mean() - theta * mean) < 3 * number.std() / math.sqrt(20_000)
    alike = simulate_coalescent(5000, 10, 10, generator=seeded(4)).sum(1)
    grown = simulate_coalescent(5000, 10, 10, growth=5.0, generator=seeded(4)).sum(1)
    assert (grown == 1).double().mean() > (alike == 1).double().mean() + 0.1


def test_genealogies_in_parts_are_as_good(monkeypatch):
    monkeypatch.setattr(coalescent, "_MOST_ENTRIES", 2000)
    matrices = simulate_coalescent(103, 6, theta=2.0, generator=seeded(5))
    assert matrices.shape[:2] == (103, 6)
    assert matrices[:, :, -1].any()
    assert bool(is_conflict_free(matrices).all())


def test_few_mutations():
    assert simulate_coalescent(2, 3, theta=1e-9, generator=seeded()).shape == (2, 3, 0)
    assert simulate_coalescent(1, 2, 1, generator=seeded()).sum() == 1


def test_subclones():
    matrices = simulate_subclones(60, 10, 8, generator=seeded(6))
    assert matrices.shape == (60, 10, 8)
    assert bool(is_conflict_free(matrices).all())
    assert bool(matrices.any(1).all())
    assert not bool(is_linear(matrices).all())


def test_subclones_without_division_or_death():
    """One cell gains a mutation in each step with probability p; only that cell can be sampled."""
    matrices = simulate_subclones(5, 1, 3, steps=30, division=0.0, mutation=0.5, death=0.0, generator=seeded(7))
    assert bool(matrices.all())
    with pytest.raises(ValueError, match="hardly any tumour has 2 cells and 1 mutations"):
        simulate_subclones(3, 2, 1, steps=5, division=0.0, generator=seeded())


def test_two_steps():
    """All that can happen in two steps of division or mutation, among tumours with two cells and a mutation of them.

    Mutation, then division: both cells have it, 1/4. Division, then one of each: two of three cells are sampled, the
    mutated one among them with probability 2/3, 1/6. Division, then two mutations, 1/8. Others are drawn anew.
    """
    chances = {"steps": 2, "division": 0.5, "mutation": 0.5, "death": 0.0, "capacity": 4}
    matrices = simulate_subclones(4000, 2, 1, generator=seeded(8), **chances)
    expected = 6 / 13
    share = (matrices.sum((1, 2)) == 2).double().mean()
    assert abs(share - expected) < 3 * math.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 1}, "cells must be an integer of at least 2, got 1"),
        ({"mutations": 0}, "mutations must be"),
        ({"theta": 0.0}, "theta must be"),
        ({"growth": -1.0}, "growth must be"),
    ],
)
def test_wrong_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_coalescent(**{"num_matrices": 2, "cells": 4, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"division": 0.9}, "division, mutation and death must have a sum of at most 1, got 1.2"),
        ({"death": -0.1}, r"death must be a number in \[0, 1\]"),
        ({"capacity": 3}, "capacity must be an integer of at least 4"),
    ],
)
def test_wrong_probabilities(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_subclones(2, 4, 2, **options)


def test_linear_matrices():
    ones = torch.randint(0, 61, (3000,), generator=seeded(9))
    matrices = simulate_linear(ones, 6, 10, generator=seeded(10))
    assert torch.equal(matrices.sum((1, 2)), ones)
    assert bool(is_linear(matrices).all())


def test_linear_sizes_are_uniform():
    """Of 2 mutations with 4 ones together in 4 cells, the larger one has 2, 3 or 4 cells, each with probability 1/3."""
    matrices = simulate_linear(torch.full((9000,), 4), 4, 2, generator=seeded(11))
    largest = matrices.sum(1).max(-1).values
    share = largest.bincount(minlength=5)[2:] / 9000
    assert (share - 1 / 3).abs().max() < 3 * math.sqrt(2 / 9 / 9000)


def test_shuffled_matrices_keep_rows_and_columns():
    matrices = torch.rand(50, 4, 7, generator=seeded(12)) < 0.5
    moved = shuffle(matrices, seeded(13))
    for dim in (1, 2):
        assert torch.equal(matrices.sum(dim).sort(-1).values, moved.sum(dim).sort(-1).values)
    assert not torch.equal(matrices, moved)
    assert torch.equal(is_conflict_free(matrices), is_conflict_free(moved))


def test_frequencies_of_errors():
    truth = torch.rand(4000, 10, 8, generator=seeded(14)) < 0.4
    alpha, beta, gap = 0.05, torch.linspace(0.1, 0.3, 8), torch.tensor([0.0, 0.2] * 5).unsqueeze(-1)
    seen = observe(truth, alpha, beta, gap, generator=seeded(15))
    assert seen.dtype == torch.int8
    there = seen != MISSING
    frequency = (~there).double().mean((0, 2))
    assert bool((frequency[::2] == 0).all())
    assert (frequency[1::2] - 0.2).abs().max() < 4 * math.sqrt(0.16 / 32_000)
    zeros, ones = there & ~truth, there & truth
    assert abs((seen == 1)[zeros].double().mean() - alpha) < 3 * math.sqrt(alpha * (1 - alpha) / int(zeros.sum()))
    for column, rate in enumerate(beta.tolist()):
        own = ones[..., column]
        lost = (seen[..., column] == 0)[own].double().mean()
        assert abs(lost - rate) < 3.5 * math.sqrt(rate * (1 - rate) / int(own.sum()))
    assert torch.equal(observe(truth), truth.to(torch.int8))


@pytest.mark.parametrize("rate", [1.0, -0.1, math.nan, "x", torch.tensor([0.5, 1.0])])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match=r"false_negative must be a number in \[0, 1\)"):
        observe(torch.ones(2, 2), 0.1, rate)


def test_rates_of_another_shape():
    with pytest.raises(ValueError, match=r"rates must broadcast against matrices \(3, 2\)"):
        observe(torch.ones(3, 2), torch.rand(5, 3, 2))
