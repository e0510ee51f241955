"""Mutations of sampled cells of a population that grows in steps, in which cells divide, mutate or die."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.utils.checks import number_between, positive_int

__all__ = ["simulate_subclones"]

_ROUNDS = 50
_MOST_ENTRIES = 2**24  # of the candidates for mutations that are looked at together


def simulate_subclones(
    num_matrices: int,
    cells: int,
    mutations: int,
    *,
    steps: int = 40,
    division: float = 0.3,
    mutation: float = 0.2,
    death: float = 0.1,
    capacity: int = 256,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Simulate a tumour that grows from one cell, and which of its mutations sampled cells have.

    In each step each cell divides into two, gains a new mutation, dies, or survives as it is. A population that exceeds
    the capacity loses random cells until it does not. At the end cells are sampled, then mutations out of those that
    any of these cells has, all of them with equal probability and without replacement. Tumours that die out, or have
    too few cells or mutations, are simulated anew.

    Args:
        num_matrices: the number B of tumours.
        cells: the number n of sampled cells.
        mutations: the number m of sampled mutations.
        steps: the number of steps.
        division: the probability that a cell divides in a step.
        mutation: the probability that a cell gains a mutation in a step.
        death: the probability that a cell dies in a step; what remains to 1 is the probability that it survives.
        capacity: the largest number of cells of a tumour, at least n.
        generator: the random generator, on the same device; torch's default generator if None.
        device: the device on which tumours are simulated.

    Returns:
        bool, ``(B, n, m)``. Each mutation is in one cell at least; those of the first cells are in all.

    Raises:
        ValueError: if a number is out of range, the probabilities have a sum above 1, or hardly any tumour has enough
            cells and mutations.

    Example:
        >>> from pyro_ext.ops.mutations import is_conflict_free
        >>> matrices = simulate_subclones(20, 8, 5, generator=torch.Generator().manual_seed(0))
        >>> matrices.shape, bool(is_conflict_free(matrices).all())
        (torch.Size([20, 8, 5]), True)
    """
    for name, number in (("num_matrices", num_matrices), ("cells", cells), ("mutations", mutations), ("steps", steps)):
        positive_int(name, number)
    positive_int("capacity", capacity, cells)
    chances = [
        number_between(n, p, 0, 1) for n, p in (("division", division), ("mutation", mutation), ("death", death))
    ]
    if sum(chances) > 1 + 1e-9:
        raise ValueError(f"division, mutation and death must have a sum of at most 1, got {sum(chances):g}")
    together = max(1, _MOST_ENTRIES // (steps * max(2 * capacity, cells * cells)))
    done: list[Tensor] = []
    missing = num_matrices
    for _ in range(_ROUNDS + 4 * num_matrices // together):
        size = min(together, missing + missing // 4 + 4)
        matrices = _simulate(size, cells, mutations, steps, chances, capacity, generator, device)[:missing]
        done.append(matrices)
        missing -= len(matrices)
        if missing == 0:
            return torch.cat(done)
    raise ValueError(
        f"after {steps} steps hardly any tumour has {cells} cells and {mutations} mutations of these; take more steps, "
        "or a larger probability of division or mutation, or a smaller one of death"
    )


def _simulate(
    batch: int,
    n: int,
    m: int,
    steps: int,
    chances: list[float],
    capacity: int,
    generator: torch.Generator | None,
    device: torch.device | str | None,
) -> Tensor:
    """Return the matrices of those tumours that have enough cells and mutations."""
    alive = torch.zeros(batch, capacity, dtype=torch.bool, device=device)
    alive[:, 0] = True
    history = []
    for _ in range(steps):
        alive, place, mutated = _step(alive, chances, generator)
        history.append((place, mutated))
    key = torch.rand(alive.shape, generator=generator, device=device) + alive
    sampled = key.topk(n, -1).indices
    carried, first = _candidates(sampled, history)
    wanted = torch.rand(first.shape, generator=generator, device=device) + first
    chosen = wanted.topk(min(m, wanted.shape[-1]), -1).indices
    columns = carried.gather(-1, chosen.unsqueeze(-2).expand(-1, n, -1))
    enough = (alive.sum(-1) >= n) & (first.sum(-1) >= m)
    return columns[enough]


def _step(alive: Tensor, chances: list[float], generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return who is alive after a step, from which place each one comes, and which of them have a new mutation."""
    division, mutation, death = chances
    u = torch.rand(alive.shape, generator=generator, device=alive.device)
    divides = alive & (u < division)
    mutates = alive & (u >= division) & (u < division + mutation)
    survives = alive & ((u < division + mutation) | (u >= division + mutation + death))
    there = torch.cat([survives, divides], -1)
    key = torch.rand(there.shape, generator=generator, device=alive.device) + there
    key, place = key.topk(alive.shape[-1], -1)
    place = place % alive.shape[-1]
    return key >= 1, place, mutates.gather(-1, place)


def _candidates(sampled: Tensor, history: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Go back in time, and return which cells carry the mutation that the lineage of each cell gained in each step.

    Returns:
        The cells that carry it, bool ``(B, n, steps * n)``, and whether there is a mutation at all and the lineage is
        the first one to have it, bool ``(B, steps * n)``.
    """
    carried, first = [], []
    lineage = sampled
    for place, mutated in reversed(history):
        has = mutated.gather(-1, lineage)
        same = (lineage.unsqueeze(-1) == lineage.unsqueeze(-2)) & has.unsqueeze(-2)
        carried.append(same)
        first.append(has & ~same.tril(-1).any(-1))
        lineage = place.gather(-1, lineage)
    return torch.cat(carried, -1), torch.cat(first, -1)
