"""Nineteen estimators of the marginal likelihood (evidence) of any Pyro model with continuous latents."""

from pyro_ext.inference.evidence.api import compare_evidence, estimate_evidence
from pyro_ext.inference.evidence.draws import EvidenceDraws
from pyro_ext.inference.evidence.estimate import EvidenceComparison, EvidenceEstimate
from pyro_ext.inference.evidence.methods import EVIDENCE_METHODS
from pyro_ext.inference.evidence.settings import EvidenceSettings
from pyro_ext.inference.evidence.warning import EvidenceWarning

__all__ = [
    "EVIDENCE_METHODS",
    "EvidenceComparison",
    "EvidenceDraws",
    "EvidenceEstimate",
    "EvidenceSettings",
    "EvidenceWarning",
    "compare_evidence",
    "estimate_evidence",
]
