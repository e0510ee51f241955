"""Digits at random positions of empty canvases."""

import pytest
import torch

from pyro_ext.datasets import digits, moving_digits
from pyro_ext.ops.windows import crop_windows


@pytest.mark.parametrize("digit_size", [8, 13])
def test_the_digit_is_where_the_label_says(digit_size):
    data = moving_digits(canvas=20, digit_size=digit_size, num_train=60, num_valid=5)
    canvases = data.train.x.unflatten(-1, (20, 20))
    crops = crop_windows(canvases, data.train.y, digit_size)
    assert torch.equal(crops.sum((-1, -2)), canvases.sum((-1, -2)))  # wholly inside of its window
    assert canvases.sum((-1, -2)).min() > 0
    if digit_size == 8:
        assert torch.equal(crops.flatten(1), (digits(binarize=None).train.x[:60] > 0.5).float())


def test_positions_are_spread_over_all_that_fit():
    data = moving_digits(canvas=10, digit_size=8, num_train=500)
    assert data.train.y.unique().tolist() == [row * 10 + column for row in (4, 5, 6) for column in (4, 5, 6)]
    full = moving_digits(canvas=8, digit_size=8, num_train=20)
    assert full.train.y.unique().tolist() == [36]


def test_a_seed_repeats_the_positions():
    first, again, other = (moving_digits(canvas=20, digit_size=8, seed=seed).valid for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.y, other.y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "letters"}, "source must be one of digits, mnist; got 'letters'"),
        ({"canvas": 27}, "canvas must be an integer of at least 28, got 27"),
        ({"digit_size": 0}, "digit_size must be an integer of at least 1, got 0"),
        ({"num_train": 1501}, "num_train must be an integer from 1 to 1500, got 1501"),
        ({"num_valid": 0}, "num_valid must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        moving_digits(**options)
