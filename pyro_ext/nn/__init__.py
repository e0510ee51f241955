"""Layers, initialisations and guides for neural networks, used like those of torch.nn and pyro.nn."""

from pyro_ext.nn.additive import AutoAdditiveNormal, AutoMultiplicativeNormal
from pyro_ext.nn.attention import AttentionEncoder, MaskedBatchNorm
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
from pyro_ext.nn.data_dependent import DataDependentLayer, initialize_from_data_
from pyro_ext.nn.exchangeable import ExchangeableLayer
from pyro_ext.nn.gradients import autocorrelation, gradient_autocorrelation, gradient_correlation, input_gradients
from pyro_ext.nn.graph_convolution import ChebyshevConvolution, GraphConvolution, SparseBuffer, glorot_uniform
from pyro_ext.nn.group_guide import AutoGroupSparse, PosteriorNetwork, export_posterior
from pyro_ext.nn.group_layers import (
    GroupSparseConv1d,
    GroupSparseConv2d,
    GroupSparseConv3d,
    GroupSparseLinear,
    LayerMoments,
    group_sparse,
)
from pyro_ext.nn.group_scales import GroupScale, Horseshoe, NormalJeffreys
from pyro_ext.nn.layers import (
    BayesianLayer,
    SparseVariationalConv1d,
    SparseVariationalConv2d,
    SparseVariationalConv3d,
    SparseVariationalLinear,
    log_uniform_prior,
)
from pyro_ext.nn.local import LocalNormal, convolution, linear, local_parameters
from pyro_ext.nn.local_log_normal import LocalLogNormal, drawn_per_row, log_parameters
from pyro_ext.nn.looks_linear import CReLU, assert_looks_linear, looks_linear_
from pyro_ext.nn.minibatch_discrimination import MinibatchDiscrimination, batch_similarity
from pyro_ext.nn.parameter_averages import HistoricalAverage, ParameterAverage
from pyro_ext.nn.pointer import PointerDecoder, PointerState
from pyro_ext.nn.virtual_batch_norm import VirtualBatchNorm, WithReferenceBatch
from pyro_ext.nn.weight_norm import WeightNorm
from pyro_ext.ops.graphs import normalize_adjacency

__all__ = [
    "AttentionEncoder",
    "AutoAdditiveNormal",
    "AutoGroupSparse",
    "AutoMultiplicativeNormal",
    "BayesianLayer",
    "CReLU",
    "CSRLinear",
    "ChebyshevConvolution",
    "DataDependentLayer",
    "ExchangeableLayer",
    "GradualMagnitudePruning",
    "GraphConvolution",
    "GroupScale",
    "GroupSparseConv1d",
    "GroupSparseConv2d",
    "GroupSparseConv3d",
    "GroupSparseLinear",
    "HistoricalAverage",
    "Horseshoe",
    "LayerMoments",
    "LayerSparsity",
    "LocalLogNormal",
    "LocalNormal",
    "MaskedBatchNorm",
    "MinibatchDiscrimination",
    "NormalJeffreys",
    "ParameterAverage",
    "PointerDecoder",
    "PointerState",
    "PosteriorNetwork",
    "SelectInputs",
    "SparseBuffer",
    "SparseVariationalConv1d",
    "SparseVariationalConv2d",
    "SparseVariationalConv3d",
    "SparseVariationalLinear",
    "SparsityReport",
    "ThresholdPoint",
    "VirtualBatchNorm",
    "WeightNorm",
    "WithReferenceBatch",
    "assert_looks_linear",
    "autocorrelation",
    "batch_similarity",
    "bayesianize",
    "choose_threshold",
    "compact",
    "convolution",
    "drawn_per_row",
    "export_masked",
    "export_posterior",
    "glorot_uniform",
    "gradient_autocorrelation",
    "gradient_correlation",
    "group_sparse",
    "initialize_from_data_",
    "input_gradients",
    "linear",
    "local_parameters",
    "log_parameters",
    "log_uniform_prior",
    "looks_linear_",
    "normalize_adjacency",
    "prunable",
    "prune",
    "quantize",
    "sparsity_report",
    "to_csr",
    "widest_gap",
]
