"""Plate escape at sites that hold a single value, where no enumeration dim shows who depends on it."""

from __future__ import annotations

from typing import Any

from pyro.ops.provenance import track_provenance

from pyro_ext.inference._traces import origins_of, plates_of, sample_sites
from pyro_ext.inference.elbo import ModelOrGuide
from pyro_ext.inference.sample_sets.dice import plate_escape_message
from pyro_ext.inference.sample_sets.messenger import SET_KEY

__all__ = ["check_single_values"]


def check_single_values(
    traces: tuple[Any, Any], model: ModelOrGuide, guide: ModelOrGuide, args: Any, kwargs: Any
) -> None:
    """Refuse a cost outside the plates of a single-valued set site that depends on its value.

    The gradient would lack that cost. Only sites sampled later than the set site, outside one of its plates, can
    depend on it so; if there are any, the program runs once more and the origin of every value is tracked.

    Args:
        traces: the packed traces of model and guide.
        model: the model, to run once more.
        guide: the guide, to run once more.
        args: the positional arguments of model and guide.
        kwargs: the keyword arguments of model and guide.

    Raises:
        ValueError: naming the site and its plates.
    """
    model_sites, guide_sites = (sample_sites(trace) for trace in traces)
    single = {name: site for name, site in guide_sites.items() if _is_single(site)}
    suspects = {
        name: [_later_outside(name, site, sites) for sites in (model_sites, guide_sites)]
        for name, site in single.items()
    }
    if not any(names for pair in suspects.values() for names in pair):
        return
    tracked = traces[1].copy()
    for name, site in single.items():
        tracked.nodes[name] = {**site, "value": track_provenance(site["value"].detach(), frozenset({name}))}
    for i, program in enumerate((model, guide)):
        names = {name for pair in suspects.values() for name in pair[i]}
        origins = origins_of(program, tracked, names, args, kwargs) if names else {}
        for name, pair in suspects.items():
            for dependent in pair[i]:
                if name in origins.get(dependent, ()):
                    missing = plates_of(single[name]) - plates_of((model_sites, guide_sites)[i][dependent])
                    symbols = frozenset(traces[1].plate_to_symbol[frame.name] for frame in missing)
                    raise ValueError(plate_escape_message(traces[1], name, symbols))


def _is_single(site: Any) -> bool:
    drawn = site["infer"].get(SET_KEY)
    return drawn is not None and (drawn.dim is None or drawn.log_weight.shape[drawn.dim] == 1)


def _later_outside(name: str, site: Any, sites: dict[str, Any]) -> list[str]:
    """Return the sites that are sampled after ``site`` and outside one of its plates."""
    names = list(sites)
    start = names.index(name) + 1 if name in sites else 0
    return [other for other in names[start:] if not plates_of(sites[other]) >= plates_of(site)]
