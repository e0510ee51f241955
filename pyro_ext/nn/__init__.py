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

__all__ = [
    "AutoAdditiveNormal",
    "AutoGroupSparse",
    "AutoMultiplicativeNormal",
    "BayesianLayer",
    "CSRLinear",
    "GradualMagnitudePruning",
    "GroupScale",
    "GroupSparseConv1d",
    "GroupSparseConv2d",
    "GroupSparseConv3d",
    "GroupSparseLinear",
    "Horseshoe",
    "LayerMoments",
    "LayerSparsity",
    "LocalLogNormal",
    "LocalNormal",
    "NormalJeffreys",
    "PosteriorNetwork",
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
    "drawn_per_row",
    "export_masked",
    "export_posterior",
    "group_sparse",
    "linear",
    "local_parameters",
    "log_parameters",
    "log_uniform_prior",
    "prunable",
    "prune",
    "quantize",
    "sparsity_report",
    "to_csr",
    "widest_gap",
]
