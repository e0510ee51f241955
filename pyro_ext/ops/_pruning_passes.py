"""The two passes of pruning over a batch of trees, and the first of them once more for ordinary autograd."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops._tree_plans import TreePlan
from pyro_ext.ops._workspaces import Lease, lease

__all__ = ["Inside", "Outside", "by_autograd", "inside", "outside"]


@dataclass(frozen=True)
class Inside:
    """What the pass from the leaves to the root found, for M trees, A states, S sites.

    Attributes:
        messages: the messages V of all nodes, ``(nodes, M, A, S)``; the root's is undefined.
        below: the likelihood U of what lies below each internal node given its state, scaled, ``(I, M, A, S)``.
        scales: what each of them was divided by, ``(I, M, S)``, if anything.
        at_root: the likelihood of all but the root's own observation given its state, ``(M, A, S)``.
        observed: the likelihood of the root's state by its own observation, ``(A, S)``; ones if there is none.
        prior: ``observed`` times the probability of the root's state, ``(M, A, S)``.
        likelihood: of the sites, divided by all scales, ``(M, S)``.
    """

    messages: Lease
    below: Lease
    scales: Lease | None
    at_root: Tensor
    observed: Tensor
    prior: Tensor
    likelihood: Tensor

    def log_likelihood(self) -> Tensor:
        """Return the log-likelihood of the sites, ``(M, S)``."""
        result = self.likelihood.log()
        return result if self.scales is None else result + self.scales.tensor.log().sum(0)

    def inverse_likelihood(self, grad: Tensor) -> Tensor:
        """Return ``grad / likelihood``, 0 where a site is impossible."""
        possible = self.likelihood > 0
        return torch.where(possible, grad / self.likelihood.where(possible, 1), 0)


def inside(plan: TreePlan, matrices: Tensor, roots: Tensor, tips: Tensor, scaled: bool) -> Inside:
    """Pass from the leaves to the root.

    Args:
        plan: where the messages lie.
        matrices: ``(nodes, M, A, A)``, the root's unused.
        roots: ``(M, A)``.
        tips: ``(n, A, S)``.
        scaled: whether to divide by the largest entry at every internal node.
    """
    num_nodes, num_trees, num_states, _ = matrices.shape
    shape = (num_trees, num_states, tips.shape[-1])
    num_internal = num_nodes - plan.num_taxa
    messages, below = lease((num_nodes, *shape), matrices), lease((num_internal, *shape), matrices)
    scales = lease((num_internal, num_trees, tips.shape[-1]), matrices) if scaled else None
    leaves = matrices[plan.leaves].reshape(-1, num_trees * num_states, num_states)
    torch.bmm(leaves, tips[plan.leaves], out=messages.tensor[plan.leaves].view(len(leaves), -1, shape[-1]))
    rows, flat = _rows(messages.tensor), below.tensor.flatten(-2)
    second = lease((num_trees, num_states * shape[-1]), matrices)
    right = second.tensor
    sent, factors = messages.tensor.unbind(), matrices.unbind()
    steps = [*zip(plan.internal, plan.left, plan.right, below.tensor, flat, strict=True)]
    for node, left_row, right_row, result, flat_result in reversed(steps):
        torch.index_select(rows, 0, left_row, out=flat_result)
        torch.index_select(rows, 0, right_row, out=right)
        flat_result.mul_(right)
        if scales is not None:
            _scale(result, scales.tensor[node - plan.num_taxa])
        if node != plan.root:
            torch.bmm(factors[node], result, out=sent[node])
    at_root = below.tensor[0] if plan.rooted else sent[plan.top]
    observed = tips.new_ones(tips.shape[1:]) if plan.rooted else tips[plan.root]
    prior = roots.unsqueeze(-1) * observed
    return Inside(messages, below, scales, at_root, observed, prior, (prior * at_root).sum(1))


def _scale(below: Tensor, scale: Tensor) -> None:
    """Divide ``(M, A, S)`` by its largest entries, which ``scale`` ``(M, S)`` then holds; 1 where all are 0."""
    torch.amax(below, 1, out=scale)
    scale.masked_fill_(scale == 0, 1)
    below.div_(scale.unsqueeze(1))


class Outside(NamedTuple):
    """What the pass from the root to the leaves found.

    Attributes:
        messages: the gradients in all messages V, ``(nodes, M, A, S)``; the root's is undefined.
        below: those in the products U before they were scaled, ``(I, M, A, S)``.
    """

    messages: Lease
    below: Lease


def outside(plan: TreePlan, matrices: Tensor, passed: Inside, inverse: Tensor) -> Outside:
    """Pass from the root to the leaves.

    Args:
        plan: where the messages lie.
        matrices: ``(nodes, M, A, A)``, the root's unused.
        passed: the pass before.
        inverse: the gradient in the log-likelihoods over ``passed.likelihood``, ``(M, S)``.
    """
    shape = tuple(passed.messages.tensor.shape)
    first = plan.num_taxa
    gradients, above = lease(shape, matrices), lease((shape[0] - first, *shape[1:]), matrices)
    rows, flat = _rows(above.tensor), gradients.tensor.flatten(-2)
    # Every message is multiplied by its sibling's.
    torch.index_select(_rows(passed.messages.tensor), 0, plan.siblings.flatten(), out=_rows(gradients.tensor))
    top = passed.prior * inverse.unsqueeze(1)
    if not plan.rooted:
        gradients.tensor[plan.top] = top
    factor = lease(tuple(flat.shape[1:]), matrices)
    from_parent = factor.tensor
    transposed = matrices.transpose(-1, -2).unbind()
    for node in plan.internal:
        result = above.tensor[node - first]
        if node == plan.root:
            result.copy_(top)
        else:
            if node != plan.top:
                torch.index_select(rows, 0, plan.parents[node], out=from_parent)
                flat[node].mul_(from_parent)
            torch.bmm(transposed[node], gradients.tensor[node], out=result)
        if passed.scales is not None:
            result.div_(passed.scales.tensor[node - first].unsqueeze(1))
    leaves = gradients.tensor[plan.leaves]
    if len(plan.internal):
        leaves.flatten(0, 1).flatten(-2).mul_(rows.index_select(0, plan.parents[plan.leaves].flatten()))
    return Outside(gradients, above)


def by_autograd(plan: TreePlan, matrices: Tensor, roots: Tensor, tips: Tensor) -> Tensor:
    """Return log-likelihoods ``(M, S)`` by operations that autograd differentiates as often as one likes."""
    trees = range(plan.num_trees)
    messages: dict[int, Tensor] = {node: matrices[node] @ tips[node] for node in range(plan.num_taxa)}
    children = torch.stack([plan.left, plan.right], -1).div(plan.num_trees, rounding_mode="floor").tolist()
    log_scale = matrices.new_zeros((plan.num_trees, tips.shape[-1]))
    for node in reversed(plan.internal):
        pairs = children[node - plan.num_taxa]
        below = torch.stack([messages[pairs[m][0]][m] * messages[pairs[m][1]][m] for m in trees])
        scale = below.detach().amax(1)
        scale = scale.where(scale > 0, 1)
        log_scale = log_scale + scale.log()
        below = below / scale.unsqueeze(1)
        messages[node] = below if node == plan.root else matrices[node] @ below
    prior = roots.unsqueeze(-1)
    if not plan.rooted:
        prior = prior * tips[plan.root]
    return (prior * messages[plan.top]).sum(1).log() + log_scale


def _rows(by_node: Tensor) -> Tensor:
    """View ``(nodes, M, A, S)`` as one row a node and tree."""
    return by_node.view(by_node.shape[0] * by_node.shape[1], -1)
