"""What every plot keeps to: labels with units, titles and legends that fit, colours that can be told apart."""

import inspect
import math

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_ext import plotting
from pyro_ext.inference.evidence import EvidenceEstimate
from pyro_ext.plotting import COLOURS, DASHES, finish, given_or_new, integer_ticks, use_style
from pyro_ext.plotting.style import log_ticks

TREE = nx.DiGraph([(0, 1)])
nx.set_node_attributes(TREE, {0: ["a"], 1: []}, "cells")
nx.set_node_attributes(TREE, {0: [], 1: ["m"]}, "mutations")
GRAPH = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 0, 1])
PROBS, LABELS = torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 0])
ESTIMATES = {"bridge": EvidenceEstimate(-3.0, 0.1), "elbo": EvidenceEstimate(-3.2, 0.1, method="elbo")}

AXES = {
    "autocorrelation_curve": (({"a": [1.0, 0.5], "b": [1.0, 0.2]},), "lag (points)", "autocorrelation of gradients"),
    "branch_intervals": (
        ([[0.1, 0.2], [0.2, 0.4], [0.3, 0.7]],),
        "branch length (substitutions per site)",
        "taxa on the smaller side of the branch",
    ),
    "compression_curve": (
        ({"a": [(1, 2.0), (9, 3.0)], "b": [(1, 4.0)]},),
        "compression (factor)",
        "error (%)",
    ),
    "confusion_matrix": ((LABELS, LABELS + 1), "predicted class", "true class"),
    "correlation_by_depth": (({"a": [0.5, 0.2], "b": [0.4, 0.1]}, [1, 2]), "layers", "correlation of gradients"),
    "embedding": ((torch.rand(4, 3), torch.arange(4)), "first principal component", "second principal component"),
    "gradient_trace": (({"a": [1.0, 2.0], "b": [1.0, 1.0]}, [0.0, 1.0]), "input", "gradient / largest gradient"),
    "gradient_variance": (
        ({"one": {"encoder": 1.0, "decoder": -math.inf}},),
        "log of the variance of the gradient, summed (log nats²)",
        "",
    ),
    "gradient_variance_curve": (
        ({"one": [1.0, 2.0], "two": [2.0, 3.0]}, [2, 4]),
        "model evaluations",
        "log of the variance of the gradient, summed (log nats²)",
    ),
    "loss_curve": (({"train": [3.0, 2.0], "held out": [3.0, 2.5]},), "epoch", "−ELBO per data point (nats)"),
    "plot_evidence": ((ESTIMATES,), "log evidence (nats)", ""),
    "plot_topology_probabilities": (({"a": [0.5, 0.5], "b": [0.6, 0.4]},), "number of the topology", "probability"),
    "probability_ratios": (
        ([0.6, 0.4], {"a": [-0.5, -1.0], "b": [-0.4, -2.0]}),
        "frequency in the reference sample",
        "estimated probability / frequency",
    ),
    "reliability_diagram": (
        (PROBS, LABELS),
        "confidence (probability of the predicted class)",
        "accuracy, share",
    ),
    "score_histogram": (({"a": np.arange(9.0), "b": np.arange(5.0)},), "log α", "share of the layer (%)"),
    "tree_probabilities": (([0.6, 0.4], [-0.5, -1.0]), "frequency", "probability under the network"),
}
"""Arguments with two things to tell apart, and the labels of both axes; those of categories have none."""

PICTURES = {
    "clone_tree": (TREE,),
    "draw_graph": GRAPH,
    "image_grid": (torch.rand(4, 3, 3),),
    "mutation_matrices": (torch.tensor([[1, 1, 0], [1, 0, 3]]),),
    "weight_map": (torch.rand(4, 4),),
}
"""Arguments of plots whose axes measure nothing."""

