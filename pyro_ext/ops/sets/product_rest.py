"""What a set of configurations of a product distribution leaves: its mass, and draws from it.

``log_probs`` has shape ``batch_shape + (N, C)``, as in :mod:`pyro_ext.ops.sets.product`.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from pyro_ext.ops.kernels import use_kernels
from pyro_ext.ops.sets.product import ProductSet

__all__ = ["ProductRest", "product_remainder", "sample_product_remainder", "sample_remainder"]


class ProductRest:
    """All configurations of a product distribution outside a set: their mass, and draws from them.

    Compiled kernels serve the CPU where Numba is installed; they draw the same from the same seed.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (N, C)``.
        members: the set, k distinct configurations.

    Example:
        >>> log_probs = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
        >>> members = ProductSet(torch.tensor([[0, 0]]), torch.tensor([0.54]).log())
        >>> ProductRest(log_probs, members).log_mass.exp().item()  # 1 - 0.6 * 0.9
        0.46000...
    """

    def __init__(self, log_probs: Tensor, members: ProductSet) -> None:
        self._log_probs = log_probs.detach().double()
        self._members = members
        self._compiled = use_kernels(self._log_probs, members.index)

    @cached_property
    def _branches(self) -> Tensor:
        return product_remainder(self._log_probs, self._members.index)

    @property
    def log_mass(self) -> Tensor:
        """The log of the mass, float64 ``batch_shape``; -inf where nothing positive is left."""
        if not self._compiled:
            return self._branches.flatten(-3).logsumexp(-1)
        from pyro_ext.ops.sets._rest_kernels import log_mass_outside  # Numba is imported at the first call

        log_probs, members = self._flat(self._log_probs, self._members.index)
        return log_mass_outside(log_probs, members).view(self._members.index.shape[:-2])

    @torch.no_grad()
    def sample(self, num_excluded: Tensor, num_draws: int) -> Tensor:
        """Draw configurations independently, those members that are not excluded being among them.

        Args:
            num_excluded: how many of the members, counted from the first, cannot be drawn; int64 ``batch_shape``.
            num_draws: the number m of configurations to draw.

        Returns:
            Configurations ``batch_shape + (m, N)``; arbitrary where nothing is left to draw.
        """
        uniforms = _uniforms(self._log_probs, self._members, num_draws)
        if self._compiled:
            from pyro_ext.ops.sets._rest_kernels import draw_outside

            index = self._members.index
            excluded = num_excluded.expand(index.shape[:-2]).reshape(-1)
            leaf = uniforms[0].reshape(len(excluded), num_draws)
            log_probs, members, free = self._flat(self._log_probs, index, uniforms[1])
            drawn = draw_outside(log_probs, members, excluded, leaf, free)
            if drawn is not None:
                return drawn.view(*index.shape[:-2], num_draws, index.shape[-1])
        return _sample(self._log_probs, self._members, self._branches, num_excluded, *uniforms)

    def _flat(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        size = math.prod(self._members.index.shape[:-2])
        return tuple(x.reshape(size, *x.shape[-2:]) for x in tensors)


@torch.no_grad()
def product_remainder(log_probs: Tensor, index: Tensor) -> Tensor:
    """Return the log-mass of every branch of the prefix tree that holds no member of a set of configurations.

    The configurations outside the set are a disjoint union of branches: follow member i for t coordinates, then take
    a category c that no member with the same prefix takes; the coordinates after that are free. The sum over branches
    is the mass outside the set, without ever forming one minus the mass of the set.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (N, C)``.
        index: the set, k distinct configurations, int64 ``batch_shape + (k, N)``.

    Returns:
        Log-masses ``batch_shape + (k, N, C)`` float64, -inf where there is no such branch (or it is counted at a
        smaller i).

    Example:
        >>> log_probs = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
        >>> product_remainder(log_probs, torch.tensor([[0, 0]])).exp().sum().item()  # 1 - 0.6 * 0.9
        0.46000...
    """
    log_probs = log_probs.double()
    k, c = index.shape[-2], log_probs.shape[-1]
    same = (index.unsqueeze(-2) == index.unsqueeze(-3)).movedim(-1, -3)  # (N, k, k)
    shared = torch.ones_like(same)
    shared[..., 1:, :, :] = same[..., :-1, :, :].cumprod(dim=-3, dtype=torch.uint8).bool()  # same prefix before t
    category = index.movedim(-1, -2).unsqueeze(-2).expand(shared.shape)
    taken = shared.new_zeros((*shared.shape[:-1], c), dtype=torch.uint8)
    taken = taken.scatter_add_(-1, category, shared.to(torch.uint8)).bool()  # (N, k, C)
    repeat = (shared & torch.ones(k, k, dtype=torch.bool, device=index.device).tril(-1)).any(-1)  # (N, k)
    chosen = log_probs.gather(-1, index.movedim(-1, -2))  # (N, k)
    prefix = torch.cat([torch.zeros_like(chosen[..., :1, :]), chosen[..., :-1, :].cumsum(dim=-2)], dim=-2)
    mass = prefix.unsqueeze(-1) + log_probs.unsqueeze(-2)
    return mass.masked_fill(taken | repeat.unsqueeze(-1), -torch.inf).movedim(-3, -2)


@torch.no_grad()
def sample_product_remainder(
    log_probs: Tensor, members: ProductSet, log_branches: Tensor, num_excluded: Tensor, num_draws: int
) -> Tensor:
    """Draw configurations independently from a product distribution outside the first members of a set.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (N, C)``.
        members: the set, k distinct configurations.
        log_branches: the result of :func:`product_remainder` for this set, ``batch_shape + (k, N, C)``.
        num_excluded: how many of the members, counted from the first, cannot be drawn; int64 ``batch_shape``.
        num_draws: the number m of configurations to draw.

    Returns:
        Configurations ``batch_shape + (m, N)``; arbitrary where nothing is left to draw.
    """
    uniforms = _uniforms(log_probs, members, num_draws)
    return _sample(log_probs.double(), members, log_branches, num_excluded, *uniforms)


def _uniforms(log_probs: Tensor, members: ProductSet, num_draws: int) -> tuple[Tensor, Tensor]:
    """Draw what m draws need: a number for the branch of each, and one for each of its coordinates."""
    *batch, _, n = members.index.shape
    branches = torch.rand(*batch, num_draws, dtype=torch.float64, device=log_probs.device)
    return branches, torch.rand(*batch, n, num_draws, dtype=torch.float64, device=log_probs.device)


def _sample(
    log_probs: Tensor, members: ProductSet, log_branches: Tensor, num_excluded: Tensor, to_leaf: Tensor, to_free: Tensor
) -> Tensor:
    *batch, k, n = members.index.shape
    num_draws = to_leaf.shape[-1]
    position = torch.arange(k, device=members.index.device)
    allowed = members.log_prob.masked_fill(position < num_excluded.unsqueeze(-1), -torch.inf)
    leaf = _inverse_cdf(torch.cat([allowed, log_branches.flatten(-3)], dim=-1), to_leaf)  # batch + (m,)

    branch = (leaf - k).clamp(min=0)
    c = log_probs.shape[-1]
    is_member = leaf < k
    member = torch.where(is_member, leaf, torch.div(branch, n * c, rounding_mode="floor"))
    level = torch.where(is_member, torch.full_like(leaf, n), torch.div(branch, c, rounding_mode="floor") % n)
    followed = members.index.gather(-2, member.unsqueeze(-1).expand(*batch, num_draws, n))
    free = _inverse_cdf(log_probs, to_free).movedim(-1, -2)
    coordinate = torch.arange(n, device=leaf.device)
    level = level.unsqueeze(-1)
    result = torch.where(coordinate < level, followed, free)
    return torch.where(coordinate == level, (branch % c).unsqueeze(-1), result)


@torch.no_grad()
def sample_remainder(log_probs: Tensor, index: Tensor, num_excluded: Tensor, num_draws: int) -> Tensor:
    """Draw categories independently from a single categorical distribution outside the first members of a set.

    The same as :func:`sample_product_remainder` for N = 1, in a pass over the C categories instead of k C branches.

    Args:
        log_probs: normalised log-probabilities, ``batch_shape + (C,)``.
        index: the set, k distinct categories, int64 ``batch_shape + (k,)``.
        num_excluded: how many of the members, counted from the first, cannot be drawn; int64 ``batch_shape``.
        num_draws: the number m of categories to draw.

    Returns:
        Categories ``batch_shape + (m,)``; arbitrary where nothing is left to draw.

    Example:
        >>> log_probs = torch.tensor([0.5, 0.3, 0.2]).log()
        >>> sample_remainder(log_probs, torch.tensor([0, 1]), torch.tensor(2), 4)
        tensor([2, 2, 2, 2])
    """
    log_probs = log_probs.double()
    excluded = torch.arange(index.shape[-1], device=index.device) < num_excluded.unsqueeze(-1)
    own = log_probs.gather(-1, index).masked_fill(excluded, -torch.inf)
    uniforms = torch.rand(*index.shape[:-1], num_draws, dtype=torch.float64, device=index.device)
    return _inverse_cdf(log_probs.scatter(-1, index, own), uniforms)


def _inverse_cdf(log_mass: Tensor, uniforms: Tensor) -> Tensor:
    """Return the indices ``batch_shape + (m,)`` of masses ``exp(log_mass)``, ``(L,)`` each, at uniform numbers."""
    top = log_mass.amax(-1, keepdim=True)
    cdf = (log_mass - top.nan_to_num(neginf=0.0)).exp_().cumsum(-1)  # nothing is left where it ends in 0
    total = cdf[..., -1:]
    u = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, u, right=True).clamp(max=log_mass.shape[-1] - 1)
