"""The log-likelihood of each data unit of an observed site."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pyro_ext.distributions.tree_likelihood import TreeLikelihood

__all__ = ["unit_log_probs"]


def unit_log_probs(site: dict[str, Any], size: int) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood of each data unit, ``(size, U)``, and how often each occurs, ``(U,)``.

    Units are the elements of the batch shape of the site, as plates make them; an event is one unit. The units of
    a :class:`~pyro_ext.distributions.TreeLikelihood` are site patterns, which occur as often as its weights say.

    Args:
        site: an observed site with its ``log_prob`` computed, the particles leftmost.
        size: the number of particles.
    """
    fn, scale = site["fn"], site["scale"]
    if isinstance(fn, TreeLikelihood) and site["mask"] is None and not isinstance(scale, Tensor):
        patterns = fn.site_log_prob(site["value"])
        weights = patterns.new_ones(patterns.shape[-1]) if fn.weights is None else fn.weights
        units = patterns.reshape(size, -1)
        return units, scale * weights.repeat(units.shape[-1] // len(weights))
    units = site["log_prob"].reshape(size, -1)
    return units, units.new_ones(units.shape[-1])
