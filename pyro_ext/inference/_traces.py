"""Reading off a pair of traces what the estimators on ``Trace_ELBO`` need: plates, scales, cost terms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero
from pyro.ops.provenance import get_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ext.distributions.structure import masks_of, unwrap, with_base
from pyro_ext.inference.elbo import ModelOrGuide

Site = dict[str, Any]
Plates = frozenset[Any]


class Term(NamedTuple):
    """One summand of the log weight ``log p(x, z) - log q(z)``.

    Attributes:
        name: the name of the site that the summand comes from.
        plates: the vectorised plates around the site.
        value: the site's signed log-probability, scaled and masked; one dim per plate, particle dims further left.
        surrogate: what a single-sample bound differentiates in place of ``value``, zero where that is infinite; None
            where its gradient has mean zero.
        latent: whether the site is latent or in the guide.
        of_guide: whether the site is the guide's.
    """

    name: str
    plates: Plates
    value: Tensor
    surrogate: Tensor | None
    latent: bool
    of_guide: bool


def sample_sites(trace: Any) -> dict[str, Site]:
    """Return the sample sites that carry a density: neither subsampling nor deterministic ones."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def plates_of(site: Site) -> Plates:
    """Return the vectorised plates around a site."""
    return frozenset(f for f in site["cond_indep_stack"] if f.vectorized)


def common_plates(stacks: Iterable[Plates]) -> Plates:
    """Return the plates present in every one of ``stacks``; none if there are no stacks."""
    stacks = list(stacks)
    return frozenset.intersection(*stacks) if stacks else frozenset()


def subsampling_scale(plates: Plates) -> Any:
    """Return the factor by which subsampling in ``plates`` scales a log-probability (a number, or a tensor)."""
    scale: Any = 1.0
    for plate in plates:
        if plate.full_size is not None:
            scale = scale * plate.full_size / plate.size
    return scale


def total(values: Iterable[Tensor]) -> Tensor:
    """Return the sum of ``values`` in their own dtype and on their own device; zero if there are none."""
    first, *rest = list(values) or [torch.zeros(())]
    return sum(rest, first)


def sum_to(value: Tensor, plates: Plates, max_plate_nesting: int) -> Tensor:
    """Sum over every plate dim but those of ``plates``, keeping the dims; dims left of all plates stay.

    Args:
        value: a tensor of shape ``particle dims + plate dims``.
        plates: the plates whose dims are kept. ``value`` must come from a site inside all of them: a dim alone does
            not say which plate it belongs to, since plates that are not nested share dims.
        max_plate_nesting: the number of rightmost dims that are plate dims.

    Returns:
        A tensor with the dims of ``value``, the summed ones of size 1.
    """
    kept = {plate.dim for plate in plates}
    summed = [dim for dim in range(-min(max_plate_nesting, value.dim()), 0) if dim not in kept]
    return value.sum(summed, keepdim=True) if summed else value


def log_weight_terms(model_trace: Any, guide_trace: Any) -> list[Term]:
    """Return the summands of the log weight of a model trace replayed against a guide trace.

    Raises:
        NotImplementedError: if a model site marked ``infer={"enumerate": ...}`` is absent from the guide.
        ValueError: if another latent model site is absent from the guide.
    """
    model, guide = sample_sites(model_trace), sample_sites(guide_trace)
    terms = []
    for name, site in model.items():
        if not site["is_observed"] and name not in guide:
            raise _absent(site)
        value = site["log_prob"]
        terms.append(Term(name, plates_of(site), value, _finite(value), not site["is_observed"], False))
    for name, site in guide.items():
        value = -site["log_prob"]
        entropy = site["score_parts"].entropy_term
        surrogate = None if is_identically_zero(entropy) else _finite(-entropy)
        terms.append(Term(name, plates_of(site), value, surrogate, True, True))
    return terms


def _finite(x: Tensor) -> Tensor:
    return x.masked_fill(x.detach().isinf(), 0.0)


def _absent(site: Site) -> Exception:
    """Return the error for a latent model site that the guide does not sample."""
    name, enumerate_ = site["name"], site["infer"].get("enumerate")
    if enumerate_:
        return NotImplementedError(
            f"model site {name!r} is marked infer={{'enumerate': {enumerate_!r}}} and is not in the guide, and this "
            "ELBO does not sum sites out of the model: use TraceUnorderedSet_ELBO, TraceSumAndSample_ELBO or "
            "TraceLeaveOneOut_ELBO, which do, or sample the site in the guide"
        )
    return ValueError(f"latent model site {name!r} is not in the guide: sample it there, or observe it")


def has_score(site: Site) -> bool:
    """Return whether a guide site needs a score-function term, that is, is not reparameterised."""
    return not is_identically_zero(score_function(site))


def score_function(site: Site) -> Tensor | Any:
    """Return log q of a site's value, neither scaled nor masked; the number 0 if the site is reparameterised.

    A mask changes what a value costs, not how it is drawn. Pyro leaves it out of the score if it is the outermost
    tensor on a distribution, but not if it is below ``.to_event``, or a truth value.
    """
    fn, score = site["fn"], site["score_parts"].score_function
    if is_identically_zero(score) or not masks_of(fn):
        return score
    return with_base(fn, unwrap(fn).base, masked=False).score_parts(site["value"]).score_function


def plate_nesting(elbo: Any, model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any) -> int:
    """Return ``elbo.max_plate_nesting``, guessed from one run of model and guide if it is not known yet."""
    if math.isinf(elbo.max_plate_nesting):
        elbo._guess_max_plate_nesting(model, guide, args, kwargs)
    return int(elbo.max_plate_nesting)


def refuse_guide_messenger(guide: ModelOrGuide, elbo: Any) -> None:
    """Raise NotImplementedError if the guide is a ``GuideMessenger``, whose guide and model run as one."""
    if isinstance(poutine.unwrap(guide), Messenger):
        raise NotImplementedError(
            f"{type(elbo).__name__} does not take a GuideMessenger: write the guide as a function or PyroModule"
        )


def origins_of(
    program: ModelOrGuide, tracked: Any, names: set[str], args: Any, kwargs: Any
) -> dict[str, frozenset[str]]:
    """Return the sites that the log-probability of each of ``names`` depends on, by one more run of a program.

    Args:
        program: the model or the guide.
        tracked: a trace of the guide in which the values of the sites asked about track their provenance, the name.
        names: the names of the sites whose log-probabilities are looked at.
        args: the positional arguments of the program.
        kwargs: the keyword arguments of the program.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(poutine.replay(program, trace=tracked)).get_trace(*args, **kwargs)
        trace.compute_log_prob(lambda name, site: name in names)
    return {name: get_provenance(trace.nodes[name]["log_prob"]) for name in names if name in trace.nodes}


class SharedSubsample(Messenger):
    """Repeats, in every later run, the plate subsamples drawn in the first run.

    Runs of a guide that are combined for each datum must see the same data.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and not msg["done"] and msg["name"] in self._drawn:
            msg["value"], msg["done"] = self._drawn[msg["name"]], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            self._drawn.setdefault(msg["name"], msg["value"])
