"""The two passes of pruning over a batch of trees, and the first of them in operations for ordinary autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pyro_ext.ops._tree_plans import TreePlan
from pyro_ext.ops._workspaces import Lease, lease

__all__ = ["Inside", "Outside", "by_autograd", "inside", "mixed", "outside", "rows_per_step"]

# Messages that a step reads or writes should still be in the processor's cache when its next operation needs them.
_STEP_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Inside:
    """The results of the pass from the leaves to the root, for M trees, A states, S sites.

    Attributes:
        messages: the messages V, each in its sibling's slot, ``(R, 2, A S)``; only those of one step if not kept.
        below: the likelihood U of the observations below a node given its state: leaves, then rows, scaled,
            ``(n + R, A S)``.
        inverse_scales: the factors by which each row was multiplied, ``(R, S)``; None without scaling.
        transposed: the transposed matrices above the rows from M on, ``(R - M, A, A)``.
        roots: the probabilities of the root's state, ``(M, A)``.
        top: the matrices above the highest nodes where the root is a leaf, ``(M, A, A)``.
        observed: the likelihood of the states of taxon 0, the root where ``top`` is given, ``(A, S)``.
        highest: the likelihood U of the highest nodes, ``(M, A, S)``.
        from_root: the joint probability of the highest nodes' states and of the observation at the root, ``(M, A, S)``.
        likelihood: the likelihood of the sites times all inverse scales, ``(M, S)``.
    """

    messages: Lease
    below: Lease
    inverse_scales: Lease | None
    transposed: Tensor
    roots: Tensor
    top: Tensor | None
    observed: Tensor
    highest: Tensor
    from_root: Tensor
    likelihood: Tensor

    def log_likelihood(self, plan: TreePlan) -> Tensor:
        """Return the log-likelihood of the sites, ``(M, S)``."""
        result = self.likelihood.log()
        if self.inverse_scales is None:
            return result
        logs = self.inverse_scales.tensor.log().index_select(0, plan.rows.flatten())
        return result - logs.unflatten(0, plan.rows.shape).sum(1)

    def inverse_likelihood(self, grad: Tensor) -> Tensor:
        """Return ``grad / likelihood``, 0 where a site is impossible."""
        possible = self.likelihood > 0
        return torch.where(possible, grad / self.likelihood.where(possible, 1), 0)


def rows_per_step(tips: Tensor) -> int | None:
    """Return how many rows of messages for tips ``(n, A, S)`` a step should have; None, no bound, off the CPU."""
    return max(4, _STEP_BYTES // max(tips[0].nbytes, 1)) if tips.device.type == "cpu" else None


def inside(plan: TreePlan, edges: Tensor, roots: Tensor, tips: Tensor, *, scaled: bool, keep: bool) -> Inside:
    """Pass from the leaves to the root.

    Args:
        plan: the layout of the messages.
        edges: transition matrices, ``(M, E, A, A)``.
        roots: the probabilities of the root's state, ``(M, A)``.
        tips: the likelihood of each state at each leaf, ``(n, A, S)``.
        scaled: whether to divide by the largest entry at every internal node.
        keep: whether to keep the messages for the pass from the root to the leaves.
    """
    num_taxa, *shape = tips.shape
    num_rows, size = plan.rows.numel(), tips[0].numel()
    messages = lease((num_rows if keep else plan.most_rows, 2, size), tips)
    below, gathered = lease((num_taxa + num_rows, size), tips), lease((2 * plan.most_rows, size), tips)
    scales = lease((num_rows, shape[-1]), tips) if scaled else None
    nodes, room, slots = (part.tensor.view(-1, *shape) for part in (below, gathered, messages))
    leaves = nodes[:num_taxa].copy_(tips)
    by_edge = edges.flatten(0, 1)
    widths, pairs, _ = plan.step_rows
    # Views of all steps at once: made one by one they would take as long as the arithmetic on small trees.
    pieces = torch.split if keep else _heads
    views = (
        [step.siblings for step in plan.steps],
        by_edge.index_select(0, plan.sibling_edges).split(pairs),
        _heads(room, pairs),
        pieces(slots, pairs),
        pieces(slots[0::2], widths),
        pieces(slots[1::2], widths),
        nodes[num_taxa:].split(widths),
        [None] * len(widths) if scales is None else scales.tensor.split(widths),
    )
    for siblings, matrix, observed, sent, first, second, own, inverse_scale in zip(*map(reversed, views), strict=True):
        torch.index_select(nodes, 0, siblings, out=observed)
        torch.bmm(matrix, observed, out=sent)
        torch.mul(first, second, out=own)
        if inverse_scale is not None:
            _scale(own, inverse_scale)
    start = num_taxa if plan.steps else 1  # two taxa have no internal node
    highest, roots = nodes[start : num_taxa + plan.num_trees], roots.clone()
    top = None if plan.top_edge is None else edges[:, plan.top_edge].clone()
    from_root = roots.unsqueeze(-1) if top is None else (top * roots.unsqueeze(-1)).mT @ leaves[0]
    likelihood, transposed = (from_root * highest).sum(1), by_edge.index_select(0, plan.inner_edges).mT
    return Inside(messages, below, scales, transposed, roots, top, leaves[0], highest, from_root, likelihood)


def _heads(buffer: Tensor, sizes: list[int]) -> list[Tensor]:
    """Return views of the first rows of a buffer, one for each size."""
    made = {size: buffer[:size] for size in set(sizes)}
    return [made[size] for size in sizes]


def _pieces(buffer: Tensor, places: list[int], sizes: list[int]) -> list[Tensor]:
    """Return views of a buffer, one for each pair of a first row and a size."""
    return [buffer[place : place + size] for place, size in zip(places, sizes, strict=True)]


def _scale(below: Tensor, inverse_scale: Tensor) -> None:
    """Divide ``(rows, A, S)`` by the largest entries, whose inverses ``(rows, S)`` are kept; zeros stay zeros."""
    torch.amax(below, 1, out=inverse_scale)
    inverse_scale.clamp_min_(torch.finfo(below.dtype).tiny).reciprocal_()
    below.mul_(inverse_scale.unsqueeze(1))


@dataclass(frozen=True)
class Outside:
    """The results of the pass from the root to the leaves.

    Attributes:
        matrices: the gradients in the transition matrices above the slots, ``(2R, A, A)``.
        top: the gradients in the matrices above the highest nodes if the root is a leaf, ``(M, A, A)``.
        roots: the gradients in the probabilities of the root's state, ``(M, A)``.
        below: the gradients in the products U of the rows before scaling, ``(R, A S)``; only two levels if not kept.
    """

    matrices: Tensor
    top: Tensor | None
    roots: Tensor
    below: Lease

    def by_edge(self, plan: TreePlan) -> Tensor:
        """Return the gradients in all transition matrices, ``(M, E, A, A)``."""
        num_states = self.matrices.shape[-1]
        num_edges = 2 * plan.rows.shape[1] + (self.top is not None)
        result = self.matrices.new_empty((plan.num_trees * num_edges, num_states, num_states))
        result.index_copy_(0, plan.edges, self.matrices)
        result = result.view(plan.num_trees, num_edges, num_states, num_states)
        if self.top is not None:
            result[:, plan.top_edge] = self.top
        return result


def outside(plan: TreePlan, passed: Inside, inverse: Tensor, *, keep: bool = False) -> Outside:
    """Pass from the root to the leaves.

    Args:
        plan: the layout of the messages.
        passed: the results of :func:`inside`, with the messages kept.
        inverse: the gradient in the log-likelihoods over ``passed.likelihood``, ``(M, S)``.
        keep: whether to keep the gradients in the products U of all rows.
    """
    below, messages, shape = passed.below.tensor, passed.messages.tensor, passed.highest.shape[1:]
    size, num_trees, (widths, pairs, inner_widths) = below.shape[1], plan.num_trees, plan.step_rows
    above = lease((len(messages) if keep else 2 * plan.widest, size), below)
    scratch = lease((2, 2 * plan.most_rows, size), below)
    gathered, products = scratch.tensor.view(2, -1, *shape)
    by_state, nodes = above.tensor.view(-1, *shape), below.view(-1, *shape)
    gradients = below.new_empty((2 * len(messages), shape[0], shape[0]))
    scales = None if passed.inverse_scales is None else passed.inverse_scales.tensor.unsqueeze(1)
    if plan.steps:
        torch.mul(passed.from_root, inverse.unsqueeze(1), out=by_state[:num_trees])
        if scales is not None:
            by_state[:num_trees] *= scales[:num_trees]
    places, inner_places = ([step.place for step in plan.steps], [step.inner_place for step in plan.steps])
    if keep:
        places, inner_places = ([step.start for step in plan.steps], [step.first for step in plan.steps])
    observations = _heads(gathered, pairs)
    views = (
        plan.steps,
        _pieces(above.tensor.unsqueeze(1), places, widths),
        messages.split(widths),
        _heads(scratch.tensor[1].view(-1, 2, size), widths),
        observations,
        _heads(products, pairs),
        [x.mT for x in observations],
        gradients.split(pairs),
        _heads(gathered, inner_widths),
        passed.transposed.split(inner_widths),
        _pieces(by_state, inner_places, inner_widths),
    )
    for step, own, received, product, observed, sent, transposed, gradient, inner, matrix, children in zip(
        *views, strict=True
    ):
        torch.mul(own, received, out=product)
        torch.index_select(nodes, 0, step.sources, out=observed)
        torch.bmm(sent, transposed, out=gradient)
        if len(inner):
            torch.index_select(products, 0, step.inner, out=inner)
            torch.bmm(matrix, inner, out=children)
            if scales is not None:
                children *= scales[step.first : step.last]
    return Outside(gradients, *_at_root(passed, inverse), above)


def _at_root(passed: Inside, inverse: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the gradients in the matrices above the highest nodes, if any, and in the root's probabilities."""
    weighted = passed.highest * inverse.unsqueeze(1)
    if passed.top is None:
        return None, weighted.sum(-1)
    joint = (weighted @ passed.observed.mT).mT
    return joint * passed.roots.unsqueeze(-1), (joint * passed.top).sum(-1)


