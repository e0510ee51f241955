"""Plots about trees: probabilities against frequencies, probabilities by method, branch lengths."""

import math

import numpy as np
import pytest

from pyro_ext.plotting import (
    COLOURS,
    branch_intervals,
    given_or_new,
    plot_topology_probabilities,
    probability_ratios,
    save,
    tree_probabilities,
)


def test_points_and_diagonal():
    ax = tree_probabilities([0.6, 0.3, 0.1], np.log([0.5, 0.3, 0.05]), seen=[True, True, False], xlabel="golden")
    assert [len(points.get_offsets()) for points in ax.collections] == [2, 1]
    assert ax.get_xlabel() == "golden"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["fitted to", "never fitted to", "equal"]


def test_probability_zero_is_drawn_apart():
    ax = tree_probabilities([0.6, 0.4], [-0.5, -math.inf])
    zero = ax.lines[-1]
    assert zero.get_label() == "probability 0, at the edge"
    assert zero.get_xdata().tolist() == [0.4]
    assert 0 < zero.get_ydata()[0] < 0.4


def test_trees_of_almost_no_probability_leave_the_others_apart():
    """A probability of 1e-280 is drawn at the lower edge, seven decades down, and said to be below that."""
    ax = tree_probabilities([0.6, 0.3, 2e-3, 1e-3], [-0.5, -1.0, -645.0, -math.inf])
    (shown,) = ax.collections
    assert len(shown.get_offsets()) == 2
    _, below, zero = ax.lines
    assert below.get_label() == "below 1e-07, at the edge"
    assert below.get_xdata().tolist() == [2e-3]
    assert zero.get_xdata().tolist() == [1e-3]
    assert 1e-8 < zero.get_ydata()[0] < below.get_ydata()[0] < 1e-7
    assert ax.get_ylim()[0] > 1e-9


def test_trees_that_never_came_are_left_out():
    ax = tree_probabilities([0.5, 0.0, 0.5], [-1.0, -1.0, -1.0], seen=[True, False, False])
    assert [len(points.get_offsets()) for points in ax.collections] == [1, 1]
    with pytest.raises(ValueError, match="no positive number"):
        tree_probabilities([0.0], [-1.0])


def test_all_of_probability_zero():
    assert len(tree_probabilities([1.0], [-math.inf]).collections) == 0


@pytest.mark.parametrize(("x", "y"), [([], []), ([0.5], [0.1, 0.2]), ([[0.5]], [[0.1]])])
def test_probabilities_of_other_shapes(x, y):
    with pytest.raises(ValueError, match="frequency and log_prob must hold a value for each tree"):
        tree_probabilities(x, y)


def test_ratios_of_several_distributions():
    """Points at the ratios, medians of groups of at least five, crosses below everything for probability zero."""
    frequency = np.array([0.5, *[0.02] * 5, *[0.002] * 5, 0.0])
    exact = np.log(np.maximum(frequency, 1e-9))
    halved = exact - math.log(2)
    halved[8:] = -math.inf
    ax = probability_ratios(frequency, {"exact": exact, "halved": halved})
    own, other = ax.collections
    np.testing.assert_allclose(own.get_offsets()[:, 1], 1.0)
    np.testing.assert_allclose(other.get_offsets()[:, 1], 0.5)
    assert (len(own.get_offsets()), len(other.get_offsets())) == (11, 8)
    (crosses,) = (line for line in ax.lines if line.get_label() == "halved: probability 0")
    assert crosses.get_xdata().tolist() == [0.002] * 3
    assert (crosses.get_ydata() < 0.5).all()
    _, medians, *_ = ax.lines
    np.testing.assert_allclose(medians.get_ydata(), 1.0)
    np.testing.assert_allclose(medians.get_xdata(), [0.002, 0.02])


@pytest.mark.parametrize(
    ("frequency", "log_probs", "message"),
    [
        ([], {"a": []}, "frequency must hold a positive number"),
        ([0.0], {"a": [-1.0]}, "frequency must hold a positive number"),
        ([0.5], {}, "log_probs a distribution"),
        ([0.5, 0.5], {"a": [-1.0]}, r"log_probs\['a'\] must hold a value for each of \(2,\) trees, got \(1,\)"),
    ],
)
def test_ratios_of_other_shapes(frequency, log_probs, message):
    with pytest.raises(ValueError, match=message):
        probability_ratios(frequency, log_probs)


