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


def test_trees_of_almost_no_probability_leave_the_others_apart():
    """A probability of 1e-280 is drawn at the lower edge, seven decades down, and said to be below that."""
    ax = tree_probabilities([0.6, 0.3, 2e-3, 1e-3], [-0.5, -1.0, -645.0, -math.inf])
    (shown,) = ax.collections
    assert len(shown.get_offsets()) == 2
    _, below, zero = ax.lines
    assert below.get_label() == "below 1e-07"
    assert below.get_xdata().tolist() == [2e-3]
    assert zero.get_xdata().tolist() == [1e-3]
    assert 1e-8 < below.get_ydata()[0] == zero.get_ydata()[0] < 1e-7
    assert ax.get_ylim()[0] > 1e-9


def test_trees_that_never_came_are_left_out():
    ax = tree_probabilities([0.5, 0.0, 0.5], [-1.0, -1.0, -1.0], seen=[True, False, False])
    assert [len(points.get_offsets()) for points in ax.collections] == [1, 1]
    with pytest.raises(ValueError, match="no positive number"):
        tree_probabilities([0.0], [-1.0])


def test_all_of_probability_zero():
    assert len(tree_probabilities([1.0], [-math.inf]).collections) == 0


@pytest.mark.parametrize(("x", "y"), [([], []), ([0.5], [0.1, 0.2]), ([[0.5]], [[0.1]])])
def test_refusals(x, y):
    with pytest.raises(ValueError, match="frequency and log_prob must hold a value for each tree"):
        tree_probabilities(x, y)
