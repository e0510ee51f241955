"""The plot of probabilities against frequencies."""

import math

import numpy as np
import pytest

from pyro_ext.plotting import tree_probabilities


def test_points_and_diagonal():
    ax = tree_probabilities([0.6, 0.3, 0.1], np.log([0.5, 0.3, 0.05]), seen=[True, True, False], xlabel="golden")
    assert [len(points.get_offsets()) for points in ax.collections] == [2, 1]
    assert ax.get_xlabel() == "golden"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fitted to", "never fitted to", "equal"]


def test_probability_zero_is_drawn_apart():
    ax = tree_probabilities([0.6, 0.4], [-0.5, -math.inf])
    zero = ax.lines[-1]
    assert zero.get_label() == "probability 0"
    assert zero.get_xdata().tolist() == [0.4]
    assert 0 < zero.get_ydata()[0] < 0.4


def test_all_of_probability_zero():
    assert len(tree_probabilities([1.0], [-math.inf]).collections) == 0


@pytest.mark.parametrize(("x", "y"), [([], []), ([0.5], [0.1, 0.2]), ([[0.5]], [[0.1]])])
def test_refusals(x, y):
    with pytest.raises(ValueError, match="frequency and log_prob must hold a value for each tree"):
        tree_probabilities(x, y)
