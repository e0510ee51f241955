import math

import pytest

from pyro_ext.inference.evidence import EvidenceEstimate
from pyro_ext.plotting.evidence import plot_evidence

ESTIMATES = {
    "ml": EvidenceEstimate(-1.0, method="ml", is_score=True),
    "bridge": EvidenceEstimate(-3.0, 0.1, method="bridge"),
    "gamma_laplus": EvidenceEstimate(-3.2, math.nan, method="gamma_laplus"),
}


def test_lines_bars_and_the_exact_value():
    ax = plot_evidence(ESTIMATES, exact=-3.1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["bridge", "gamma_laplus"]
    low, high = ax.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx((-3.2, -2.8))
    assert plot_evidence(ESTIMATES, ax) is ax


def test_scores_only_on_demand():
    assert len(plot_evidence(ESTIMATES, scores=True).get_yticklabels()) == 3
    with pytest.raises(ValueError, match="scores=True"):
        plot_evidence({"ml": ESTIMATES["ml"]})
