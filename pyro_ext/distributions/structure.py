"""What lies below ``.to_event`` and ``.mask``, and exact sums over a support that can be listed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["Unwrapped", "enumerated_entropy", "enumerated_kl", "masks_of", "unwrap", "with_base"]


class Unwrapped(NamedTuple):
    """A distribution without ``.to_event`` and ``.mask``.

    Attributes:
        base: the distribution below ``.to_event`` and ``.mask``.
        num_event_dims: how many of the rightmost batch dims of ``base`` are event dims of the whole distribution.
    """

    base: Any
    num_event_dims: int


def unwrap(d: Any) -> Unwrapped:
    """Return the distribution below ``.to_event`` and ``.mask``, in whatever order they were applied.

    Args:
        d: a distribution of Pyro or torch.

    Example:
        >>> import pyro.distributions as dist
        >>> base, num_event_dims = unwrap(dist.Bernoulli(torch.full((2, 3), 0.5)).to_event(1).mask(False))
        >>> base, num_event_dims
        (Bernoulli(probs: torch.Size([2, 3])), 1)
    """
    num_event_dims = 0
    while isinstance(d, Independent | MaskedDistribution):
        num_event_dims += getattr(d, "reinterpreted_batch_ndims", 0)
        d = d.base_dist
    return Unwrapped(d, num_event_dims)


def with_base(d: Any, base: Any, masked: bool = True) -> Any:
    """Return ``base`` inside the ``.to_event`` and ``.mask`` of another distribution.

    Args:
        d: the distribution whose ``.to_event`` and ``.mask`` are repeated.
        base: what takes the place of the distribution below them; it has the same batch shape.
        masked: whether masks are repeated too, and not only ``.to_event``.

    Example:
        >>> import pyro.distributions as dist
        >>> discrete = dist.Bernoulli(torch.full((3,), 0.5)).to_event(1)
        >>> with_base(discrete, dist.Normal(torch.zeros(3), 1.0)).event_shape
        torch.Size([3])
    """
    if isinstance(d, Independent):
        return with_base(d.base_dist, base, masked).to_event(d.reinterpreted_batch_ndims)
    if isinstance(d, MaskedDistribution):
        inner = with_base(d.base_dist, base, masked)
        return inner.mask(d._mask) if masked else inner
    return base


def masks_of(d: Any) -> list[Any]:
    """Return all masks on a distribution, the outermost first; those below transforms and expansions too.

    Args:
        d: a distribution of Pyro or torch.

    Returns:
        Tensors and truth values, in the form in which they were given.

    Example:
        >>> import pyro.distributions as dist
        >>> masks_of(dist.Normal(torch.zeros(3), 1.0).mask(False).to_event(1))
        [False]
    """
    masks = []
    while hasattr(d, "base_dist"):
        if isinstance(d, MaskedDistribution):
            masks.append(d._mask)
        d = d.base_dist
    return masks


def enumerated_entropy(d: Distribution) -> Tensor:
    r"""Return the entropy :math:`-\sum_x p(x) \log p(x)` in nats, summed over ``enumerate_support``.

    Args:
        d: a distribution whose support can be listed.

    Returns:
        ``batch_shape``; values of probability zero add nothing.

    Raises:
        NotImplementedError: if the support cannot be listed.

    Example:
        >>> enumerated_entropy(torch.distributions.Bernoulli(torch.tensor([0.5, 0.0])))
        tensor([0.6931, 0.0000])
    """
    log_prob = d.log_prob(d.enumerate_support(expand=False))
    return -(log_prob.exp() * log_prob.clamp_min(torch.finfo(log_prob.dtype).min)).sum(0)


def enumerated_kl(q: Distribution, p: Distribution) -> Tensor:
    r"""Return the divergence :math:`\sum_x q(x) (\log q(x) - \log p(x))` in nats, summed over ``enumerate_support``.

    Args:
        q: a distribution whose support can be listed.
        p: a distribution of the same values, with a batch shape that broadcasts with that of ``q``.

    Returns:
        The broadcast ``batch_shape``; infinite where ``p`` misses values that ``q`` has.

    Raises:
        NotImplementedError: if the support of ``q`` cannot be listed.
        ValueError: if the two have different event shapes.

    Example:
        >>> q, p = (torch.distributions.Categorical(torch.tensor(probs)) for probs in ([0.9, 0.1], [0.5, 0.5]))
        >>> enumerated_kl(q, p)
        tensor(0.3681)
    """
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"q has event shape {tuple(q.event_shape)} but p {tuple(p.event_shape)}: their supports must be the same"
        )
    batch_shape = broadcast_shapes(q.batch_shape, p.batch_shape)
    q, p = q.expand(batch_shape), p.expand(batch_shape)
    values = q.enumerate_support(expand=False)
    log_q, log_p = q.log_prob(values), p.log_prob(values)
    never = log_q == -math.inf
    return (log_q.exp() * (log_q.masked_fill(never, 0) - log_p.masked_fill(never, 0))).sum(0)
