"""Scores against cases worked out by hand."""

import math

import pytest
import torch

from pyro_ext.models.disentangling import dci, mutual_information_gap

SIZES = (3, 4, 5)
GRID = torch.cartesian_prod(*[torch.arange(size) for size in SIZES]).repeat(25, 1)  # 1,500 rows, independent factors


def noise(columns):
    return torch.randn(len(GRID), columns, generator=torch.Generator().manual_seed(1))


def test_a_perfect_code():
    """Each feature is one factor, in another order and another scale; a fourth feature says nothing."""
    codes = torch.cat([-2.0 * GRID.flip(1).double() + 1.0, noise(1).double()], 1)
    scores = dci(codes, GRID)
    assert scores.disentanglement == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(scores.completeness, torch.ones(3))
    torch.testing.assert_close(scores.informativeness, torch.ones(3))
    torch.testing.assert_close(mutual_information_gap(codes, GRID), torch.ones(3), atol=0.02, rtol=0)


def test_an_independent_code():
    """A forest of deep trees finds the same chance patterns in all features alike."""
    codes = noise(4)
    scores = dci(codes, GRID)
    assert scores.disentanglement < 0.02
    assert scores.completeness.max() < 0.02
    guess = 1 / torch.tensor(SIZES)
    error = (guess * (1 - guess) / 375).sqrt()
    assert ((scores.informativeness - guess).abs() < 4.5 * error).all()
    assert mutual_information_gap(codes, GRID).max() < 0.03


def test_one_feature_for_two_factors_and_two_features_for_one():
    """The first feature numbers the pairs of the first two factors; the third factor has two copies."""
    codes = torch.stack([4.0 * GRID[:, 0] + GRID[:, 1], GRID[:, 2], GRID[:, 2]], 1)
    scores = dci(codes, GRID)
    torch.testing.assert_close(scores.importance[0], torch.tensor([1.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    # The first feature is about two of three factors, at twice the weight of the others together.
    assert scores.disentanglement == pytest.approx((2 * (1 - math.log(2) / math.log(3)) + 1) / 3, abs=1e-5)
    torch.testing.assert_close(scores.completeness[:2], torch.ones(2))
    torch.testing.assert_close(mutual_information_gap(codes, GRID), torch.tensor([1.0, 1.0, 0.0]))


def test_gap_by_hand():
    """A feature that says whether the factor is above 1 of 0 .. 3 holds log 2 of its log 4."""
    factor = torch.arange(4).repeat(10)[:, None]
    codes = torch.stack([(factor[:, 0] > 1).float(), torch.ones(40)], 1)
    torch.testing.assert_close(mutual_information_gap(codes, factor), torch.tensor([0.5]))
    both = torch.cat([factor.float(), codes[:, :1]], 1)
    torch.testing.assert_close(mutual_information_gap(both, factor), torch.tensor([0.5]))


def test_a_single_feature_or_factor():
    scores = dci(GRID[:, :1].float(), GRID[:, :1])
    assert math.isnan(scores.disentanglement)
    assert scores.completeness.isnan().all()
    assert scores.informativeness.tolist() == [1.0]


def test_gap_on_another_device_and_type():
    for dtype in (torch.float32, torch.float64):
        assert mutual_information_gap(GRID.to(dtype), GRID).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("score", [dci, mutual_information_gap])
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (
            torch.zeros(5, 2),
            torch.zeros(4, 2).long(),
            r"codes must have shape \(N, D\) and factors .* \(4, 2\)",
        ),
        (torch.zeros(5), torch.zeros(5, 2).long(), r"got \(5,\) and \(5, 2\)"),
        (torch.zeros(5, 2), torch.rand(5, 2), "factors must hold integers, got torch.float32"),
        (torch.zeros(5, 2), torch.tensor([[0, 1]] * 4 + [[1, 1]]), "factor 1 has one value only; leave it out"),
    ],
)
def test_bad_shapes(score, codes, factors, message):
    with pytest.raises(ValueError, match=message):
        score(codes, factors)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dci(noise(2), GRID, num_trees=0), "num_trees must be an integer of at least 1"),
        (
            lambda: dci(noise(2), GRID, held_out=1.0),
            "held_out must leave rows on both sides .* got 1.0 of 1500",
        ),
        (lambda: mutual_information_gap(noise(2), GRID, bins=1), "bins must be an integer of at least 2"),
        (lambda: mutual_information_gap(noise(1), GRID), "codes must have at least two features for a gap"),
    ],
)
def test_bad_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
