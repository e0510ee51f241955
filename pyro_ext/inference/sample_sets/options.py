"""How a site says which estimator it wants: ``infer={"estimator": ..., "num_samples": ..., "num_summed": ...}``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyro import poutine

from pyro_ext.inference._programs import SiteError
from pyro_ext.inference.sample_sets.draw import ESTIMATORS, SetOptions
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["checked_options", "config_sample_set", "is_set_site", "site_options"]

_OURS = ("estimator", "num_samples", "num_summed")
_PYRO = ("enumerate", "expand", "tmc", "is_auxiliary", "baseline", "prior", "was_observed")


def config_sample_set(
    guide: Callable[..., Any],
    num_samples: int = 4,
    estimator: str = "unordered_set",
    num_summed: int | str | None = None,
) -> Callable[..., Any]:
    """Mark every non-reparameterised site of a guide with an estimator, unless it is already marked.

    The marks override the ELBO's own defaults, site by site.

    Args:
        guide: the guide whose sites are marked.
        num_samples: the size k of each site's sample set.
        estimator: the estimator: ``"unordered_set"``, ``"sum_and_sample"``, ``"leave_one_out"``, ``"exact"``, or
            ``"reinforce"`` for one plain draw instead of a set.
        num_summed: how many of the k values ``"sum_and_sample"`` sums, the rest being sampled; ``"optimal"``, the
            default, chooses the number for each batch element.

    Returns:
        The marked guide.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> def guide():
        ...     return pyro.sample("z", dist.Categorical(torch.ones(3)))
        >>> marked = config_sample_set(guide, num_samples=2)
        >>> poutine.trace(marked).get_trace().nodes["z"]["infer"]
        {'estimator': 'unordered_set', 'num_samples': 2}
    """
    marks: dict[str, Any] = {"estimator": estimator, "num_samples": num_samples}
    if num_summed is not None:
        marks["num_summed"] = num_summed
    checked_options(SetOptions(estimator, num_samples, "optimal" if num_summed is None else num_summed))

    def mark(msg: Any) -> dict[str, Any]:
        infer: dict[str, Any] = msg["infer"]
        if not is_set_site(msg) or infer.get("estimator") is not None:
            return infer
        return {**marks, **{key: value for key, value in infer.items() if value is not None}}

    marked: Callable[..., Any] = poutine.infer_config(guide, config_fn=mark)
    return marked


def is_set_site(msg: Any) -> bool:
    """Return whether a guide site gets a sample set: latent, not reparameterised, not enumerated by Pyro itself."""
    if msg["type"] != "sample" or msg["is_observed"] or poutine.util.site_is_subsample(msg):
        return False
    return not getattr(msg["fn"], "has_rsample", True) and not msg["infer"].get("enumerate")


def site_options(msg: Any, default: SetOptions) -> SetOptions:
    """Return the options of a site: the ELBO's, overridden by the site's ``infer`` dictionary; None there means unset.

    Raises:
        ValueError: naming the site, if the dictionary holds an unknown key or a value out of range.
    """
    infer = {key: value for key, value in msg["infer"].items() if not key.startswith("_")}
    for key in infer:
        if key not in _OURS + _PYRO:
            raise SiteError(
                f"site {msg['name']!r}: unknown infer key {key!r}; known keys are {', '.join((*_OURS, *_PYRO[:4]))}"
            )
    try:
        return checked_options(replace(default, **{key: infer[key] for key in _OURS if infer.get(key) is not None}))
    except ValueError as error:
        raise SiteError(f"site {msg['name']!r}: {error}") from None


def checked_options(options: SetOptions) -> SetOptions:
    """Return ``options`` if they are consistent.

    Raises:
        ValueError: if they are not; the message names the option, its value and what is allowed.
    """
    one_of("estimator", options.estimator, ESTIMATORS)
    positive_int("num_samples", options.num_samples)
    positive_int("max_leaves", options.max_leaves)
    if options.num_summed == "optimal":
        return options
    if isinstance(options.num_summed, str):
        raise ValueError(f'num_summed must be an integer or "optimal", got {options.num_summed!r}')
    positive_int("num_summed", options.num_summed, minimum=0)
    if options.estimator == "sum_and_sample" and options.num_summed >= options.num_samples:
        raise ValueError(
            f"num_summed={options.num_summed} leaves nothing to sample the rest with: it must be less than "
            f"num_samples={options.num_samples}"
        )
    return options
