"""Clades and their splits in an order that depends on them alone, so that equal supports have equal layouts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_ext.ops.subsplits.bits import (
    clade_sizes,
    complements,
    lexicographic_order,
    smallest_leaves,
    sum_codes,
)
from pyro_ext.ops.subsplits.collect import CladeSplits
from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.keys import KeyTable, clade_codes, key_table, subsplit_keys

__all__ = ["Layout", "lay_out"]


class Layout(NamedTuple):
    """A graph of subsplits, the clades it is made of, and the codes by which its splits are looked up.

    Attributes:
        words: the clades' bits, ordered by decreasing size, then by their words, ``(C, words)``.
        sister: the sister of each context, -1 for none, ``(S,)``.
        focal: the clade of each context, ``(S,)``.
        children: the two parts into which each split divides its clade, ``(M, 2)``.
        graph: the contexts and splits in flat arrays.
        codes: the codes of the taxa, ``(n,)``.
        table: the table that looks up splits by their keys.
    """

    words: Tensor
    sister: Tensor
    focal: Tensor
    children: Tensor
    graph: SplitGraph
    codes: Tensor
    table: KeyTable


def lay_out(clade_splits: CladeSplits, num_taxa: int, num_choices: int, sisters: bool) -> Layout:
    """Order clades, contexts and splits, and link them.

    The order depends on the clades alone: equal sets of subsplits have equal layouts, whichever trees they came from.

    Args:
        clade_splits: distinct clades, and splits of them, perhaps repeated.
        num_taxa: the number n of taxa.
        num_choices: the number of splits in a tree.
        sisters: whether splits of one clade beside different sisters belong to different contexts.

    Raises:
        ValueError: if a clade of two or more taxa has no split, or the clade of all taxa is missing.
    """
    words, splits = _ordered_clades(clade_splits)
    num_clades = len(words)
    smallest, size = smallest_leaves(words, num_taxa), clade_sizes(words)
    sister, focal, first, second = splits.unbind(-1)
    swap = smallest[first] > smallest[second]
    first, second = torch.where(swap, second, first), torch.where(swap, first, second)
    context = focal * (num_clades + 1) + sister + 1
    contexts, segment = context.unique(return_inverse=True)
    chosen, place = (segment * num_clades + first).unique(return_inverse=True)
    segment = chosen.div(num_clades, rounding_mode="floor")
    first = chosen - segment * num_clades
    second = torch.empty_like(first).scatter_(0, place, second)
    children = torch.stack([first, second], -1)
    beside = children.flip(-1) if sisters else torch.full_like(children, -1)
    child_segment = _located(contexts, children * (num_clades + 1) + beside + 1, size[children] == 1)
    sister, focal = contexts % (num_clades + 1) - 1, contexts.div(num_clades + 1, rounding_mode="floor")
    if int(sister[0]) != -1 or (sisters and int((sister == -1).sum()) != 1):
        raise ValueError("the subsplits make no support: there must be one clade of all taxa, which has no sister")
    graph = _graph(
        num_taxa,
        num_choices,
        segment,
        child_segment.t().contiguous(),
        size[focal],
        size[children].t().contiguous(),
        smallest[children].t().contiguous(),
        smallest_leaves(complements(words[focal], num_taxa), num_taxa)[segment],
    )
    codes, table = _keys(words, num_taxa, sister[segment], focal[segment], children)
    return Layout(words, sister, focal, children, graph, codes, table)


def _ordered_clades(clade_splits: CladeSplits) -> tuple[Tensor, Tensor]:
    """Return the clades that occur in splits, by decreasing size, and the splits with the new positions."""
    used = clade_splits.splits[clade_splits.splits >= 0].unique()
    words = clade_splits.words[used]
    order = lexicographic_order(torch.cat([-clade_sizes(words).unsqueeze(-1), words], -1))
    number = torch.full((len(clade_splits.words) + 1,), -1, device=words.device)
    number[used[order]] = torch.arange(len(used), device=words.device)
    return words[order], number[clade_splits.splits]  # -1 reads the last entry, which is -1


def _located(contexts: Tensor, wanted: Tensor, is_leaf: Tensor) -> Tensor:
    place = torch.searchsorted(contexts, wanted).clamp_max(len(contexts) - 1)
    if not bool(((contexts[place] == wanted) | is_leaf).all()):
        raise ValueError("the subsplits make no support: a clade of two or more taxa is nowhere split")
    return place.masked_fill(is_leaf, len(contexts))


def _graph(
    num_taxa: int,
    num_choices: int,
    segment: Tensor,
    child_segment: Tensor,
    context_size: Tensor,
    child_size: Tensor,
    smallest: Tensor,
    smallest_outside: Tensor,
) -> SplitGraph:
    num_contexts = len(context_size)
    start = torch.searchsorted(segment, torch.arange(num_contexts + 1, device=segment.device))
    begins = torch.ones_like(context_size, dtype=torch.bool)
    begins[1:] = context_size[1:] != context_size[:-1]
    levels = [*begins.nonzero().squeeze(-1).tolist(), num_contexts]
    return SplitGraph(
        num_taxa,
        num_choices,
        tuple(levels),
        tuple(start[levels].tolist()),
        start,
        segment,
        child_segment,
        child_size,
        smallest,
        smallest_outside,
    )


def _keys(words: Tensor, num_taxa: int, sister: Tensor, focal: Tensor, children: Tensor) -> tuple[Tensor, KeyTable]:
    """Draw codes until all clades and all splits have different ones; nearly always the first draw will do."""
    seed = 0
    while True:
        codes = clade_codes(num_taxa, seed, words.device)
        code = sum_codes(words, codes)
        beside = torch.where(sister < 0, 0, code[sister])
        child = torch.minimum(*code[children].unbind(-1))
        keys = subsplit_keys(beside, code[focal], child)
        if all(len(x.unique()) == len(x) for x in (code, keys)):
            return codes, key_table(keys)
        seed += 1
