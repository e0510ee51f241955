"""Networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pyro_ext.models.drmm.geometry import Layer

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: Mapping[str, tuple[Layer, ...]] = MappingProxyType(
    {
        "digits": (Layer(16, 3, pool=2, padding=1), Layer(32, 3, pool=2, padding=1)),
        "mnist": (
            Layer(32, 5, pool=2, padding=4),
            Layer(64, 3),
            Layer(64, 3, pool=2, padding=2),
            Layer(128, 3, mean_pool=6),
        ),
    }
)
"""Name -> layers: a small network for 8 x 8 digits, and the published one for MNIST."""
