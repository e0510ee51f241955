"""Layers, initialisations and guides for neural networks, used like those of torch.nn and pyro.nn."""

from pyro_ext.nn.gradients import autocorrelation, gradient_autocorrelation, gradient_correlation, input_gradients
from pyro_ext.nn.looks_linear import CReLU, assert_looks_linear, looks_linear_

__all__ = [
    "CReLU",
    "assert_looks_linear",
    "autocorrelation",
    "gradient_autocorrelation",
    "gradient_correlation",
    "input_gradients",
    "looks_linear_",
]
