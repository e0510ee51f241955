"""The two passes of pruning over a batch of trees, and the first of them once more for ordinary autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pyro_ext.ops._tree_plans import TreePlan
from pyro_ext.ops._workspaces import Lease, lease

__all__ = ["Inside", "Outside", "by_autograd", "inside", "outside", "rows_per_step"]

# Messages that a step reads or writes should still be in the processor's cache when its next operation wants them.
_STEP_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Inside:
    """What the pass from the leaves to the root found, for M trees, A states, S sites.

    Attributes:
        messages: the messages V, each in its sibling's slot, ``(R, 2, A S)``; of one step if they were not kept.
        below: the likelihood U of what lies below a node given its state: leaves, then rows, scaled, ``(n + R, A S)``.
        inverse_scales: what each row was multiplied by, ``(R, S)``, if anything.
        transposed: the transposed matrices above the rows from M on, ``(R - M, A, A)``.
        top: the matrices above the highest nodes where the root is a leaf, ``(M, A, A)``.
        highest: U of the highest nodes, ``(M, A, S)``.
        at_root: the likelihood of all but the root's own observation given its state, ``(M, A, S)``.
        observed: the likelihood of the root's state by its own observation, ``(A, S)``; ones if there is none.
        prior: ``observed`` times the probability of the root's state, ``(M, A, S)``.
        likelihood: of the sites, times all inverse scales, ``(M, S)``.
    """

    messages: Lease
    below: Lease
    inverse_scales: Lease | None
    transposed: Tensor
    top: Tensor | None
    highest: Tensor
    at_root: Tensor
    observed: Tensor
    prior: Tensor
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
    """Return how many rows of messages for tips ``(n, A, S)`` a step should have; as many as may be off the CPU."""
    return max(4, _STEP_BYTES // max(tips[0].nbytes, 1)) if tips.device.type == "cpu" else None


def inside(plan: TreePlan, edges: Tensor, roots: Tensor, tips: Tensor, *, scaled: bool, keep: bool) -> Inside:
    """Pass from the leaves to the root.

    Args:
        plan: where the messages lie.
        edges: transition matrices, ``(M, E, A, A)``.
        roots: ``(M, A)``.
        tips: ``(n, A, S)``.
        scaled: whether to divide by the largest entry at every internal node.
        keep: whether to keep the messages for the pass back.
    """
    num_taxa, *shape = tips.shape
    num_rows, size = plan.rows.numel(), tips[0].numel()
    messages = lease((num_rows if keep else plan.most_rows, 2, size), tips)
    below, gathered = lease((num_taxa + num_rows, size), tips), lease((2 * plan.most_rows, size), tips)
    scales = lease((num_rows, shape[-1]), tips) if scaled else None
    nodes, room, slots = (part.tensor.view(-1, *shape) for part in (below, gathered, messages))
    leaves = nodes[:num_taxa].copy_(tips)
    by_edge = edges.flatten(0, 1)
    widths, pairs = plan.step_rows
    matrices = by_edge.index_select(0, plan.sibling_edges).split(pairs)
    # Views of all steps at once: made one by one they would take as long as the arithmetic of small trees.
    rows = nodes[num_taxa:].split(widths)
    sent_by = slots.split(pairs) if keep else [slots[:pair] for pair in pairs]
    for step, own, sent, matrix in zip(*map(reversed, (plan.steps, rows, sent_by, matrices)), strict=True):
        observed = room[: len(sent)]
        torch.index_select(nodes, 0, step.siblings, out=observed)
        torch.bmm(matrix, observed, out=sent)
        torch.mul(sent[0::2], sent[1::2], out=own)
        if scales is not None:
            _scale(own, scales.tensor[step.start : step.stop])
    first = num_taxa if plan.steps else 1  # two taxa have no internal node
    highest = nodes[first : num_taxa + plan.num_trees]
    top = None if plan.top_edge is None else edges[:, plan.top_edge].clone()
    at_root = highest if top is None else top @ highest
    own_root = torch.ones_like(leaves[0]) if plan.rooted else leaves[0]
    prior = roots.unsqueeze(-1) * own_root
    likelihood, transposed = (prior * at_root).sum(1), by_edge.index_select(0, plan.inner_edges).mT
    return Inside(messages, below, scales, transposed, top, highest, at_root, own_root, prior, likelihood)


def _scale(below: Tensor, inverse_scale: Tensor) -> None:
    """Divide ``(rows, A, S)`` by the largest entries, whose inverses ``(rows, S)`` are kept; zeros stay zeros."""
    torch.amax(below, 1, out=inverse_scale)
    inverse_scale.clamp_min_(torch.finfo(below.dtype).tiny).reciprocal_()
    below.mul_(inverse_scale.unsqueeze(1))


@dataclass(frozen=True)
class Outside:
    """What the pass from the root to the leaves found.

    Attributes:
        matrices: the gradients in the transition matrices above the slots, ``(2R, A, A)``.
        top: those in the matrices above the highest nodes where the root is a leaf, ``(M, A, A)``.
        below: those in the products U of the rows before they were scaled, ``(R, A S)``.
    """

    matrices: Tensor
    top: Tensor | None
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


def outside(plan: TreePlan, passed: Inside, inverse: Tensor) -> Outside:
    """Pass from the root to the leaves.

    Args:
        plan: where the messages lie.
        passed: the pass before, its messages kept.
        inverse: the gradient in the log-likelihoods over ``passed.likelihood``, ``(M, S)``.
    """
    below, messages, shape = passed.below.tensor, passed.messages.tensor, passed.prior.shape[1:]
    size, num_trees, (widths, pairs) = below.shape[1], plan.num_trees, plan.step_rows
    above, scratch = lease((len(messages), size), below), lease((2, 2 * plan.most_rows, size), below)
    gathered, products = scratch.tensor.view(2, -1, *shape)
    products_by_row = scratch.tensor[1].view(-1, 2, size)
    gradients = passed.prior.new_empty((2 * len(messages), shape[0], shape[0]))
    scales = None if passed.inverse_scales is None else passed.inverse_scales.tensor.unsqueeze(1)
    by_state, nodes = above.tensor.view(-1, *shape), below.view(-1, *shape)
    at_top = passed.prior * inverse.unsqueeze(1)
    top = None if passed.top is None else at_top @ passed.highest.mT
    if plan.steps:
        by_state[:num_trees] = at_top if passed.top is None else passed.top.mT @ at_top
    if plan.steps and scales is not None:
        by_state[:num_trees] *= scales[:num_trees]
    rows = above.tensor.unsqueeze(1).split(widths)
    each = zip(plan.steps, rows, messages.split(widths), gradients.split(pairs), strict=True)
    for step, own, received, gradient in each:
        sent, observed = products[: len(gradient)], gathered[: len(gradient)]
        torch.mul(own, received, out=products_by_row[: len(own)])
        torch.index_select(nodes, 0, step.sources, out=observed)
        torch.bmm(sent, observed.mT, out=gradient)
        first, last = step.first, step.last
        if first < last:
            inner = gathered[: last - first]
            torch.index_select(products, 0, step.inner, out=inner)
            children = by_state[first:last]
            torch.bmm(passed.transposed[first - num_trees : last - num_trees], inner, out=children)
            if scales is not None:
                children *= scales[first:last]
    return Outside(gradients, top, above)


def by_autograd(plan: TreePlan, edges: Tensor, roots: Tensor, tips: Tensor) -> Tensor:
    """Return log-likelihoods ``(M, S)`` by operations that autograd differentiates as often as one likes.

    Args:
        plan: with whole levels for steps.
        edges: ``(M, E, A, A)``.
        roots: ``(M, A)``.
        tips: ``(n, A, S)``.
    """
    matrices, num_taxa = edges.flatten(0, 1)[plan.edges], plan.num_taxa
    below, scales = tips[1:2], [tips.new_ones((0, tips.shape[-1]))]
    lower = tips[:0]
    for start, stop, _, _, sources, _, _ in reversed(plan.steps):
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
