"""The support of a subsplit Bayesian network: which splits of which clades, beside which sisters, are possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.subsplits.bits import leaf_words, members
from pyro_ext.ops.subsplits.collect import CladeSplits, check_splits, collect_splits
from pyro_ext.ops.subsplits.draws import all_choices
from pyro_ext.ops.subsplits.graph import SplitGraph
from pyro_ext.ops.subsplits.layout import Layout, lay_out
from pyro_ext.ops.subsplits.programs import log_count
from pyro_ext.ops.subsplits.rootings import TreeIndex, index_trees, log_prob_rootings, with_constants
from pyro_ext.phylo._support_graph import subsplit_graph
from pyro_ext.phylo.support_files import named, read_arrays, write_arrays
from pyro_ext.phylo.support_trees import TreesAndWeights, difference, trees_and_weights
from pyro_ext.phylo.trees import TreeSet

if TYPE_CHECKING:
    import networkx

__all__ = ["Coverage", "SubsplitSupport"]

ARRAYS = ("taxa", "rooted", "sisters", "clades", "splits")
_CHUNK = 1 << 19  # subsplits looked up at a time


class Coverage(NamedTuple):
    """How much of a set of trees lies in a support.

    Attributes:
        trees: the fraction of the trees that lie in the support.
        weight: the fraction of the total weight that these trees have.
        splits: the fraction of the trees' distinct subsplits that lie in the support.
    """

    trees: float
    weight: float
    splits: float


class SubsplitSupport:
    r"""The rootsplits and parent-child subsplit pairs that occur in some trees.

    A *subsplit* :math:`(Y, Z)` divides the clade :math:`Y \cup Z` in two. If it divides all taxa, it is a rootsplit;
    otherwise its clade has a sister: clade and sister together are the parent subsplit, and split, clade and sister
    are a *parent-child subsplit pair*, the unit that a :class:`.SubsplitBayesianNetwork` has a parameter
    for. The pairs of one clade and sister, a *context*, stand side by side, the rootsplits first; contexts are
    ordered by decreasing size of their clade, then by their taxa. Equal sets of pairs are equal supports.

    An unrooted tree has the subsplits of all its 2n - 3 rootings, 9n - 21 at most. Build a support by
    :meth:`from_trees`.

    Args:
        taxa: the sorted names of the n taxa.
        rooted: whether the support was made from rooted trees.
        layout: the subsplits as tensors.
        sisters: whether splits of one clade beside different sisters have different contexts; if not, this is the
            support of a :class:`.ConditionalCladeDistribution`.

    References:
        | Generalizing tree probability estimation via Bayesian networks (Zhang and Matsen, 2018)
        | https://arxiv.org/abs/1805.07834

    Example:
        >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])  # 01|23 and 02|13
        >>> SubsplitSupport.from_trees(trees)
        SubsplitSupport(taxa=4, trees=unrooted, rootsplits=6, pairs=20, contexts=16)
    """

    def __init__(self, taxa: tuple[str, ...], rooted: bool, layout: Layout, sisters: bool = True) -> None:
        self.taxa = taxa
        self.rooted = rooted
        self.sisters = sisters
        self.layout = layout

    @classmethod
    def from_trees(
        cls,
        trees: TreeSet | Tensor,
        weights: Tensor | Sequence[float] | None = None,
        rooted: bool | None = None,
        taxa: Sequence[str] | None = None,
        sisters: bool = True,
    ) -> SubsplitSupport:
        """Collect the subsplits of trees.

        Args:
            trees: a :class:`.TreeSet`, or canonical parent vectors ``(T, 2n - 2)``, ``(T, 2n - 1)`` if rooted.
            weights: the weights of the trees, ``(T,)``; if None, those of the set, or equal ones. Trees of weight zero
                are left out.
            rooted: whether the trees must be rooted or unrooted; None allows both.
            taxa: the sorted names of the taxa, for parent vectors; numbers if None.
            sisters: whether splits of one clade beside different sisters have different contexts.

        Raises:
            ValueError: if there are no trees, they are of another kind or not canonical, or the weights are negative
                or all zero.
        """
        given = trees_and_weights(trees, weights, rooted, taxa)
        n = len(given.taxa)
        kind = ("rooted" if given.rooted else "unrooted") if sisters else "clade"
        clade_splits = collect_splits(given.parents, n, kind)
        num_choices = n - 1 if sisters or given.rooted else n - 2
        return cls(given.taxa, given.rooted, lay_out(clade_splits, n, num_choices, sisters), sisters)

    @property
    def num_taxa(self) -> int:
        """The number of taxa, n."""
        return len(self.taxa)

    @property
    def graph(self) -> SplitGraph:
        """Contexts and their splits in flat arrays."""
        return self.layout.graph

    @property
    def num_rootsplits(self) -> int:
        """The number of splits of the clade of all taxa."""
        return self.graph.level_splits[1]

    @property
    def num_parameters(self) -> int:
        """The number of all splits; rootsplits come first."""
        return self.graph.num_splits

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.layout.words.device

    def to(self, device: torch.device | str) -> SubsplitSupport:
        """Return the support with its tensors on a device; the same object if they are there already."""
        if torch.device(device) == self.device:
            return self
        layout = self.layout
        moved = layout._replace(
            graph=_moved(layout.graph, device),
            table=_moved(layout.table, device),
            **{name: x.to(device) for name, x in layout._asdict().items() if isinstance(x, Tensor)},
        )
        return SubsplitSupport(self.taxa, self.rooted, moved, self.sisters)

    @cached_property
    def log_num_rooted_trees(self) -> float:
        """The log of the number of rooted trees that can be built from the subsplits."""
        return float(log_count(self.graph)[0])

    @cached_property
    def rooted_choices(self) -> Tensor:
        """The splits of every rooted tree of the support in preorder, ``(T, J)``; only for small supports."""
        return all_choices(self.graph)

    def index(self, parents: Tensor, rooted: bool | None = None) -> TreeIndex:
        """Look up the subsplits of trees, int64 ``(T, N)``; ``rooted`` says what they are, ``self.rooted`` if None."""
        kind = ("rooted" if (self.rooted if rooted is None else rooted) else "unrooted") if self.sisters else "clade"
        return index_trees(parents, self.layout.codes, self.layout.table, kind)

    def contains(self, trees: TreeSet | Tensor) -> Tensor:
        """Return which trees can be built from the support's subsplits, bool ``(T,)``.

        An unrooted tree counts if one of its rootings can be built.

        Raises:
            ValueError: if the trees are not canonical, of another kind or over other taxa.
        """
        parents = trees if isinstance(trees, Tensor) else trees.parents
        everyone = torch.ones(parents.shape[:-1], device=parents.device) if parents.dim() > 1 else None
        return self._contains(self._given(trees, everyone).parents)

    def coverage(self, trees: TreeSet | Tensor, weights: Tensor | Sequence[float] | None = None) -> Coverage:
        """Return how much of a set of trees lies in the support.

        Args:
            trees: a :class:`.TreeSet`, or canonical parent vectors.
            weights: the weights of the trees, ``(T,)``; if None, those of the set, or equal ones. Trees of weight zero
                do not count.

        Raises:
            ValueError: for the same reasons as :meth:`from_trees`, or if the trees are of another kind or over other
                taxa.

        Example:
            >>> trees = torch.tensor([[-1, 4, 5, 5, 0, 4], [-1, 5, 4, 5, 0, 4]])
            >>> SubsplitSupport.from_trees(trees[:1]).coverage(trees, weights=[0.9, 0.1])
            Coverage(trees=0.5, weight=0.9, splits=0.5769...)
        """
        given = self._given(trees, weights)
        inside = self._contains(given.parents)
        theirs = SubsplitSupport.from_trees(given.parents, taxa=self.taxa, sisters=self.sisters)
        common = theirs.num_parameters + self.num_parameters - self.union(theirs).num_parameters
        return Coverage(
            float(inside.double().mean()), float(given.weights[inside].sum()), common / theirs.num_parameters
        )

    def union(self, other: SubsplitSupport) -> SubsplitSupport:
        """Return the support of the subsplits of both.

        Raises:
            ValueError: if taxa or the kind of trees differ.
        """
        mine, theirs = ((s.taxa, s.rooted, s.sisters) for s in (self, other))
        if mine != theirs:
            taxa = "" if self.taxa == other.taxa else f", and they {difference(self.taxa, other.taxa)}"
            raise ValueError(f"other is {other!r}, this is {self!r}{taxa}: unite supports of the same kind")
        first, second = self._splits(), other.to(self.device)._splits()
        words, place = torch.cat([first.words, second.words]).unique(dim=0, return_inverse=True)
        place = torch.cat([place, place.new_tensor([-1])])
        number = torch.cat([first.splits, torch.where(second.splits < 0, -1, second.splits + len(first.words))])
        layout = lay_out(CladeSplits(words, place[number]), self.num_taxa, self.graph.num_choices, self.sisters)
        return SubsplitSupport(self.taxa, self.rooted, layout, self.sisters)

    def clade(self, taxa: Iterable[str | int]) -> Tensor:
        """Return the words of a clade given by names or numbers of its taxa, int64 ``(words,)``.

        Raises:
            ValueError: if it is empty, or a taxon is unknown or given twice.
        """
        number = {name: i for i, name in enumerate(self.taxa)}
        given = list(taxa)
        unknown = [t for t in given if t not in number and not (isinstance(t, int) and 0 <= t < self.num_taxa)]
        if unknown or not given:
            raise ValueError(f"clade holds {unknown}: give one or more of the taxa {self.taxa} or their numbers")
        index = [t if isinstance(t, int) else number[t] for t in given]
        if len(set(index)) < len(index):
            raise ValueError(f"clade {given} names a taxon twice")
        return leaf_words(self.num_taxa, self.device)[index].sum(0)

    def taxa_of(self, words: Tensor) -> tuple[str, ...]:
        """Return the names of the taxa in a clade ``(words,)``."""
        inside = members(words.unsqueeze(0), self.num_taxa).squeeze(0).tolist()
        return tuple(name for name, there in zip(self.taxa, inside, strict=True) if there)

    def to_networkx(self) -> networkx.DiGraph:
        """Return the graph of subsplits, see :func:`.subsplit_graph`."""
        return subsplit_graph(self)

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays from which :meth:`from_arrays` builds the support."""
        clade_splits = self._splits()
        return {
            "taxa": np.array(self.taxa),
            "rooted": np.array(self.rooted),
            "sisters": np.array(self.sisters),
            "clades": clade_splits.words.cpu().numpy(),
            "splits": clade_splits.splits.cpu().numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> SubsplitSupport:
        """Build a support from arrays.

        Raises:
            ValueError: if the arrays do not describe a support.
        """
        taxa = tuple(str(name) for name in arrays["taxa"].reshape(-1))
        if len(taxa) < 2 or list(taxa) != sorted(set(taxa)):
            raise ValueError(f"taxa are {len(taxa)} names, {taxa[:3]} the first: they must be different and sorted")
        rooted, sisters = (bool(arrays[name].all()) for name in ("rooted", "sisters"))
        if any(arrays[name].dtype.kind not in "iu" for name in ("clades", "splits")):
            raise ValueError("clades and splits must hold integers")
        clade_splits = CladeSplits(*(torch.from_numpy(arrays[name].astype(np.int64)) for name in ("clades", "splits")))
        check_splits(clade_splits, len(taxa), sisters)
        num_choices = len(taxa) - 1 if sisters or rooted else len(taxa) - 2
        return cls(taxa, rooted, lay_out(clade_splits, len(taxa), num_choices, sisters), sisters)

    def save(self, path: str | Path) -> None:
        """Write the support to an ``.npz`` file, whole or not at all."""
        write_arrays(path, self.to_arrays())

    @classmethod
    def load(cls, path: str | Path) -> SubsplitSupport:
        """Read a support from a file.

        Raises:
            ValueError: if the file does not hold a support.
        """
        try:
            return cls.from_arrays(read_arrays(path, ARRAYS))
        except ValueError as error:
            raise named(error, path) from error

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, SubsplitSupport):
            return NotImplemented
        mine, theirs = self.to_arrays(), other.to_arrays()
        return all(np.array_equal(mine[name], theirs[name]) for name in ARRAYS)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = "rooted" if self.rooted else "unrooted"
        splits = f"rootsplits={self.num_rootsplits}, pairs={self.num_parameters - self.num_rootsplits}"
        contexts = self.graph.num_contexts - 1
        if not self.sisters:
            splits, contexts = f"splits={self.num_parameters}", contexts + 1
        unit = "contexts" if self.sisters else "clades"
        return f"SubsplitSupport(taxa={self.num_taxa}, trees={kind}, {splits}, {unit}={contexts})"

    def _splits(self) -> CladeSplits:
        layout, segment = self.layout, self.graph.segment
        columns = (layout.sister[segment], layout.focal[segment], *layout.children.unbind(-1))
        return CladeSplits(layout.words, torch.stack(columns, -1))

    def _given(self, trees: TreeSet | Tensor, weights: Tensor | Sequence[float] | None) -> TreesAndWeights:
        given = trees_and_weights(trees, weights, self.rooted, self.taxa if isinstance(trees, Tensor) else None)
        if given.taxa != self.taxa:
            raise ValueError(f"trees and support {difference(given.taxa, self.taxa)}: relabel or prune the trees")
        return given

    def _contains(self, parents: Tensor) -> Tensor:
        never = with_constants(torch.zeros(self.num_parameters, device=self.device))
        parts = []
        for chunk in parents.to(self.device).split(max(1, _CHUNK // (9 * self.num_taxa))):
            index = self.index(chunk)
            terms = never.index_select(0, index.position.reshape(-1)).view_as(index.position)
            unrooted = self.sisters and not self.rooted
            log_prob = log_prob_rootings(terms, index.relations).amax(-1) if unrooted else terms.sum(-1)
            parts.append(log_prob == 0)
        return torch.cat(parts)


def _moved(part: Any, device: torch.device | str) -> Any:
    return part._replace(**{name: x.to(device) for name, x in part._asdict().items() if isinstance(x, Tensor)})
