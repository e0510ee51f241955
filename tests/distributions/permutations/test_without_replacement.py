"""Distinct permutations drawn without replacement: masses, frequencies, covered supports, impossible cells."""

import math
from itertools import permutations

import pytest
import torch

from pyro_ext.distributions import PermutationMatching, StickBreakingPermutation
from pyro_ext.distributions.goodness_of_fit import chi_square_p_value

FAMILIES = {
    "stick_breaking": lambda n, *batch, dtype: StickBreakingPermutation(
        1.5 * torch.randn(*batch, n - 1, n - 1, dtype=dtype)
    ),
    "matching": lambda n, *batch, dtype: PermutationMatching(1.5 * torch.randn(*batch, n, n, dtype=dtype)),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 1), (4, 5), (7, 30)])
def test_masses(family, n, k, dtype):
    d = family(n, 2, 3, dtype=dtype)
    draws = d.sample_without_replacement(k)
    size = min(k, math.factorial(n))
    assert draws.values.shape == (size, 2, 3, n, n)
    assert draws.values.dtype == dtype
    assert d.support.check(draws.values).all()
    expected = d.log_prob(draws.values).double()
    torch.testing.assert_close(draws.log_prob, expected, rtol=0, atol=100 * TOLERANCE[dtype])
    total = torch.cat([draws.log_prob, draws.log_rest.unsqueeze(0)]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    flat = draws.values.argmax(-1)
    for i in range(2):
        for j in range(3):
            assert len({tuple(x) for x in flat[:, i, j].tolist()}) == size


@pytest.mark.parametrize("k", [24, 100])
def test_all_of_them(family, k):
    d = family(4, dtype=torch.float64)
    draws = d.sample_without_replacement(k)
    assert {tuple(x) for x in draws.values.argmax(-1).tolist()} == {*permutations(range(4))}
    assert draws.log_rest == -math.inf


def test_frequencies_of_ordered_pairs(family):
    """Pairs follow p(a) p(b) / (1 - p(a)); a chi-square test over the 30 of N = 3, false alarms 1e-6."""
    d = family(3, dtype=torch.float64)
    drawn = d.expand((40_000,)).sample_without_replacement(2).values
    support = d.enumerate_support()
    number = (drawn.unsqueeze(2) == support).flatten(-2).all(-1).int().argmax(-1)  # (2, draws)
    p = d.log_prob(support).exp()
    law_of_pairs = p.unsqueeze(-1) * p / (1 - p.unsqueeze(-1))
    apart = ~torch.eye(6, dtype=torch.bool)
    counts = (number[0] * 6 + number[1]).bincount(minlength=36).reshape(6, 6)
    assert counts.diagonal().sum() == 0
    p_value = chi_square_p_value(counts[apart].unsqueeze(-1), law_of_pairs[apart].unsqueeze(-1))
    assert float(p_value) > 1e-6


def test_impossible_cells_leave_fewer_values():
    potentials = torch.zeros(2, 3, 3, dtype=torch.float64)
    potentials[0, 0, 1:] = -math.inf  # two permutations are left, one
    potentials[1, 0, 1:] = potentials[1, 1, 2] = -math.inf
    d = PermutationMatching(potentials)
    draws = d.sample_without_replacement(4)
    assert d.support.check(draws.values).all()
    assert (draws.log_prob > -math.inf).sum(0).tolist() == [2, 1]
    assert torch.equal(draws.log_rest, torch.full((2,), -math.inf, dtype=torch.float64))
    torch.testing.assert_close(d.log_prob(draws.values[0]), draws.log_prob[0])
    for i, possible in enumerate([2, 1]):
        assert torch.equal(draws.values[possible:, i], draws.values[:1, i].expand(4 - possible, 3, 3))


def test_many_more_permutations_than_can_be_listed():
    d = StickBreakingPermutation(torch.randn(39, 39))
    draws = d.sample_without_replacement(8)
    torch.testing.assert_close(d.log_prob(draws.values).double(), draws.log_prob, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("k", [0, 2.5])
def test_refusal(family, k):
    with pytest.raises(ValueError, match=f"k must be an integer of at least 1, got {k}"):
        family(3, dtype=torch.float64).sample_without_replacement(k)