def test_markers_side_by_side_for_each_method(tmp_path):
    methods = {"bridge": [0.7, 0.2, 0.1], "map": (0.5, 0.4, 0.1)}
    ax = plot_topology_probabilities(methods)
    drawn = {own.get_label(): own.lines[0] for own in ax.containers}
    assert {name: line.get_ydata().tolist() for name, line in drawn.items()} == {**methods, "map": [0.5, 0.4, 0.1]}
    assert {line.get_linestyle() for line in drawn.values()} == {"None"}  # topologies have no order
    bridge, other = (line.get_xdata() for line in drawn.values())
    assert (bridge < other).all()
    assert abs(bridge - [1, 2, 3]).max() < 0.5
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3"]
    assert ax.get_ylim()[0] == 0
    assert save(ax, tmp_path / "topologies.png").stat().st_size > 5000


def test_bounds_errors_and_a_key_of_topologies():
    shares, errors = {"bridge": [0.7, 0.3], "elbo": [0.6, 0.4]}, {"bridge": [0.01, 0.02]}
    ax = plot_topology_probabilities(shares, errors=errors, remarks={"elbo": "from a bound"}, key=["1: (a,b)", "2: c"])
    assert ax.get_xlabel().splitlines() == ["number of the topology", "1: (a,b)", "2: c"]
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["bridge", "elbo (from a bound)"]
    assert "2 standard errors" in legend.get_title().get_text()
    bridge, elbo = ax.containers
    assert bridge.lines[2][0].get_segments()[1][:, 1].tolist() == pytest.approx([0.26, 0.34])
    assert elbo.lines[2] == ()
    assert (bridge.lines[0].get_markerfacecolor(), elbo.lines[0].get_markerfacecolor()) == (COLOURS[0], "white")
    with pytest.raises(ValueError, match="errors must be those of methods in probabilities, got map"):
        plot_topology_probabilities(shares, errors={"map": [0.1, 0.1]})


def test_labels_of_topologies_and_given_axes():
    own = given_or_new(None)
    assert plot_topology_probabilities({"a": [0.5, 0.5]}, own, labels=["first", "second"]) is own
    assert [tick.get_text() for tick in own.get_xticklabels()] == ["first", "second"]
    many = plot_topology_probabilities({"a": [0.01] * 100})
    assert len(many.get_xticks()) < 30


@pytest.mark.parametrize(
    ("methods", "labels"),
    [({}, None), ({"a": []}, None), ({"a": [1.0], "b": [0.5, 0.5]}, None), ({"a": [1.0]}, ["x", "y"])],
)
def test_no_topologies_to_show_or_to_compare(methods, labels):
    with pytest.raises(ValueError, match="the same topologies"):
        plot_topology_probabilities(methods, labels=labels)


def test_longest_branch_is_at_the_top_with_its_interval():
    ax = branch_intervals([[0.1, 0.2, 0.01], [0.2, 0.4, 0.02], [0.3, 0.7, 0.03]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["2", "1", "3"]
    assert ax.yaxis_inverted()
    (bars,) = ax.collections
    ends = [[float(x) for x, _ in segment] for segment in bars.get_segments()]
    assert ends == [pytest.approx(pair) for pair in ([0.2, 0.7], [0.1, 0.3], [0.01, 0.03])]


@pytest.mark.parametrize(
    ("quantiles", "labels", "message"),
    [
        ([[0.1, 0.2]], (), r"quantiles must have shape \(3, E\), got \(1, 2\)"),
        ([[], [], []], (), r"quantiles must have shape \(3, E\), got \(3, 0\)"),
        ([[0.1], [0.2], [0.3]], ["a", "b"], "labels must name each of the 1 branches, got 2"),
    ],
)
def test_wrong_quantiles(quantiles, labels, message):
    with pytest.raises(ValueError, match=message):
        branch_intervals(quantiles, labels=labels)
