"""Probabilities of topologies, several ways to them side by side."""

import pytest

from pyro_ext.plotting import save
from pyro_ext.plotting.axes import given_or_new
from pyro_ext.plotting.topologies import plot_topology_probabilities


def test_one_line_for_each_way(tmp_path):
    ways = {"bridge": [0.7, 0.2, 0.1], "map": (0.5, 0.4, 0.1)}
    ax = plot_topology_probabilities(ways)
    drawn = {line.get_label(): line.get_ydata().tolist() for line in ax.get_lines()}
    assert drawn == {"bridge": [0.7, 0.2, 0.1], "map": [0.5, 0.4, 0.1]}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "3"]
    assert ax.get_ylim()[0] == 0
    assert save(ax, tmp_path / "topologies.png").stat().st_size > 5000


def test_labels_and_own_axes():
    own = given_or_new(None)
    assert plot_topology_probabilities({"a": [0.5, 0.5]}, own, labels=["first", "second"]) is own
    assert [tick.get_text() for tick in own.get_xticklabels()] == ["first", "second"]
    many = plot_topology_probabilities({"a": [0.01] * 100})
    assert len(many.get_xticks()) < 30


@pytest.mark.parametrize(
    ("ways", "labels"),
    [({}, None), ({"a": []}, None), ({"a": [1.0], "b": [0.5, 0.5]}, None), ({"a": [1.0]}, ["x", "y"])],
)
def test_nothing_to_show_or_to_compare(ways, labels):
    with pytest.raises(ValueError, match="the same topologies"):
        plot_topology_probabilities(ways, labels=labels)
