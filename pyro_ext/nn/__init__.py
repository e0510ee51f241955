"""Layers, initialisations and guides for neural networks, used like those of torch.nn and pyro.nn."""

from pyro_ext.nn.additive import AutoAdditiveNormal, AutoMultiplicativeNormal
from pyro_ext.nn.compression import (
    CSRLinear,
    GradualMagnitudePruning,
    LayerSparsity,
    SelectInputs,
    SparsityReport,
    ThresholdPoint,
    choose_threshold,
    compact,
    export_masked,
    prunable,
    prune,
    quantize,
    sparsity_report,
    to_csr,
    widest_gap,
)
from pyro_ext.nn.convert import bayesianize
from pyro_ext.nn.layers import (
    BayesianLayer,
    SparseVariationalConv1d,
    SparseVariationalConv2d,
    SparseVariationalConv3d,
    SparseVariationalLinear,
    log_uniform_prior,
)
from pyro_ext.nn.local import LocalNormal, convolution, linear, local_parameters

__all__ = [
    "AutoAdditiveNormal",
    "AutoMultiplicativeNormal",
    "BayesianLayer",
    "CSRLinear",
    "GradualMagnitudePruning",
    "LayerSparsity",
    "LocalNormal",
    "SelectInputs",
    "SparseVariationalConv1d",
    "SparseVariationalConv2d",
    "SparseVariationalConv3d",
    "SparseVariationalLinear",
    "SparsityReport",
    "ThresholdPoint",
    "bayesianize",
    "choose_threshold",
    "compact",
    "convolution",
    "export_masked",
    "linear",
    "local_parameters",
    "log_uniform_prior",
    "prunable",
    "prune",
    "quantize",
    "sparsity_report",
    "to_csr",
    "widest_gap",
]
