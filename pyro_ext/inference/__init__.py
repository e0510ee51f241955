"""Gradient estimators as Pyro ELBOs, the engine that fits with them, and estimators of the evidence.

Every ELBO here goes wherever Pyro's own go: into :class:`pyro.infer.SVI`, or called as ``elbo(model, guide)`` for a
PyTorch module. Lightning is imported only when the fit engine is asked for.
"""

from pyro_ext.inference.analytic_kl import AnalyticKL, KLWarmUp
from pyro_ext.inference.constraints import (
    ClassificationConstraint,
    Constraint,
    FeatureConstraint,
    LikelihoodConstraint,
    PatchCorrelationConstraint,
    ReconstructionConstraint,
)
from pyro_ext.inference.elbo import DifferentiableELBO
from pyro_ext.inference.evidence import (
    EVIDENCE_METHODS,
    EvidenceComparison,
    EvidenceDraws,
    EvidenceEstimate,
    EvidenceSettings,
    EvidenceWarning,
    compare_evidence,
    estimate_evidence,
)
from pyro_ext.inference.geco import TraceGECO_ELBO
from pyro_ext.inference.gumbel_softmax_reparam import GumbelSoftmaxReparam
from pyro_ext.inference.joint_draws import TraceARMS_ELBO, TraceDisARM_ELBO, TraceDoubleCV_ELBO, TraceRODEO_ELBO
from pyro_ext.inference.relax_reparam import RelaxReparam, relax
from pyro_ext.inference.sample_sets import (
    TraceLeaveOneOut_ELBO,
    TraceSampleSet_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    config_sample_set,
)
from pyro_ext.inference.temperature import TemperatureSchedule
from pyro_ext.inference.training import (
    EarlyStopping,
    ELBOObjective,
    FitResult,
    FitSettings,
    FitWarning,
    LoadedRun,
    LocalELBOModule,
    Losses,
    LossObjective,
    Objective,
    OptimizerSettings,
    Player,
    PruningObjective,
    SchedulerSettings,
    SumObjective,
    TrainingPlan,
    fit,
    load_run,
    local_params,
)
from pyro_ext.inference.unordered_beam import TraceUnorderedBeam_ELBO
from pyro_ext.inference.vimco import TraceVIMCO_ELBO

__all__ = [
    "EVIDENCE_METHODS",
    "AnalyticKL",
    "ClassificationConstraint",
    "Constraint",
    "DifferentiableELBO",
    "ELBOObjective",
    "EarlyStopping",
    "EvidenceComparison",
    "EvidenceDraws",
    "EvidenceEstimate",
    "EvidenceSettings",
    "EvidenceWarning",
    "FeatureConstraint",
    "FitResult",
    "FitSettings",
    "FitWarning",
    "GumbelSoftmaxReparam",
    "KLWarmUp",
    "LikelihoodConstraint",
    "LoadedRun",
    "LocalELBOModule",
    "LossObjective",
    "Losses",
    "Objective",
    "OptimizerSettings",
    "PatchCorrelationConstraint",
    "Player",
    "PruningObjective",
    "ReconstructionConstraint",
    "RelaxReparam",
    "SchedulerSettings",
    "SumObjective",
    "TemperatureSchedule",
    "TraceARMS_ELBO",
    "TraceDisARM_ELBO",
    "TraceDoubleCV_ELBO",
    "TraceGECO_ELBO",
    "TraceLeaveOneOut_ELBO",
    "TraceRODEO_ELBO",
    "TraceSampleSet_ELBO",
    "TraceSumAndSample_ELBO",
    "TraceUnorderedBeam_ELBO",
    "TraceUnorderedSet_ELBO",
    "TraceVIMCO_ELBO",
    "TrainingPlan",
    "compare_evidence",
    "config_sample_set",
    "estimate_evidence",
    "fit",
    "load_run",
    "local_params",
    "relax",
]
