"""ELBOs that draw all discrete sites of a guide n times at once, along one dim, and compare the n evaluations."""

from pyro_ext.inference.joint_draws.arms import TraceARMS_ELBO, TraceDisARM_ELBO

__all__ = ["TraceARMS_ELBO", "TraceDisARM_ELBO"]