def by_autograd(plan: TreePlan, edges: Tensor, roots: Tensor, tips: Tensor) -> Tensor:
    """Return log-likelihoods ``(M, S)`` by ordinary operations, which autograd can differentiate repeatedly.

    Args:
        plan: a plan whose steps are whole levels.
        edges: transition matrices, ``(M, E, A, A)``.
        roots: the probabilities of the root's state, ``(M, A)``.
        tips: the likelihood of each state at each leaf, ``(n, A, S)``.
    """
    matrices, num_taxa = edges.flatten(0, 1)[plan.edges], plan.num_taxa
    below, scales = tips[1:2], [tips.new_ones((0, tips.shape[-1]))]
    lower = tips[:0]
    for step in reversed(plan.steps):
        start, stop, sources = step.start, step.stop, step.sources
        places = torch.where(sources < num_taxa, sources, sources - stop)  # rows of the level below come after tips
        sent = matrices[2 * start : 2 * stop] @ torch.cat([tips, lower])[places]
        below = sent[::2] * sent[1::2]
        scale = below.detach().amax(1)
        scale = scale.where(scale > 0, 1)
        lower = below = below / scale.unsqueeze(1)
        scales.insert(0, scale)
    at_root = below if plan.top_edge is None else edges[:, plan.top_edge] @ below
    prior = roots.unsqueeze(-1)
    if not plan.rooted:
        prior = prior * tips[0]
    likelihood = (prior * at_root).sum(1)
    possible = likelihood > 0
    log_likelihood = torch.where(possible, likelihood.where(possible, 1).log(), -torch.inf)
    return log_likelihood + torch.cat(scales).log()[plan.rows].sum(1)


def mixed(by_category: Tensor, log_probs: Tensor) -> Tensor:
    """Return the log-likelihoods of mixtures ``(..., S)`` from those of their categories, ``(..., C, S)``.

    Args:
        by_category: the log-likelihoods of the categories.
        log_probs: the log-probabilities of the categories, ``(..., C)``.
    """
    joint = by_category + log_probs.unsqueeze(-1)
    return joint.squeeze(-2) if joint.shape[-2] == 1 else joint.logsumexp(-2)
