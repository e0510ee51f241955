"""Networks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pyro_ext.models.drmm.geometry import Layer

__all__ = ["ARCHITECTURES"]

ARCHITECTURES: Mapping[str, tuple[Layer, ...]] = MappingProxyType(
    {
        "digits": (Layer(16, 3, pool=2, padding=1), Layer(32, 3, pool=2, padding=1)),
        "mnist_small": (
            Layer(16, 5, pool=2, padding=4),
            Layer(32, 3),
            Layer(32, 3, pool=2, padding=2),
            Layer(64, 3, mean_pool=6),
        ),
        "mnist": (
            Layer(32, 5, pool=2, padding=4),
            Layer(64, 3),
            Layer(64, 3, pool=2, padding=2),
            Layer(128, 3, mean_pool=6),
        ),
        "cifar": (
            *(Layer(128, 3, pool=pool, padding=1, switch="leaky") for pool in (1, 1, 2)),
            *(Layer(256, 3, pool=pool, padding=1, switch="leaky") for pool in (1, 1, 2)),
            Layer(512, 3, switch="leaky"),
            Layer(256, 1, switch="leaky"),
            Layer(128, 1, mean_pool=6, switch="leaky"),
        ),
    }
)
"""Name -> layers: a small network for 8 x 8 digits, half of the published one for MNIST, and those published for MNIST
and CIFAR-10."""
