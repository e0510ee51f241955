"""Layers, initialisations and guides for neural networks, used like those of torch.nn and pyro.nn."""

from pyro_ext.nn.gradients import autocorrelation, gradient_autocorrelation, gradient_correlation, input_gradients
from pyro_ext.nn.graph_convolution import ChebyshevConvolution, GraphConvolution, SparseBuffer, glorot_uniform
from pyro_ext.nn.looks_linear import CReLU, assert_looks_linear, looks_linear_
from pyro_ext.ops.graphs import normalize_adjacency

__all__ = [
    "CReLU",
    "ChebyshevConvolution",
    "GraphConvolution",
    "SparseBuffer",
    "assert_looks_linear",
    "autocorrelation",
    "glorot_uniform",
    "gradient_autocorrelation",
    "gradient_correlation",
    "input_gradients",
    "looks_linear_",
    "normalize_adjacency",
]
