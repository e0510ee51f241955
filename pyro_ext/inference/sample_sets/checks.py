"""Dependencies that plates forbid: a cost outside a plate that varies with a discrete site inside it."""

from __future__ import annotations

from typing import Any

__all__ = ["check_plate_escape"]


def check_plate_escape(
    costs: dict[frozenset[str], list[Any]], guide_trace: Any, ordering: dict[str, frozenset[str]]
) -> None:
    """Refuse costs that depend on an enumerated site in a plate they are not in.

    Elements of a plate are enumerated together, not in all combinations, so such a cost would be evaluated at the
    wrong values and the bound would be wrong.

    Raises:
        ValueError: naming the site and its plates.
    """
    owner = {
        site["infer"]["_enumerate_symbol"]: name
        for name, site in guide_trace.nodes.items()
        if site["type"] == "sample" and "_enumerate_symbol" in site["infer"]
    }
    for ordinal, terms in costs.items():
        for symbol in set().union(*(set(term._pyro_dims) for term in terms)) & owner.keys():
            name = owner[symbol]
            if not ordering[name] <= ordinal:
                raise ValueError(_message(guide_trace, name, ordering[name] - ordinal))


def _message(guide_trace: Any, name: str, missing: frozenset[str]) -> str:
    plates = sorted(plate for plate, symbol in guide_trace.plate_to_symbol.items() if symbol in missing)
    where = ", ".join(f"pyro.plate({plate!r})" for plate in plates)
    return (
        f"site {name!r} is inside {where}, but a site outside depends on it, so the elements of the plate are not "
        f"independent. Replace the plate around {name!r} by .to_event(1) on its distribution (joint samples), or move "
        "the dependent site into the plate"
    )
