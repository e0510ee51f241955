"""Plots: each function takes ``ax=None`` and returns the axes it drew on; matplotlib is imported when one is called.

Without ``ax`` a plot gets a figure of its own, outside pyplot: nothing to close and no display needed. Put it into a
file with :func:`save`; for a window, pass an ``ax`` of ``plt.subplots()``. All share colours that are told apart with
each kind of colour blindness; :func:`use_style` gives them to figures of one's own, :func:`finish` labels and legends.
"""

from __future__ import annotations

from pyro_ext.plotting.axes import given_or_new, save
from pyro_ext.plotting.classification import confusion_matrix, reliability_diagram
from pyro_ext.plotting.curves import loss_curve
from pyro_ext.plotting.estimators import gradient_variance, gradient_variance_curve, plot_evidence
from pyro_ext.plotting.gradients import autocorrelation_curve, correlation_by_depth, gradient_trace
from pyro_ext.plotting.graphs import draw_graph, embedding
from pyro_ext.plotting.images import image_grid
from pyro_ext.plotting.mutations import clone_tree, mutation_matrices
from pyro_ext.plotting.sparsity import compression_curve, score_histogram, weight_map
from pyro_ext.plotting.style import COLOURS, DASHES, MARKERS, finish, integer_ticks, use_style
from pyro_ext.plotting.trees import (
    branch_intervals,
    plot_topology_probabilities,
    probability_ratios,
    tree_probabilities,
)

__all__ = [
    "COLOURS",
    "DASHES",
    "MARKERS",
    "autocorrelation_curve",
    "branch_intervals",
    "clone_tree",
    "compression_curve",
    "confusion_matrix",
    "correlation_by_depth",
    "draw_graph",
    "embedding",
    "finish",
    "given_or_new",
    "gradient_trace",
    "gradient_variance",
    "gradient_variance_curve",
    "image_grid",
    "integer_ticks",
    "loss_curve",
    "mutation_matrices",
    "plot_evidence",
    "plot_topology_probabilities",
    "probability_ratios",
    "reliability_diagram",
    "save",
    "score_histogram",
    "tree_probabilities",
    "use_style",
    "weight_map",
]
