"""Gradient estimators as Pyro ELBOs, the engine that fits with them, and estimators of the evidence.

Every ELBO here goes wherever Pyro's own go: into :class:`pyro.infer.SVI`, or called as ``elbo(model, guide)`` for a
PyTorch module. Lightning is imported only when the fit engine is asked for.
"""

from typing import TYPE_CHECKING, Any

from pyro_ext.inference import fit
from pyro_ext.inference.disarm import TraceDisARM_ELBO
from pyro_ext.inference.elbo import DifferentiableELBO
from pyro_ext.inference.evidence import (
    EVIDENCE_METHODS,
    EvidenceComparison,
    EvidenceEstimate,
    EvidenceSettings,
    EvidenceWarning,
    compare_evidence,
    estimate_evidence,
)
from pyro_ext.inference.fit import Built, ExtraLoss, LocalELBOModule
from pyro_ext.inference.relax_reparam import RelaxReparam, relax
from pyro_ext.inference.sample_sets import (
    TraceLeaveOneOut_ELBO,
    TraceSampleSet_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
    config_sample_set,
)
from pyro_ext.inference.temperature import TemperatureSchedule
from pyro_ext.inference.unordered_beam import TraceUnorderedBeam_ELBO
from pyro_ext.inference.vimco import TraceVIMCO_ELBO

if TYPE_CHECKING:
    from pyro_ext.inference.fit import FitDataModule, FitModule, FitResult

__all__ = [
    "EVIDENCE_METHODS",
    "Built",
    "DifferentiableELBO",
    "EvidenceComparison",
    "EvidenceEstimate",
    "EvidenceSettings",
    "EvidenceWarning",
    "ExtraLoss",
    "FitDataModule",
    "FitModule",
    "FitResult",
    "LocalELBOModule",
    "RelaxReparam",
    "TemperatureSchedule",
    "TraceDisARM_ELBO",
    "TraceLeaveOneOut_ELBO",
    "TraceSampleSet_ELBO",
    "TraceSumAndSample_ELBO",
    "TraceUnorderedBeam_ELBO",
    "TraceUnorderedSet_ELBO",
    "TraceVIMCO_ELBO",
    "compare_evidence",
    "config_sample_set",
    "estimate_evidence",
    "fit",
    "relax",
]


def __getattr__(name: str) -> Any:
    if name in ("FitDataModule", "FitModule", "FitResult"):
        return getattr(fit, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
