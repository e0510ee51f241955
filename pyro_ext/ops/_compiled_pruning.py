"""Pruning by compiled functions, for autograd: gradients where their weights are known, on the way up or back."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_ext.ops._pruning_passes import by_autograd, mixed
from pyro_ext.ops._second_derivatives import gradients_with_graph
from pyro_ext.ops._tree_plans import tree_plan
from pyro_ext.ops._workspaces import lease
from pyro_ext.ops.kernels import in_threads, one_process_at_a_time, use_kernels

__all__ = ["CompiledPruning"]

# What lies below a node is rescaled where it is smaller than this for some site of a block.
_SMALLEST: Final = {torch.float32: 2.0**-16, torch.float64: 2.0**-100}
_INTEGERS: Final = {torch.float32: np.int32, torch.float64: np.int64}
# Starting a thread takes as long as evaluating a tree of so many taxa times patterns.
_WORTH_A_THREAD: Final = 1 << 17
_READY: Final[set[torch.dtype]] = set()  # the types for which kernels are compiled


class _Trees(NamedTuple):
    """M C trees, the children of their internal nodes ``(M C, I, 2)``, when to rescale, and how tips are laid out."""

    parents: Tensor
    children: np.ndarray[Any, np.dtype[np.int64]]
    smallest: float
    by_state: bool


class CompiledPruning(NamedTuple):
    """The likelihood of M mixtures of C trees, as compiled functions take it.

    Attributes:
        trees: the trees, those of a mixture one behind the other.
        edges: transition matrices, ``(M C, E, A, A)``.
        roots: the probabilities of the root's state, ``(M C, A)``.
        probs: the probabilities of the categories of a mixture, ``(M, C)``.
        tips: the likelihood of each state at each leaf, ``(n, A, S)`` if the trees say by state, else ``(n, S, A)``.
    """

    trees: _Trees
    edges: Tensor
    roots: Tensor
    probs: Tensor
    tips: Tensor

    @classmethod
    def where_possible(
        cls, trees: Tensor, edges: Tensor, roots: Tensor, probs: Tensor, tips: Tensor, rescale: bool | None
    ) -> CompiledPruning | None:
        """Return this for tips ``(n, A, S)`` and the rest as in the attributes; None if PyTorch must."""
        served = use_kernels(trees, edges, roots, probs, tips) and edges.dtype in _SMALLEST
        if not served or not edges.numel() or not tips.numel():
            return None
        from pyro_ext.ops import _pruning_kernels

        parents, num_taxa = trees.reshape(-1, trees.shape[-1]), len(tips)
        children = np.empty((len(parents), parents.shape[1] - num_taxa, 2), np.int64)
        if not _pruning_kernels.children_of(parents.contiguous().numpy(), num_taxa, children):
            return None
        smallest = -1.0 if rescale is False else _SMALLEST[edges.dtype]
        by_state, more = tips.is_contiguous(), -tips.shape[1] % 4
        tips = tips if by_state else tips.mT.contiguous()
        if more:  # states that never occur make their number a multiple of four
            edges, roots = pad(edges, (0, more, 0, more)), pad(roots, (0, more))
            tips = pad(tips, (0, 0, 0, more) if by_state else (0, more))
        return cls(_Trees(trees, children, smallest, by_state), edges, roots, probs, tips)

    def by_site(self) -> Tensor:
        """Return log-likelihoods ``(M, S)``."""
        return _BySite.apply(self._wanted, *self)

    def summed(self, weights: Tensor) -> Tensor:
        """Return the sums of log-likelihoods by constant weights ``(S,)``, shape ``(M,)``."""
        return _Summed.apply(self._wanted, *self, weights)

    @property
    def _wanted(self) -> bool:
        return torch.is_grad_enabled() and any(x.requires_grad for x in (self.edges, self.roots, self.probs))


class _BySite(torch.autograd.Function):
    """Log-likelihoods; for gradients the pass to the root is made again, since storing it would take longer."""

    @staticmethod
    def forward(
        ctx: Any, wanted: bool, trees: _Trees, edges: Tensor, roots: Tensor, probs: Tensor, tips: Tensor
    ) -> Tensor:
        if wanted:
            ctx.trees, ctx.copies = trees, [lease(tuple(x.shape), x) for x in (edges, roots, probs, tips)]
            for copy, x in zip(ctx.copies, (edges, roots, probs, tips), strict=True):
                copy.tensor.copy_(x)  # the graph outlives changes in place
            ctx.save_for_backward(edges, roots, probs, tips)
        return _passes(trees, edges, roots, probs, tips)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            *inputs, tips = ctx.saved_tensors
            again = gradients_with_graph(partial(_in_operations, ctx.trees, tips), tuple(inputs), grad)
            return None, None, *again, None
        edges, roots, probs, tips = (copy.tensor for copy in ctx.copies)
        _, *gradients = _passes(ctx.trees, edges, roots, probs, tips, grad, ctx.needs_input_grad[2])
        return None, None, *_needed(ctx, gradients), None


class _Summed(torch.autograd.Function):
    """Weighted sums of log-likelihoods, whose gradients come from the same pass, but for a factor for each tree."""

    @staticmethod
    def forward(
        ctx: Any,
        wanted: bool,
        trees: _Trees,
        edges: Tensor,
        roots: Tensor,
        probs: Tensor,
        tips: Tensor,
        weights: Tensor,
    ) -> Tensor:
        given = weights.to(edges.dtype).unsqueeze(0) if wanted else None
        result, *gradients = _passes(trees, edges, roots, probs, tips, given, ctx.needs_input_grad[2])
        if wanted:
            ctx.trees, ctx.gradients = trees, gradients
            ctx.save_for_backward(edges, roots, probs, tips, weights)
        return result @ weights if weights.dtype == result.dtype else (result * weights).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            *inputs, tips, weights = ctx.saved_tensors

            def function(*inputs: Tensor) -> Tensor:
                return (_in_operations(ctx.trees, tips, *inputs) * weights).sum(-1)

            again = gradients_with_graph(function, tuple(inputs), grad)
            return None, None, *again, None, None
        needed = _needed(ctx, ctx.gradients)
        scaled = [None if x is None else _scaled(x, grad) for x in needed]
        return None, None, *scaled, None, None


def _in_operations(trees: _Trees, tips: Tensor, edges: Tensor, roots: Tensor, probs: Tensor) -> Tensor:
    """Return log-likelihoods ``(M, S)`` in operations that autograd knows."""
    by_tree = by_autograd(tree_plan(trees.parents), edges, roots, tips if trees.by_state else tips.mT)
    return mixed(by_tree.unflatten(0, probs.shape), probs.clamp_min(torch.finfo(probs.dtype).tiny).log())


def _scaled(gradient: Tensor, factors: Tensor) -> Tensor:
    """Multiply what belongs to mixture m, one or C entries of ``gradient``, by the factor m."""
    return (gradient.view(len(factors), -1) * factors.unsqueeze(-1)).view_as(gradient)


def _needed(ctx: Any, gradients: list[Tensor]) -> list[Tensor | None]:
    return [x if needed else None for x, needed in zip(gradients, ctx.needs_input_grad[2:5], strict=True)]


def _passes(
    trees: _Trees,
    edges: Tensor,
    roots: Tensor,
    probs: Tensor,
    tips: Tensor,
    weights: Tensor | None = None,
    of_edges: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-likelihoods ``(M, S)``; with weights ``(M, S)`` or ``(1, S)``, also gradients in the other tensors."""
    from pyro_ext.ops import _pruning_kernels

    num_taxa, num_sites, num_states = tips.mT.shape if trees.by_state else tips.shape
    num_mixtures, num_categories = probs.shape
    num_nodes = num_taxa + trees.children.shape[1]
    num_rows = _pruning_kernels.rows_of_room(num_nodes, num_taxa, num_states, num_categories)
    room = num_rows * _pruning_kernels.BLOCK
    leases = [lease((room,), tips) for _ in range(min(torch.get_num_threads(), num_mixtures))]
    rooms = [one.tensor.numpy() for one in leases]
    # Arrays of numpy are made in a fraction of the time of tensors, which counts for a single tree.
    number, in_bits = rooms[0].dtype, _INTEGERS[tips.dtype]
    likelihood, exponents = np.empty((num_mixtures, num_sites), number), np.empty((num_mixtures, num_sites), number)
    of_matrices = np.zeros(edges.shape if weights is not None and of_edges else (0,), number)
    of_roots, of_probs = np.zeros(roots.shape, number), np.zeros(probs.shape, number)
    given = np.empty((0, 0), number) if weights is None else weights.contiguous().numpy()
    matrices, at_root, shares, at_leaves = (x.detach().contiguous().numpy() for x in (edges, roots, probs, tips))
    arrays = (
        *(matrices.reshape(-1), at_root, shares, at_leaves.reshape(-1), trees.by_state, given, likelihood, exponents),
        *(of_matrices.reshape(-1), of_roots, of_probs),
    )

    def evaluate(start: int, stop: int) -> None:
        own = rooms.pop()
        _pruning_kernels.passes(trees.children, *arrays, own, own.view(in_bits), trees.smallest, start, stop)
        rooms.append(own)

    if tips.dtype not in _READY:
        with one_process_at_a_time():
            evaluate(0, 0)
        _READY.add(tips.dtype)
    in_threads(evaluate, num_mixtures, smallest=1 + _WORTH_A_THREAD // (num_taxa * num_sites * num_categories))
    result = torch.from_numpy(likelihood).log_().add_(torch.from_numpy(exponents), alpha=math.log(2))
    return result, torch.from_numpy(of_matrices), torch.from_numpy(of_roots), torch.from_numpy(of_probs)
