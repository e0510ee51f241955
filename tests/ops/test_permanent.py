"""Permanents and matchings against sums over all permutations."""

import math
from itertools import permutations

import pytest
import torch

from pyro_ext.ops.permanent import log_permanent, sample_matchings

INF = math.inf


def by_listing(potentials):
    n = potentials.shape[-1]
    orders = torch.tensor(list(permutations(range(n))))
    return potentials[..., torch.arange(n), orders].sum(-1).logsumexp(-1)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_against_listing(n, dtype):
    potentials = 3 * torch.randn(2, 3, n, n, dtype=dtype)
    result = log_permanent(potentials)
    assert result.dtype == dtype
    torch.testing.assert_close(
        result, by_listing(potentials), rtol=1e-12 if dtype == torch.float64 else 1e-6, atol=1e-6
    )


def test_zeros():
    potentials = torch.randn(5, 5, dtype=torch.float64)
    potentials[0, :4] = potentials[3, 2] = -INF
    torch.testing.assert_close(log_permanent(potentials), by_listing(potentials))
    none = torch.tensor([[0.0, 0.0, 0.0], [-INF, -INF, 0.0], [-INF, -INF, 0.0]], requires_grad=True)
    total = log_permanent(none)
    assert total == -INF
    assert torch.equal(torch.autograd.grad(total, none)[0], torch.zeros(3, 3))


def test_derivatives():
    potentials = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_permanent, (potentials,))
    assert torch.autograd.gradgradcheck(log_permanent, (potentials,))


def test_known_permanents():
    assert float(log_permanent(torch.zeros(12, 12, dtype=torch.float64))) == pytest.approx(math.lgamma(13), rel=1e-13)
    derangements = torch.zeros(8, 8, dtype=torch.float64).fill_diagonal_(-INF)
    assert float(log_permanent(derangements).exp()) == pytest.approx(14833, rel=1e-12)


def test_footrule_mallows_normaliser():
    """Mallows' distribution with the footrule distance is a distribution of matchings with scores -theta |i - j|."""
    n, theta = 6, 0.7
    place = torch.arange(n, dtype=torch.float64)
    distance = torch.tensor([sum(abs(i - p) for i, p in enumerate(order)) for order in permutations(range(n))])
    expected = (-theta * distance.double()).logsumexp(0)
    torch.testing.assert_close(log_permanent(-theta * (place[:, None] - place).abs()), expected)


def test_samples_follow_the_weights():
    """A chi-square test over the 24 permutations of each of two matrices, false alarms 1e-6."""
    from pyro_ext.distributions.goodness_of_fit import chi_square_p_value, counts_of

    potentials = torch.randn(2, 4, 4, dtype=torch.float64)
    potentials[1, 0, :3] = -INF
    orders = torch.tensor(list(permutations(range(4))))
    probs = (potentials[:, torch.arange(4), orders].sum(-1) - log_permanent(potentials).unsqueeze(-1)).exp().t()
    draws = sample_matchings(potentials, 20_000)
    assert draws.shape == (20_000, 2, 4)
    counts = counts_of(draws, orders)
    assert (counts[probs == 0] == 0).all()
    assert float(chi_square_p_value(counts, probs).min()) > 1e-6


def test_largest_size():
    potentials = torch.randn(18, 18, dtype=torch.float64, requires_grad=True)
    (marginals,) = torch.autograd.grad(log_permanent(potentials), potentials)
    assert (marginals.sum(-1) - 1).abs().max() < 1e-12
    assert (marginals.sum(-2) - 1).abs().max() < 1e-12
    draws = torch.nn.functional.one_hot(sample_matchings(potentials, 4000), 18).double()
    errors = (marginals * (1 - marginals) / 4000).sqrt().clamp_min(1e-4)
    assert ((draws.mean(0) - marginals).abs() / errors).max() < 5  # 324 cells: false alarm 2e-4


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 4), r"batch_shape \+ \(N, N\)"),
        ((0, 0), "N at least 1"),
        ((19, 19), "19 rows: .* at most 18, use a relaxed"),
    ],
)
def test_wrong_shapes_are_refused(shape, message):
    for call in (log_permanent, lambda x: sample_matchings(x, 1)):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(shape))
