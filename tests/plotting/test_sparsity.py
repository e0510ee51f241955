"""Plots of pruned networks."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_ext.plotting import compression_curve, score_histogram, weight_map

DRAWINGS = {
    "curve": lambda ax: compression_curve({"a": [(1, 2.0), (10, 2.5), (np.inf, 90.0)]}, ax, chosen=10),
    "histogram": lambda ax: score_histogram({"a": torch.randn(3, 5), "b": np.ones(3)}, ax, thresholds={"a": 1.0}),
    "rows": lambda ax: weight_map(torch.randn(20, 12), (3, 4), ax),
    "matrix": lambda ax: weight_map(torch.zeros(20, 12), ax=ax),
    "kernels": lambda ax: weight_map(torch.randn(4, 2, 3, 3), ax=ax),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_returns_the_axes_it_drew_on(draw):
    ax = Figure().add_subplot()
    assert draw(ax) is ax
    assert draw(None) is not ax


def test_curves_are_sorted_and_finite():
    ax = compression_curve({"a": [(10, 2.5), (np.inf, 90.0), (1, 2.0)]}, chosen=10)
    assert ax.lines[0].get_ydata().tolist() == [2.0, 2.5]
    assert ax.lines[1].get_xdata() == [10, 10]


def test_histograms_are_in_per_cent_of_the_layer():
    ax = score_histogram({"a": torch.tensor([0.0, 1.0, torch.inf, 1.0])}, bins=2)
    heights = ax.patches[0].get_path().vertices[:, 1]
    assert heights.max() == pytest.approx(50)


def test_zero_is_grey_and_the_largest_rows_are_drawn():
    weights = torch.tensor([[0.0, 0.0], [2.0, -1.0], [0.1, 0.0]])
    pixels = weight_map(weights, (1, 2), number=2).images[0].get_array()
    assert pixels.max() == 1.0
    assert pixels.min() == 0.25
    assert weight_map(torch.zeros(2, 2)).images[0].get_array().max() == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compression_curve({"a": [1.0, 2.0]}), r"curves\['a'\] must be pairs"),
        (lambda: compression_curve({"a": [(0.0, 2.0)]}), r"curves\['a'\] must be pairs of a positive rate"),
        (lambda: score_histogram({"a": torch.empty(0)}), "scores must hold at least one finite number"),
        (lambda: weight_map(torch.ones(2, 5), (2, 2)), r"got \(2, 5\) and shape \(2, 2\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
