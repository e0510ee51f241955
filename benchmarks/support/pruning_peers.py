"""Other implementations of the likelihood of trees under JC69, for timing: PyTorch node by node, and torchtree."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_ext.phylo import JC69

__all__ = ["QUOTED", "node_by_node", "torchtree_functions"]

# The public code of variational phylogenetics, github.com/zcrabbit/vbpi-torch, is a loop over trees in float32. It was
# measured separately on one thread: number of topologies of DS1 -> milliseconds with gradients.
QUOTED = {1: {"at best": 4.7, "at worst": 7.7}, 10: {"at best": 51.0, "at worst": 79.0}}

Function = Callable[[Tensor], Tensor]


def node_by_node(trees: list[list[int]], lengths: Tensor, tips: Tensor, weights: Tensor) -> Tensor:
    """Return the log-likelihoods ``(B,)`` of canonical unrooted trees, computed tree by tree with ordinary autograd.

    Args:
        trees: the parents of the nodes of each tree.
        lengths: branch lengths, shape ``(B, E)``.
        tips: the likelihood vectors of the sequences, shape ``(n, 4, S)``.
        weights: the number of sites of each pattern, shape ``(S,)``.
    """
    model = JC69(lengths)
    log_likelihoods = []
    for parents, of_tree in zip(trees, lengths, strict=True):
        matrices = model.transition_matrices(of_tree)
        below: list[Tensor | None] = [*tips, *[None] * (len(parents) - len(tips))]
        nodes = [*range(1, len(tips)), *range(len(parents) - 1, len(tips) - 1, -1)]  # children first
        for node in nodes:
            message, above = matrices[node - 1] @ below[node], below[parents[node]]  # type: ignore[operator]
            below[parents[node]] = message if above is None else above * message
        log_likelihoods.append(((below[0] / 4).sum(0).log() * weights).sum())  # type: ignore[operator]
    return torch.stack(log_likelihoods)


def torchtree_functions(parents: list[int], tips: Tensor, weights: Tensor) -> dict[str, Function]:
    """Return torchtree's functions of branch lengths ``(B, E)`` on a single topology; none if it is not installed.

    Trees of torchtree have a root of degree two. Here it lies on the edge of taxon 0, at a distance of 0 from it.

    Args:
        parents: the parents of the nodes of a canonical unrooted tree.
        tips: the likelihood vectors of the sequences, shape ``(n, 4, S)``.
        weights: the number of sites of each pattern, shape ``(S,)``.
    """
    try:
        from torchtree.evolution import tree_likelihood as peer
        from torchtree.evolution.substitution_model.nucleotide import JC69 as PeerJC69
    except ImportError:
        return {}
    num_taxa, root, model = len(tips), len(parents), PeerJC69("jc")
    inner = range(root - 1, num_taxa - 1, -1)
    order = [(node, *(i for i, above in enumerate(parents) if above == node)) for node in inner]
    order.append((root, 0, num_taxa))
    quarter, whole = tips.new_full((1, 4), 0.25), tips.new_ones((1, 1, 1))
    empty = [None] * (num_taxa - 1)

    def plain(lengths: Tensor) -> Tensor:
        edges = model.p_t(torch.nn.functional.pad(lengths, (1, 0)))
        return peer.calculate_treelikelihood([*tips, *empty], weights, order, edges, quarter)

    def of_categories(name: str, leaves: list[Tensor]) -> Function:
        def evaluate(lengths: Tensor) -> Tensor:
            edges = model.p_t(torch.nn.functional.pad(lengths, (1, 0)).unsqueeze(-1))
            return getattr(peer, name)([*leaves, *empty], weights, order, edges, quarter, whole)

        return evaluate

    prefix, states = "calculate_treelikelihood", tips.argmax(1)
    states[tips.sum(1) > 1] = 4  # unknown
    return {
        "torchtree, no categories": plain,
        "torchtree, categories": of_categories(f"{prefix}_discrete", list(tips)),
        "torchtree, states": of_categories(f"{prefix}_tip_states_discrete", list(states)),
        "torchtree, rescaled": of_categories(f"{prefix}_discrete_rescaled", list(tips)),
    }
