r"""Felsenstein's pruning: the likelihood of every site of an alignment on a batch of trees, all topologies at once.

From the leaves to the root, every node i with an edge above it, of transition matrix :math:`P_i`, sends its parent

.. math::  V_i = P_i U_i, \qquad U_i = \prod_{c \text{ child of } i} V_c,

where the :math:`U_i` of a leaf is the observation there. The likelihood of a site is :math:`\pi^T U` at the root. The
gradient in all matrices takes one backward pass, from the root to the leaves, whatever the number of edges.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_ext.ops._compiled_pruning import CompiledPruning
from pyro_ext.ops._pruning_passes import by_autograd, inside, mixed, outside, rows_per_step
from pyro_ext.ops._second_derivatives import gradients_with_graph
from pyro_ext.ops._tree_plans import tree_plan
from pyro_ext.utils.shapes import broadcast_shapes

__all__ = ["ancestral_marginals", "log_likelihoods", "site_log_likelihoods"]

# Site likelihoods closer than this to the smallest normal number may have lost digits on the way.
_MARGIN = 1e8
# Up to this many taxa, try without rescaling first, and again with it if that underflows.
_FEW_TAXA = {torch.float32: 60, torch.float64: 400}
# Buffers larger than the first are not kept for the backward pass: trees are evaluated twice, in chunks of the second.
_MOST_BYTES, _CHUNK_BYTES = 1 << 29, 1 << 27


def site_log_likelihoods(
    parents: Tensor,
    transitions: Tensor,
    frequencies: Tensor,
    partials: Tensor,
    *,
    category_log_probs: Tensor | None = None,
    rescale: bool | None = None,
    differentiable_twice: bool = False,
) -> Tensor:
    r"""Return the log-likelihood of every site on every tree, or on every mixture of trees.

    Batch elements may have different topologies at no extra cost. The transition matrices may come from any
    model; gradients reach them and the frequencies.

    Args:
        parents: canonical trees of n taxa, int64 ``batch_shape + (2n - 2,)`` rooted at taxon 0, or
            ``batch_shape + (2n - 1,)`` rooted at node n.
        transitions: the probability to go from the state in the row, nearer the root, to that in the column along
            each edge, ``batch_shape + (E, A, A)``, E one less than the number of nodes, in the order of the nodes
            without the root.
        frequencies: probabilities of the states at the root, ``batch_shape + (A,)``.
        partials: the likelihood of each state at each leaf, ``(n, S, A)``: one-hot where the state is known, all ones
            where it is unknown.
        category_log_probs: if given, the last batch dim is that of C categories of sites, such as rates, and their
            likelihoods are mixed by these log-probabilities, ``(..., C)``.
        rescale: whether to divide by the largest entry at every node, which prevents underflow; if None, only where
            needed.
        differentiable_twice: whether to use ordinary autograd throughout, which is slower but which transforms of
            ``torch.func`` need. Second derivatives by ``create_graph=True`` are right either way.

    Returns:
        ``batch_shape + (S,)``, all batch shapes broadcast, without the dim of the categories; -inf, without a gradient,
        where a site is impossible.

    Raises:
        ValueError: if shapes or types disagree.

    References:
        | Evolutionary trees from DNA sequences: a maximum likelihood approach (Felsenstein, 1981)
        | https://doi.org/10.1007/BF01734359

    >>> parents = torch.tensor([-1, 3, 3, 0])  # three taxa
    >>> transitions = (0.1 + 0.6 * torch.eye(4)).expand(3, 4, 4)
    >>> partials = torch.eye(4)[torch.tensor([[0, 0], [0, 1], [0, 1]])]  # sites AAA and ACC
    >>> site_log_likelihoods(parents, transitions, torch.full((4,), 0.25), partials).exp()
    tensor([0.0865, 0.0145])
    """
    arranged = _arranged(parents, transitions, frequencies, partials, category_log_probs)
    trees, edges, roots, log_probs, tips, batch_shape = arranged
    if differentiable_twice:
        by_tree = by_autograd(tree_plan(trees), edges, roots, tips)
    else:
        compiled = CompiledPruning.where_possible(trees, edges, roots, log_probs.exp(), tips, rescale)
        if compiled is not None:
            return compiled.by_site().reshape(*batch_shape, -1)
        by_tree = _in_chunks(trees, edges, roots, tips, rescale)
    return mixed(by_tree.unflatten(0, log_probs.shape), log_probs).reshape(*batch_shape, -1)


def log_likelihoods(
    parents: Tensor,
    transitions: Tensor,
    frequencies: Tensor,
    partials: Tensor,
    weights: Tensor | None = None,
    *,
    category_log_probs: Tensor | None = None,
    rescale: bool | None = None,
) -> Tensor:
    """Return the log-likelihood of all sites on every tree: the sum of :func:`site_log_likelihoods` by weight.

    Compiled kernels evaluate it together with its gradients, in two thirds of the time.

    Args:
        parents: canonical trees, as for :func:`site_log_likelihoods`.
        transitions: the transition matrix of each edge, as for :func:`site_log_likelihoods`.
        frequencies: probabilities of the states at the root, as for :func:`site_log_likelihoods`.
        partials: the likelihood of each state at each leaf, ``(n, S, A)``.
        weights: how often each site occurs, ``(S,)``; each once if None.
        category_log_probs: the log-probabilities of categories of sites, as for :func:`site_log_likelihoods`.
        rescale: whether to prevent underflow, as for :func:`site_log_likelihoods`.

    Returns:
        ``batch_shape``, all batch shapes broadcast, without the dim of the categories.

    Raises:
        ValueError: if shapes or types disagree.

    Example:
        >>> parents = torch.tensor([-1, 3, 3, 0])  # three taxa
        >>> transitions = (0.1 + 0.6 * torch.eye(4)).expand(3, 4, 4)
        >>> partials = torch.eye(4)[torch.tensor([[0, 0], [0, 1], [0, 1]])]  # sites AAA and ACC
        >>> log_likelihoods(parents, transitions, torch.full((4,), 0.25), partials, torch.tensor([2.0, 1.0]))
        tensor(-9.1288)
    """
    num_sites = partials.shape[-2] if partials.dim() > 1 else 0
    if weights is not None and weights.shape != (num_sites,):
        raise ValueError(
            f"weights must have shape ({num_sites},), one for each site of partials, got {tuple(weights.shape)}"
        )
    if weights is None or not weights.requires_grad:
        arranged = _arranged(parents, transitions, frequencies, partials, category_log_probs)
        trees, edges, roots, log_probs, tips, batch_shape = arranged
        compiled = CompiledPruning.where_possible(trees, edges, roots, log_probs.exp(), tips, rescale)
        if compiled is not None:
            ones = tips.new_ones(num_sites) if weights is None else weights
            return compiled.summed(ones).reshape(batch_shape)
    arguments = (parents, transitions, frequencies, partials)
    by_site = site_log_likelihoods(*arguments, category_log_probs=category_log_probs, rescale=rescale)
    return (by_site if weights is None else by_site * weights).sum(-1)


@torch.no_grad()
def ancestral_marginals(parents: Tensor, transitions: Tensor, frequencies: Tensor, partials: Tensor) -> Tensor:
    """Return the posterior probability of every state at every internal node, site by site.

    Args:
        parents: canonical trees of n taxa, int64 ``batch_shape + (2n - 2,)`` rooted at taxon 0, or
            ``batch_shape + (2n - 1,)`` rooted at node n.
        transitions: the transition matrix of each edge, ``batch_shape + (E, A, A)``, laid out as for
            :func:`site_log_likelihoods`.
        frequencies: probabilities of the states at the root, ``batch_shape + (A,)``.
        partials: the likelihood of each state at each leaf, ``(n, S, A)``.

    Returns:
        ``batch_shape + (I, S, A)`` for the internal nodes n, n + 1, ...; zeros where a site is impossible.

    Raises:
        ValueError: if shapes or types disagree.

    >>> parents, partials = torch.tensor([-1, 3, 3, 0]), torch.eye(4)[torch.tensor([[0], [0], [1]])]
    >>> transitions = (0.1 + 0.6 * torch.eye(4)).expand(3, 4, 4)
    >>> ancestral_marginals(parents, transitions, torch.full((4,), 0.25), partials)
    tensor([[[0.8448, 0.1207, 0.0172, 0.0172]]])
    """
    trees, edges, roots, _, tips, batch_shape = _arranged(parents, transitions, frequencies, partials)
    plan = tree_plan(trees, rows_per_step(tips))
    passed = inside(plan, edges, roots, tips, scaled=True, keep=True)
    gradients = outside(plan, passed, passed.inverse_likelihood(torch.ones_like(passed.likelihood)), keep=True)
    assert passed.inverse_scales is not None
    below = passed.below.tensor[plan.num_taxa :].view(-1, *tips.shape[1:])
    marginals = gradients.below.tensor.view_as(below) * below / passed.inverse_scales.tensor.unsqueeze(1)
    return marginals[plan.rows].mT.reshape(*batch_shape, -1, *partials.shape[1:])


def _in_chunks(trees: Tensor, edges: Tensor, roots: Tensor, tips: Tensor, rescale: bool | None) -> Tensor:
    """Return log-likelihoods ``(M, S)``, of as many trees at once as buffers may hold."""
    size = _chunk_size(edges, tips)
    if size >= len(edges):
        return _chunk_log_likelihoods(trees, edges, roots, tips, rescale, again=False)
    chunks = zip(trees.flatten(0, -2).split(size), edges.split(size), roots.split(size), strict=True)
    return torch.cat([_chunk_log_likelihoods(*chunk, tips, rescale, again=True) for chunk in chunks])


def _chunk_size(edges: Tensor, tips: Tensor) -> int:
    """Return how many trees to evaluate at once: all, unless buffers would be too large to be used again."""
    num_trees, num_edges = edges.shape[:2]
    bytes_each = 3 * (num_edges + 1 - len(tips)) * tips[0].nbytes  # two messages per row, and what lies below
    if tips.device.type != "cpu" or num_trees * bytes_each <= _MOST_BYTES:
        return max(num_trees, 1)
    return max(_CHUNK_BYTES // bytes_each, 1)


def _chunk_log_likelihoods(
    trees: Tensor, edges: Tensor, roots: Tensor, tips: Tensor, rescale: bool | None, again: bool
) -> Tensor:
    """Return log-likelihoods ``(M, S)``; the backward pass needs messages, which are kept, or computed ``again``."""
    keep = torch.is_grad_enabled() and not again and (edges.requires_grad or roots.requires_grad)
    if rescale is not None or len(tips) > _FEW_TAXA.get(tips.dtype, 0) or tips.device.type != "cpu":
        return _Pruning.apply(trees, edges, roots, tips, rescale is not False, keep)
    result = _Pruning.apply(trees, edges, roots, tips, False, keep)
    if float(result.detach().amin().exp()) < _MARGIN * torch.finfo(result.dtype).tiny:
        result = _Pruning.apply(trees, edges, roots, tips, True, keep)
    return result


class _Pruning(torch.autograd.Function):
    """Log-likelihoods ``(M, S)`` from matrices ``(M, E, A, A)``, roots ``(M, A)`` and tips ``(n, A, S)``."""

    @staticmethod
    def forward(
        ctx: Any, trees: Tensor, edges: Tensor, roots: Tensor, tips: Tensor, scaled: bool, keep: bool
    ) -> Tensor:
        plan = tree_plan(trees, rows_per_step(tips))
        passed = inside(plan, edges, roots, tips, scaled=scaled, keep=keep)
        ctx.plan, ctx.scaled, ctx.passed = plan, scaled, passed if keep else None
        ctx.save_for_backward(trees, edges, roots, tips)
        return passed.log_likelihood(plan)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, passed = ctx.plan, ctx.passed
        if torch.is_grad_enabled():
            trees, *inputs = ctx.saved_tensors
            return None, *gradients_with_graph(partial(by_autograd, tree_plan(trees)), tuple(inputs), grad), None, None
        if passed is None:
            passed = inside(plan, *ctx.saved_tensors[1:], scaled=ctx.scaled, keep=True)
        gradients = outside(plan, passed, passed.inverse_likelihood(grad))
        return None, gradients.by_edge(plan), gradients.roots, None, None, None


_Arranged = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, torch.Size]


def _arranged(
    parents: Tensor, transitions: Tensor, frequencies: Tensor, partials: Tensor, log_probs: Tensor | None = None
) -> _Arranged:
    """Check the arguments; return trees, matrices, roots, log-probabilities and tips, and the shape of the results.

    Trees keep their batch shape, as a view of what was given, by which their plan may be known; matrices and roots have
    one batch dim. Log-probabilities of M mixtures of C trees are ``(M, C)``; each tree is one without categories.
    """
    num_nodes = parents.shape[-1] if parents.dim() else 0
    num_taxa, num_states = num_nodes // 2 + 1, partials.shape[-1]
    if num_nodes < 2 or parents.dtype != torch.int64:
        raise ValueError(
            f"parents must be int64 batch_shape + (2n - 2,) or (2n - 1,), got {parents.dtype} {tuple(parents.shape)}"
        )
    if partials.dim() != 3 or len(partials) != num_taxa:
        raise ValueError(
            f"partials must have shape (n, S, A) for the n = {num_taxa} taxa of parents {tuple(parents.shape)}, "
            f"got {tuple(partials.shape)}"
        )
    if transitions.dim() < 3 or transitions.shape[-3:] != (num_nodes - 1, num_states, num_states):
        raise ValueError(
            f"transitions must have shape batch_shape + {(num_nodes - 1, num_states, num_states)}, one matrix for "
            f"each edge, got {tuple(transitions.shape)}"
        )
    if frequencies.dim() < 1 or frequencies.shape[-1] != num_states:
        raise ValueError(f"frequencies must have shape batch_shape + ({num_states},), got {tuple(frequencies.shape)}")
    if log_probs is not None and not log_probs.dim():
        raise ValueError(f"category_log_probs must have shape (..., C), got {log_probs}")
    of_categories = () if log_probs is None else log_probs.shape
    batch_shape = broadcast_shapes(parents.shape[:-1], transitions.shape[:-3], frequencies.shape[:-1], of_categories)
    trees = parents.expand(*batch_shape, num_nodes)
    edges = transitions.expand(*batch_shape, *transitions.shape[-3:]).reshape(-1, *transitions.shape[-3:])
    roots = frequencies.expand(*batch_shape, num_states).reshape(-1, num_states).to(edges.dtype)
    tips = partials.mT.to(edges.dtype)
    if log_probs is None:
        return trees, edges, roots, edges.new_zeros((len(edges), 1)), tips, batch_shape
    mixtures = log_probs.to(edges.dtype).expand(batch_shape).reshape(-1, batch_shape[-1])
    return trees, edges, roots, mixtures, tips, batch_shape[:-1]
