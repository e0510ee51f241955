"""Closed-form Kullback-Leibler divergences in place of sampled ones."""

from __future__ import annotations

from typing import Any

from pyro.ops import packed
from pyro.poutine.util import site_is_subsample
from torch.distributions import kl_divergence

__all__ = ["replace_by_analytic_kl"]


def replace_by_analytic_kl(model_trace: Any, guide_trace: Any) -> set[str]:
    """Put -KL(q || p) in the place of log p - log q at every latent site where it is known in closed form.

    The packed ``log_prob`` of the model's site becomes -KL; the caller leaves out the guide's term.

    Args:
        model_trace: packed trace of the model, changed in place.
        guide_trace: packed trace of the guide.

    Returns:
        The names of the sites replaced; the others keep their sampled terms.

    Raises:
        ValueError: naming two sites that model and guide sample in different orders, where the divergence of one
            may depend on a value drawn later.
    """
    latent = [name for name, site in guide_trace.nodes.items() if _is_latent(site) and name in model_trace.nodes]
    _check_order(latent, [name for name in model_trace.nodes if name in set(latent)])
    replaced = set()
    for name in latent:
        model_site, guide_site = model_trace.nodes[name], guide_trace.nodes[name]
        if guide_site["infer"].get("enumerate") or model_site["is_observed"]:
            continue
        try:
            divergence = kl_divergence(guide_site["fn"], model_site["fn"])
        except NotImplementedError:
            continue
        cost = packed.pack(-divergence, guide_site["infer"]["_dim_to_symbol"])
        # in two calls: Pyro's function leaves out the scale where there is a mask
        cost = packed.scale_and_mask(cost, scale=model_site["scale"])
        cost = packed.scale_and_mask(cost, mask=model_site["packed"]["mask"])
        model_site["packed"]["log_prob"] = cost
        replaced.add(name)
    return replaced


def _is_latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def _check_order(guide_order: list[str], model_order: list[str]) -> None:
    for in_guide, in_model in zip(guide_order, model_order, strict=True):
        if in_guide != in_model:
            raise ValueError(
                f"analytic_kl=True needs model and guide to sample their sites in one order, but the guide samples "
                f"{in_guide!r} where the model samples {in_model!r}; reorder one of them, or use analytic_kl=False"
            )
