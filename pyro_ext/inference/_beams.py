"""Whole guide traces drawn without replacement: repeated guide runs, extended by one discrete site after another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_ext.distributions.structure import unwrap
from pyro_ext.inference._programs import SiteError
from pyro_ext.inference._traces import Plates, Site, plates_of
from pyro_ext.ops.sets import beam_step


class Drawn(NamedTuple):
    """The value of a site.

    Attributes:
        value: the value, or the indices of a subsample.
        event_dim: the number of rightmost dims of the value that are event dims; None for the indices of a subsample.
    """

    value: Any
    event_dim: int | None


@dataclass(frozen=True)
class Beams:
    """Distinct prefixes of guide traces, ``m`` for every element of the plates around the discrete sites.

    Values carry the beams along one dim left of all plates, like an enumerated site; values without that dim are
    shared by all beams.

    Attributes:
        values: the latent values drawn so far, by the name of their site.
        discrete: the names of the discrete sites that have values, in the order in which the guide samples them.
        plates: the plates around each of the discrete sites.
        log_prob: the log-probability of each prefix, float64 ``plate dims + (m,)``.
        perturbed: the Gumbel-perturbed log-probability of each prefix, float64 ``plate dims + (m,)``.
        log_rest: the log of the total probability of all prefixes that were pruned, float64 ``plate dims``.
    """

    values: dict[str, Drawn]
    discrete: tuple[str, ...]
    plates: Plates
    log_prob: Tensor
    perturbed: Tensor
    log_rest: Tensor

    @staticmethod
    def root() -> Beams:
        """Return the one empty prefix, without plates."""
        zero = torch.zeros(1, dtype=torch.float64, device="cpu")  # moved to the device of the first discrete site
        return Beams({}, (), frozenset(), zero, zero, zero.new_full((), -math.inf))


class NextSite(Exception):
    """Stops the guide at the first discrete site that the beams have no value for."""

    def __init__(self, site: Site) -> None:
        super().__init__(site["name"])
        self.site = site


class BeamGuide(Messenger):
    """Runs a guide with the values of ``beams``, up to the next discrete site or to its end.

    Args:
        beams: the prefixes drawn so far.
        nesting: the number of plate dims.

    Attributes:
        drawn: the latent values of this run, those of ``beams`` included, by the name of their site.
    """

    def __init__(self, beams: Beams, nesting: int) -> None:
        super().__init__()
        self._beams = beams
        self._nesting = nesting
        self.drawn: dict[str, Drawn] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"]:
            return
        known = self._beams.values.get(msg["name"])
        if known is not None:
            msg["value"], msg["done"] = known.value, True
        elif msg["value"] is None and not site_is_subsample(msg) and not msg["fn"].has_rsample:
            raise NextSite(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            return
        if site_is_subsample(msg):
            self.drawn[msg["name"]] = Drawn(msg["value"], None)
            return
        drawn = Drawn(msg["value"], msg["fn"].event_dim)
        if varies(drawn, self._nesting) and not plates_of(msg) >= self._beams.plates:
            raise escape(msg["name"], self._beams)
        self.drawn[msg["name"]] = drawn

    def check_complete(self) -> None:
        """Raise a ValueError if this run did not sample one of the sites of the beams."""
        missing = [name for name in self._beams.values if name not in self.drawn]
        if missing:
            raise SiteError(
                f"guide site {missing[0]!r} appears for some values of the discrete sites only: "
                "TraceUnorderedBeam_ELBO needs the same sites for all values; use Trace_ELBO or TraceGraph_ELBO"
            )


def varies(drawn: Drawn, nesting: int) -> bool:
    """Return whether a value differs between beams, that is, has the beam dim."""
    if drawn.event_dim is None:
        return False
    return drawn.value.dim() > nesting + drawn.event_dim and len(drawn.value) > 1


def escape(name: str, beams: Beams) -> SiteError:
    """Return the error for a site outside the plates that depends on discrete sites inside them."""
    plates = ", ".join(repr(plate.name) for plate in sorted(beams.plates, key=lambda plate: -plate.dim))
    return SiteError(
        f"site {name!r} depends on discrete sites {list(beams.discrete)} but lies outside their plate {plates}: "
        "each plate element has beams of its own; replace the plate by .to_event in model and guide"
    )


def reads_value(error: RuntimeError) -> bool:
    """Return whether an error comes from Python reading one number off a value with beams."""
    return any(text in str(error) for text in ("more than one value is ambiguous", "cannot be converted to Scalar"))


def branching(beams: Beams) -> SiteError:
    """Return the error for a program whose control flow depends on the discrete values."""
    return SiteError(
        f"the model or guide branches on the value of discrete sites {list(beams.discrete)}: "
        "TraceUnorderedBeam_ELBO follows many values at once and needs the same sites for all of them; "
        "write the branch with torch.where, or use Trace_ELBO"
    )


def expand(beams: Beams, site: Site, drawn: dict[str, Drawn], num_samples: int, nesting: int) -> Beams:
    """Extend the beams by the values of one more discrete site, keeping ``num_samples`` of the extensions.

    Args:
        beams: the prefixes with which the guide reached the site.
        site: the site, with its distribution.
        drawn: the values of the sites before it.
        num_samples: the number of extended prefixes to keep.
        nesting: the number of plate dims.

    Raises:
        NotImplementedError: if the site is inside ``pyro.markov``.
        ValueError: if its support is not finite, its plates are not those of the earlier discrete sites, or its
            batch dims are not plates.
    """
    base, support = _support(site)
    beams = _at_site(beams, site, support.device, nesting)
    log_probs = _children(base, support, site, beams, nesting)
    root = torch.arange(log_probs.shape[-3], device=log_probs.device).expand(beams.log_prob.shape)
    actions = root.new_empty((*root.shape, 0))
    log_prob, perturbed, log_rest = beams.log_prob, beams.perturbed, beams.log_rest
    for element in log_probs.unbind(-2):
        children = element.take_along_dim(root.unsqueeze(-1), -2)
        log_prob, perturbed, parent, action, log_rest = beam_step(log_prob, perturbed, children, num_samples, log_rest)
        root = root.gather(-1, parent)
        actions = torch.cat([actions.take_along_dim(parent.unsqueeze(-1), -2), action.unsqueeze(-1)], -1)
    ancestor = root.movedim(-1, 0)
    values = {name: _follow(value, ancestor, nesting) for name, value in drawn.items()}
    fn = site["fn"]
    extension = support[actions.movedim(-2, 0)].reshape(*ancestor.shape, *fn.event_shape)
    values[site["name"]] = Drawn(extension, fn.event_dim)
    names = (*beams.discrete, site["name"])
    return replace(beams, values=values, discrete=names, log_prob=log_prob, perturbed=perturbed, log_rest=log_rest)


def _at_site(beams: Beams, site: Site, device: torch.device, nesting: int) -> Beams:
    """Return the beams with the plates of the site; all discrete sites must have the plates of the first one."""
    name, plates = site["name"], plates_of(site)
    if "_markov_scope" in site["infer"]:
        raise NotImplementedError(
            f"guide site {name!r} is inside pyro.markov: TraceUnorderedBeam_ELBO follows whole traces; "
            "use an ordinary loop"
        )
    if not beams.discrete:
        shape = _plate_shape(site, plates, nesting)
        zero, rest = beams.log_prob.to(device).expand(*shape, 1), beams.log_rest.to(device).expand(shape)
        return replace(beams, plates=plates, log_prob=zero, perturbed=zero, log_rest=rest)
    if plates != beams.plates:
        raise SiteError(
            f"discrete guide sites {beams.discrete[0]!r} and {name!r} are in different plates: "
            "TraceUnorderedBeam_ELBO draws one set per plate element; put them in the same plates (with .to_event "
            "for the rest), or use TraceUnorderedSet_ELBO"
        )
    return beams


def _plate_shape(site: Site, plates: Plates, nesting: int) -> tuple[int, ...]:
    shape = [1] * nesting
    for plate in plates:
        shape[plate.dim] = plate.size if plate.size > 0 else site["fn"].batch_shape[plate.dim]
    return tuple(shape)


def _support(site: Site) -> tuple[Any, Tensor]:
    """Return the distribution of one element of the site and its support, ``(C,) + element event shape``."""
    base = unwrap(site["fn"]).base
    try:
        support = base.enumerate_support(expand=False)
    except NotImplementedError:
        raise SiteError(
            f"guide site {site['name']!r} is a {type(base).__name__}, whose support cannot be enumerated: "
            "TraceUnorderedBeam_ELBO needs finite supports; use TraceLeaveOneOut_ELBO or Trace_ELBO"
        ) from None
    return base, support.reshape(support.shape[0], *base.event_shape)


@torch.no_grad()
def _children(base: Any, support: Tensor, site: Site, beams: Beams, nesting: int) -> Tensor:
    """Return the log-probabilities of every element's categories, float64 ``plate dims + (m, E, C)``."""
    fn = site["fn"]
    log_probs = base.log_prob(support.reshape(-1, *(1,) * len(base.batch_shape), *base.event_shape)).movedim(0, -1)
    padding = (1,) * (nesting + 1 - len(fn.batch_shape))
    shape = (beams.log_prob.shape[-1], *beams.log_prob.shape[:-1])
    try:
        log_probs = log_probs.reshape(*padding, *fn.batch_shape, -1, len(support))
        log_probs = log_probs.expand(*shape, *log_probs.shape[-2:])
    except RuntimeError:
        raise SiteError(
            f"guide site {site['name']!r} has batch shape {tuple(fn.batch_shape)}, which does not fit "
            f"{shape[0]} beams in plates of shape {shape[1:]}: declare batch dims by pyro.plate or .to_event"
        ) from None
    return log_probs.movedim(0, -3).double()


def _follow(drawn: Drawn, ancestor: Tensor, nesting: int) -> Drawn:
    """Return a value for new beams, each with the value of its ``ancestor``, ``(m,) + plate dims``."""
    if drawn.event_dim is None or not varies(drawn, nesting):
        return drawn
    index = ancestor.reshape(*ancestor.shape, *(1,) * drawn.event_dim)
    return Drawn(drawn.value.take_along_dim(index, 0), drawn.event_dim)
