"""Stochastic beam search: whole sequences drawn without replacement, and the mass of all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops._log_space import log_total
from pyro_ext.ops.sets.gumbel import perturb
from pyro_ext.utils.checks import positive_int

__all__ = ["BeamStep", "SequenceSet", "beam_step", "stochastic_beam_search"]


class BeamStep(NamedTuple):
    """The beams after one level, ``n = min(k, m * C)`` of them, in the order drawn.

    Attributes:
        log_prob: log-probability of each prefix, float64 ``batch_shape + (n,)``.
        perturbed: the Gumbel-perturbed log-probability of each prefix, decreasing, float64 ``batch_shape + (n,)``.
        parent: which of the ``m`` beams each prefix extends, int64 ``batch_shape + (n,)``.
        action: which of the ``C`` children extends it, int64 ``batch_shape + (n,)``.
        log_rest: log of the mass of everything pruned so far, float64 ``batch_shape``.
    """

    log_prob: Tensor
    perturbed: Tensor
    parent: Tensor
    action: Tensor
    log_rest: Tensor


class SequenceSet(NamedTuple):
    """Distinct sequences drawn without replacement, ``n`` of them, in the order drawn.

    Attributes:
        actions: the sequences, int64 ``batch_shape + (n, T)``.
        log_prob: their log-probabilities, ``batch_shape + (n,)``.
        log_rest: log of the mass of all other sequences, ``batch_shape``.
    """

    actions: Tensor
    log_prob: Tensor
    log_rest: Tensor


def _condition_on_max(noisy: Tensor, maximum: Tensor) -> Tensor:
    """Condition perturbed values ``(..., C)``, independent Gumbels, on their maximum being ``maximum`` ``(...)``."""
    # v is -inf at the argmax, which therefore becomes the maximum exactly; appendix B.3 of arXiv:1903.06059
    gap = (noisy - noisy.amax(-1, keepdim=True)).exp_().neg_().log1p_()
    v = gap.sub_(noisy).add_(maximum.unsqueeze(-1))
    bounded = maximum.unsqueeze(-1) - v.clamp_min(0)
    return bounded.sub_(v.abs_().neg_().exp_().log1p_())


def beam_step(log_prob: Tensor, perturbed: Tensor, child_log_probs: Tensor, k: int, log_rest: Tensor) -> BeamStep:
    r"""Extend every beam by every child and keep the ``k`` with the largest perturbed log-probability.

    The children's Gumbels are drawn conditionally on their maximum being the parent's, so the survivors of the
    last level are ``k`` draws without replacement from the joint distribution. The mass of what is pruned is added to
    ``log_rest`` at every level: survivors and rest together keep all the mass without any ``1 - P``.

    Args:
        log_prob: log-probability of each prefix, ``batch_shape + (m,)``; zeros with ``m = 1`` at the root.
        perturbed: perturbed log-probability of each prefix, ``batch_shape + (m,)``; zeros at the root.
        child_log_probs: conditional log-probabilities of the next action, ``batch_shape + (m, C)``.
        k: how many of the extended beams to keep.
        log_rest: log of the mass pruned at the levels before, ``batch_shape``; -inf at the root.

    Returns:
        :class:`BeamStep`; everything is float64, ``log_prob`` and ``log_rest`` are differentiable. Impossible
        children come last, with log-probability -inf.

    Raises:
        ValueError: if ``k`` is not a positive integer, or the shapes disagree.

    References:
        | Stochastic beams and where to find them (Kool et al., 2019), algorithm 1
        | https://arxiv.org/abs/1903.06059

    >>> root, rest = torch.zeros(1), torch.tensor(-math.inf)
    >>> step = beam_step(root, root, torch.tensor([[0.7, 0.2, 0.1]]).log(), 2, rest)
    >>> round(float(step.log_prob.exp().sum() + step.log_rest.exp()), 6)
    1.0
    """
    positive_int("k", k)
    _check_beams(log_prob, perturbed, child_log_probs, log_rest)
    joint = log_prob.double().unsqueeze(-1) + child_log_probs
    num_children = joint.shape[-1]
    with torch.no_grad():
        noisy = _condition_on_max(perturb(joint), perturbed.double())
        # beams and children without mass leave inf - inf behind
        noisy = noisy.masked_fill_(joint == -math.inf, -math.inf).flatten(-2)
    joint = joint.flatten(-2)
    size = min(k, joint.shape[-1])
    kept, index = noisy.topk(size, dim=-1)
    rest = log_rest.double()
    if size < joint.shape[-1]:
        rest = log_total(torch.cat([joint.scatter(-1, index, -math.inf), rest.unsqueeze(-1)], -1))
    parent = index.div(num_children, rounding_mode="floor")
    return BeamStep(joint.gather(-1, index), kept, parent, index - parent * num_children, rest)


def _check_beams(log_prob: Tensor, perturbed: Tensor, child_log_probs: Tensor, log_rest: Tensor) -> None:
    beams = child_log_probs.shape[:-1]
    if child_log_probs.dim() < 2 or child_log_probs.shape[-1] < 1:
        raise ValueError(
            f"child_log_probs must have shape batch_shape + (beams, C), got {tuple(child_log_probs.shape)}"
        )
    for name, tensor, shape in (
        ("log_prob", log_prob, beams),
        ("perturbed", perturbed, beams),
        ("log_rest", log_rest, beams[:-1]),
    ):
        if tensor.shape != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} but child_log_probs {tuple(child_log_probs.shape)}: "
                f"{name} must have shape {tuple(shape)}"
            )


def stochastic_beam_search(
    step: Callable[[Tensor], Tensor],
    length: int,
    k: int,
    *,
    batch_shape: Sequence[int] = (),
    device: torch.device | str | None = None,
) -> SequenceSet:
    """Draw ``k`` distinct sequences without replacement from an autoregressive distribution.

    Args:
        step: a function that takes the prefixes so far, int64 ``batch_shape + (m, t)``, and returns the normalised
            log-probabilities of the next action, ``batch_shape + (m, C)``; ``C`` may change with ``t``.
        length: the number of actions ``T`` of a sequence.
        k: the number of sequences to draw; all sequences are returned where there are fewer.
        batch_shape: the shape of a batch of independent searches.
        device: the device of the first prefix, which is empty; the default device if None.

    Returns:
        :class:`SequenceSet`, in the floating type that ``step`` returns; the masses are differentiable.

    Raises:
        ValueError: if ``length`` or ``k`` is not a positive integer, or ``step`` returns a wrong shape.

    References:
        | Stochastic beams and where to find them (Kool et al., 2019)
        | https://arxiv.org/abs/1903.06059

    >>> uniform = lambda prefix: torch.full((*prefix.shape[:-1], 2), 0.5).log()
    >>> drawn = stochastic_beam_search(uniform, length=3, k=5)
    >>> drawn.actions.shape, drawn.log_rest.exp()
    (torch.Size([5, 3]), tensor(0.3750))
    """
    positive_int("length", length)
    actions = torch.empty((*batch_shape, 1, 0), dtype=torch.int64, device=device)
    log_prob = torch.zeros((*batch_shape, 1), dtype=torch.float64, device=device)
    perturbed, log_rest = log_prob, log_prob.new_full(tuple(batch_shape), -math.inf)
    for _ in range(length):
        child_log_probs = step(actions)
        log_prob, perturbed, parent, action, log_rest = beam_step(log_prob, perturbed, child_log_probs, k, log_rest)
        prefix = actions.gather(-2, parent.unsqueeze(-1).expand(*parent.shape, actions.shape[-1]))
        actions = torch.cat([prefix, action.unsqueeze(-1)], -1)
    dtype = child_log_probs.dtype
    return SequenceSet(actions, log_prob.to(dtype), log_rest.to(dtype))
