"""ELBOs that draw all discrete sites of a guide n times at once, along one dim, and compare the n evaluations."""

from pyro_ext.inference.joint_draws.arms import TraceARMS_ELBO, TraceDisARM_ELBO
from pyro_ext.inference.joint_draws.double_cv import TraceDoubleCV_ELBO
from pyro_ext.inference.joint_draws.rodeo import TraceRODEO_ELBO

__all__ = ["TraceARMS_ELBO", "TraceDisARM_ELBO", "TraceDoubleCV_ELBO", "TraceRODEO_ELBO"]
