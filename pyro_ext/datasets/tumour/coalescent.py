"""Mutations of sampled cells under the coalescent with infinite sites, many samples at once."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_ext.utils.checks import nonnegative_number, positive_int, positive_number

__all__ = ["simulate_coalescent"]

_MOST_ENTRIES = 2**25  # of the genealogies that are simulated together


def simulate_coalescent(
    num_matrices: int,
    cells: int,
    mutations: int | None = None,
    *,
    theta: float = 4.0,
    growth: float = 0.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Simulate which cells have which mutations when all cells descend from one.

    Backwards in time each pair of lineages finds its common ancestor at rate :math:`e^{g t}`, 1 without growth; each
    pair is as likely as any other. Mutations fall on the branches of this genealogy, uniformly along its total length
    :math:`L`, each at a site of its own. A fixed number of mutations is what the program ``ms`` draws for
    ``ms n 1 -s m``; a random one has a Poisson distribution,

    .. math::  S \sim \mathrm{Poisson}(\tfrac{\theta}{2} L), \qquad
        E[\#\{\text{mutations of } i \text{ cells}\}] = \theta / i \quad \text{for } g = 0.

    Args:
        num_matrices: the number B of matrices, whose genealogies are independent.
        cells: the number n of cells, at least 2.
        mutations: the number m of mutations; None for a random number.
        theta: the rate of mutations if their number is random, twice the rate per lineage and unit of time.
        growth: the rate g at which the population has grown exponentially, per unit of time; 0 for a constant size.
            With growth, branches near the leaves are longer, and more mutations are in single cells. In the units of
            ``ms``, which are twice as long, its rate ``-G`` is 2 g.
        generator: the random generator, on the same device; torch's default generator if None.
        device: the device on which matrices are simulated.

    Returns:
        bool, ``(B, n, m)``. Each mutation is in one cell at least and not in all of them. If their number is random, m
        is the largest of the batch, and matrices with fewer have columns of zeros at the end.

    Raises:
        ValueError: if a number is out of range.

    References:
        | The coalescent (Kingman, 1982), https://doi.org/10.1016/0304-4149(82)90011-4
        | Generating samples under a Wright-Fisher neutral model of genetic variation (Hudson, 2002)
        | https://doi.org/10.1093/bioinformatics/18.2.337

    Example:
        >>> from pyro_ext.ops.mutations import is_conflict_free
        >>> matrices = simulate_coalescent(1000, 10, 10, generator=torch.Generator().manual_seed(0))
        >>> matrices.shape, bool(is_conflict_free(matrices).all())
        (torch.Size([1000, 10, 10]), True)
    """
    positive_int("num_matrices", num_matrices)
    positive_int("cells", cells, 2)
    positive_number("theta", theta)
    nonnegative_number("growth", growth)
    if mutations is not None:
        positive_int("mutations", mutations)
    together = max(1, _MOST_ENTRIES // (2 * cells * cells))
    sizes = [min(together, num_matrices - start) for start in range(0, num_matrices, together)]
    parts = [_simulate(size, cells, mutations, theta, growth, generator, device) for size in sizes]
    width = max(part.shape[-1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts])


def _simulate(
    batch: int,
    n: int,
    m: int | None,
    theta: float,
    growth: float,
    generator: torch.Generator | None,
    device: torch.device | str | None,
) -> Tensor:
    clades, lengths = _genealogies(batch, n, growth, generator, device)
    if m is None:
        number = torch.poisson(theta / 2 * lengths.sum(-1), generator=generator).long()
        m = int(number.max())
        has = torch.arange(m, device=device) < number.unsqueeze(-1)
    else:
        has = torch.ones(1, dtype=torch.bool, device=device)
    if m == 0:
        return clades.new_zeros(batch, n, 0)
    branch = torch.multinomial(lengths, m, replacement=True, generator=generator)
    columns = clades.gather(1, branch.unsqueeze(-1).expand(-1, -1, n))
    return (columns & has.unsqueeze(-1)).mT.contiguous()


def _genealogies(
    batch: int, n: int, growth: float, generator: torch.Generator | None, device: torch.device | str | None
) -> tuple[Tensor, Tensor]:
    """Return the cells below each branch, bool ``(B, 2n - 2, n)``, and the lengths of branches, ``(B, 2n - 2)``."""
    clades = torch.zeros(batch, 2 * n - 1, n, dtype=torch.bool, device=device)
    clades[:, :n] = torch.eye(n, dtype=torch.bool, device=device)
    born = torch.zeros(batch, 2 * n - 1, dtype=torch.float64, device=device)
    lengths = torch.zeros_like(born)
    lineages = torch.arange(n, device=device).repeat(batch, 1)
    rows = torch.arange(batch, device=device)
    time = torch.zeros(batch, dtype=torch.float64, device=device)
    for k in range(n, 1, -1):
        wait = torch.empty_like(time).exponential_(generator=generator) * (2 / (k * (k - 1)))
        if growth:
            wait = torch.log1p(growth * wait * (-growth * time).exp()) / growth
        time = time + wait
        new = 2 * n - k
        first = torch.randint(k, (batch,), generator=generator, device=device)
        second = (first + torch.randint(1, k, (batch,), generator=generator, device=device)) % k
        merged = torch.stack([lineages[rows, first], lineages[rows, second]], -1)
        lengths.scatter_(1, merged, time.unsqueeze(-1) - born.gather(1, merged))
        clades[:, new] = clades[rows, merged[:, 0]] | clades[rows, merged[:, 1]]
        born[:, new] = time
        lineages[rows, second] = lineages[:, k - 1].clone()  # this may be the first one, which is there from now on
        lineages[rows, torch.where(first == k - 1, second, first)] = new
    return clades[:, :-1], lengths[:, :-1]
