"""ELBOs that evaluate a weighted set of values at each discrete guide site."""

from pyro_ext.inference.sample_sets.engine import TraceSampleSet_ELBO
from pyro_ext.inference.sample_sets.family import (
    TraceLeaveOneOut_ELBO,
    TraceSumAndSample_ELBO,
    TraceUnorderedSet_ELBO,
)
from pyro_ext.inference.sample_sets.options import config_sample_set

__all__ = [
    "TraceLeaveOneOut_ELBO",
    "TraceSampleSet_ELBO",
    "TraceSumAndSample_ELBO",
    "TraceUnorderedSet_ELBO",
    "config_sample_set",
]
