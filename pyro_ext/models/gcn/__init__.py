r"""The graph convolutional network of Kipf and Welling: classes of the nodes of a graph, a few of which have labels.

:class:`GCN` is a Pyro program: weights with a normal prior, and a categorical label for each labelled node,

.. math::
    Z = \mathrm{softmax}(\hat A \, \mathrm{relu}(\hat A X W_0) \, W_1), \qquad y_n \sim \mathrm{Categorical}(Z_n).

With an ``AutoDelta`` guide it is the published network (equations 8 and 9), whose weight decay is the prior of the
first layer; with another guide it is a Bayesian one. Features and propagation are sparse: on Cora, a step touches
49,216 stored words instead of 2,708 x 1,433 numbers.

Data: the citation graphs with the split of Planetoid, or any graph of networkx. Published accuracy, 20 labels a class:
Cora 81.5 %, Citeseer 70.3 %, Pubmed 79.0 %. ``benchmarks/gcn.py`` repeats it on Cora, with the seven propagations of
table 3 and the calibration of several posteriors.

References:
    | Semi-supervised classification with graph convolutional networks (Kipf and Welling, 2017)
    | https://arxiv.org/abs/1609.02907
"""

from __future__ import annotations

from pyro_ext.models.gcn.build import build, weight_decay_scale
from pyro_ext.models.gcn.evaluation import class_probabilities
from pyro_ext.models.gcn.model import GCN, PROPAGATIONS, init_to_glorot

__all__ = ["GCN", "PROPAGATIONS", "build", "class_probabilities", "init_to_glorot", "weight_decay_scale"]
