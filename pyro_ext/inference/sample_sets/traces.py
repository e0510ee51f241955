"""The packed traces of a guide with sample sets and of the model on their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape, check_traceenum_requirements

from pyro_ext.inference.sample_sets.log_probs import compute_log_probs
from pyro_ext.inference.sample_sets.messenger import SET_KEY

__all__ = ["packed_traces"]


def packed_traces(
    model: Callable[..., Any], guide: Callable[..., Any], nesting: int, args: Any, kwargs: Any
) -> tuple[Any, Any]:
    """Return the packed traces of model and guide, as :class:`pyro.infer.TraceEnum_ELBO` does.

    Unlike there, the model may sample sites in another order than the guide: the distribution of a site then has a dim
    of its own values where it depends on a site that the guide draws from its values. Pyro takes that for a dim used
    twice, which it can be only below ``pyro.markov``.

    Args:
        model: the model.
        guide: its guide, whose sites are given their sample sets.
        nesting: the number of plate dims.
        args: the positional arguments of model and guide.
        kwargs: the keyword arguments of model and guide.
    """
    guide_trace = poutine.trace(guide, graph_type="flat").get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace), graph_type="flat").get_trace(*args, **kwargs)
    if is_validation_enabled():
        check_model_guide_match(model_trace, guide_trace, nesting)
    guide_trace, model_trace = (prune_subsample_sites(trace) for trace in (guide_trace, model_trace))
    compute_log_probs(model_trace, guide_trace, SET_KEY)
    if is_validation_enabled():
        for trace in (model_trace, guide_trace):
            for site in trace.nodes.values():
                if site["type"] == "sample":
                    check_site_shape(_checkable(site) if trace is model_trace else site, nesting)
        check_traceenum_requirements(model_trace, guide_trace)
    guide_trace.pack_tensors()
    model_trace.pack_tensors(guide_trace.plate_to_symbol)
    return model_trace, guide_trace


def _checkable(site: Any) -> Any:
    """Return the site as Pyro's check should see it: without the dim of its sample set, unless dims are reused."""
    infer = site["infer"]
    if SET_KEY not in infer or infer.get("_markov_scope") is not None:
        return site
    return {**site, "infer": {key: value for key, value in infer.items() if key != "_enumerate_dim"}}