VISION = {
    "normal": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What a colour looks like without a kind of cone, in linear RGB (Machado et al., 2009, table 1)."""


def test_every_plot_is_here():
    functions = {name for name in plotting.__all__ if inspect.isfunction(getattr(plotting, name))}
    helpers = {"finish", "given_or_new", "integer_ticks", "save", "use_style"}
    assert functions - helpers == AXES.keys() | PICTURES.keys()


@pytest.mark.parametrize("name", AXES)
def test_axes_say_what_they_show_and_things_have_names(name):
    arguments, xlabel, ylabel = AXES[name]
    ax = getattr(plotting, name)(*arguments)
    assert (ax.get_xlabel(), ax.get_ylabel().replace("\n", " ")) == (xlabel, ylabel)
    named = ax.get_legend_handles_labels()[1]
    assert (ax.get_legend() is not None) == (len(named) > 1)
    assert name == "confusion_matrix" or len(named) > 1 or name == "branch_intervals"  # these count or have one kind
    assert {ax.xaxis.label.get_size(), ax.yaxis.label.get_size()} <= {8, 9, 10}
    assert_inside(ax)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_show_no_ticks(name):
    ax = getattr(plotting, name)(*PICTURES[name])
    assert not ax.axison or not [*ax.get_xticks(), *ax.get_yticks()]
    assert_inside(ax)


def assert_inside(ax):
    """Title, labels and legend lie within the figure."""
    figure = ax.figure
    figure.draw_without_rendering()
    box = ax.get_tightbbox()
    assert box.x0 >= -2
    assert box.y0 >= -2
    assert box.x1 <= figure.bbox.width + 2
    assert box.y1 <= figure.bbox.height + 2


def test_a_long_title_is_broken():
    ax = finish(
        given_or_new(None, 3, 2), "x", "a label that is much too long for axes so low as these are", "word " * 20
    )
    assert len(ax.get_title().splitlines()) > 1
    assert len(ax.get_ylabel().splitlines()) > 1
    assert_inside(ax)


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_by_everyone(vision):
    """The distance of two colours in CIELAB; 2.3 is just noticed, and the least of matplotlib's is 4.6 without red."""
    seen = [_lab(colour, VISION[vision]) for colour in COLOURS]
    least = min(np.linalg.norm(one - other) for at, one in enumerate(seen) for other in seen[:at])
    assert least > 15
    assert len(set(map(str, DASHES))) == len(COLOURS)


def _lab(colour, matrix):
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_given_axes_look_like_new_ones():
    own = Figure().add_subplot()
    drawn = plotting.loss_curve({"a": [1.0, 0.5], "b": [2.0, 1.0]}, own)
    assert [line.get_color() for line in drawn.lines] == [*COLOURS[:2]]
    assert [line.get_linestyle() for line in drawn.lines] == ["-", "--"]
    assert not own.spines["top"].get_visible()
    more = plotting.loss_curve({"c": [3.0, 1.0]}, own)  # further curves go on with the colours
    assert more.lines[2].get_color() == COLOURS[2]


def test_pyplot_takes_the_style():
    with plt.rc_context():
        use_style()
        figure, ax = plt.subplots()
        assert [ax.plot([1, 2])[0].get_color() for _ in range(2)] == [*COLOURS[:2]]
        plt.close(figure)


@pytest.mark.parametrize("epochs", [[1.0], [1.0, 2.0], [3, 4, 5], list(range(200))])
def test_epochs_have_whole_ticks(epochs):
    ax = plotting.loss_curve([1.0] * len(epochs), epochs=epochs)
    assert all(tick == round(tick) for tick in ax.get_xticks())
    both = integer_ticks(plotting.loss_curve([1.0, 1.5]), "both")
    assert all(tick == round(tick) for tick in both.get_yticks())


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.6), (0.1, 0.3)])
def test_narrow_logarithmic_axes_have_plain_numbers(low, high):
    ax = given_or_new(None)
    ax.plot([low, high], [low, high])
    log_ticks(ax, low, high)
    ax.figure.draw_without_rendering()
    shown = [label.get_text() for label in ax.get_xticklabels()]
    inside = [text for tick, text in zip(ax.get_xticks(), shown, strict=True) if low <= tick <= high]
    assert len(inside) >= 2
    assert all(float(text) for text in inside)
