"""Which observed sites of a model depend on what the guide drew, in particle runs of either kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.ops.provenance import get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_ext.inference._traces import sample_sites
from pyro_ext.inference.elbo import ModelOrGuide

_LATENT = frozenset({"latent"})


class ParticleDependence(Messenger):
    """Notes which sites vary over the particles, seen from inside the particle plate.

    The plate is about to expand every distribution; before it does, only those computed from a latent value
    have a batch dim of its size.

    Args:
        size: the number of particles.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._leading: dict[str, list[torch.Size]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn, value = msg["fn"], msg["value"]
        shapes = [getattr(fn, "batch_shape", torch.Size())]
        if isinstance(value, Tensor):
            shapes.append(value.shape[: value.dim() - getattr(fn, "event_dim", 0)])
        shapes += [x.shape for x in (msg["mask"], msg["scale"]) if isinstance(x, Tensor)]
        self._leading[msg["name"]] = shapes

    def sites(self, particle_dim: int) -> set[str]:
        """Return the names of the sites that vary along ``particle_dim`` (negative)."""
        return {
            name
            for name, shapes in self._leading.items()
            if any(len(shape) >= -particle_dim and shape[particle_dim] == self._size for shape in shapes)
        }


def dependent_sites(model: ModelOrGuide, guide_trace: Any, names: Iterable[str], args: Any, kwargs: Any) -> set[str]:
    """Return those of ``names`` whose log-probability depends on a latent value, by one more run of the model."""
    tracked = guide_trace.copy()
    for name, site in sample_sites(guide_trace).items():
        tracked.nodes[name] = {**site, "value": track_provenance(site["value"].detach(), _LATENT)}
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(poutine.replay(model, trace=tracked)).get_trace(*args, **kwargs)
        trace.compute_log_prob(lambda name, site: name in names)
    return {name for name in names if get_provenance(trace.nodes[name]["log_prob"])}
