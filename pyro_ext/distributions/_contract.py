"""The single checks behind ``check_distribution``: each takes a subject and raises AssertionError."""

from __future__ import annotations

from collections.abc import Callable

from pyro_ext.distributions._contract_laws import LAW_CHECKS
from pyro_ext.distributions._contract_shapes import SHAPE_CHECKS
from pyro_ext.distributions._contract_subject import Subject

__all__ = ["CHECKS"]

CHECKS: dict[str, Callable[[Subject], None]] = {**SHAPE_CHECKS, **LAW_CHECKS}
