"""Networks made smaller: pruning, export as smaller, sparse or rounded networks, and what that saves.

All of it works on ordinary modules of torch.nn, however they were trained.
"""

from pyro_ext.nn.compression.compacting import SelectInputs, compact
from pyro_ext.nn.compression.csr import CSRLinear, to_csr
from pyro_ext.nn.compression.gradual import GradualMagnitudePruning
from pyro_ext.nn.compression.pruning import export_masked, prunable, prune
from pyro_ext.nn.compression.report import LayerSparsity, SparsityReport, sparsity_report
from pyro_ext.nn.compression.rounding import quantize
from pyro_ext.nn.compression.thresholds import ThresholdPoint, choose_threshold, widest_gap

__all__ = [
    "CSRLinear",
    "GradualMagnitudePruning",
    "LayerSparsity",
    "SelectInputs",
    "SparsityReport",
    "ThresholdPoint",
    "choose_threshold",
    "compact",
    "export_masked",
    "prunable",
    "prune",
    "quantize",
    "sparsity_report",
    "to_csr",
    "widest_gap",
]
