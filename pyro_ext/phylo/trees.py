"""Sets of trees over the same taxa."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_ext.phylo._newick_text import newick_lines, quoted
from pyro_ext.phylo.canonical import canonicalize, is_canonical, num_taxa

__all__ = ["TreeSet"]


@dataclass(frozen=True, eq=False, repr=False)
class TreeSet:
    """Binary trees over the same taxa, all rooted or all unrooted, in canonical form.

    Args:
        taxa: the sorted names of the n taxa.
        parents: canonical parent vectors, int64 ``(T, 2n - 2)`` if unrooted, ``(T, 2n - 1)`` if rooted; see
            :mod:`pyro_ext.phylo.canonical`.
        rooted: whether the place of the root is part of the trees.
        weights: the weights of the trees, float64 ``(T,)``, not negative, of any sum; ``None`` for equal weights.
        branch_lengths: the lengths of the edges, ``(T, 2n - 3)`` if unrooted, ``(T, 2n - 2)`` if rooted; ``None`` for
            trees without lengths.
        validate: whether to check the other arguments.

    Raises:
        ValueError: if an argument has a wrong shape or type, or is not sorted, canonical or non-negative as required.

    Example:
        >>> trees = TreeSet(("a", "b", "c", "d"), torch.tensor([[-1, 5, 5, 4, 0, 4], [-1, 4, 5, 5, 0, 4]]))
        >>> trees
        TreeSet(2 unrooted trees of 4 taxa: a, b, c, d)
        >>> trees.to_newick()
        ['(a,(b,c),d);', '(a,b,(c,d));']
    """

    taxa: tuple[str, ...]
    parents: Tensor
    rooted: bool = False
    weights: Tensor | None = None
    branch_lengths: Tensor | None = None
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        if validate:
            _check_taxa(self.taxa)
            _check_parents(self.parents, self.rooted, len(self.taxa))
            _check_numbers(self.parents, self.weights, self.branch_lengths)

    @classmethod
    def from_parents(
        cls,
        taxa: Sequence[str],
        parents: Tensor,
        *,
        rooted: bool = False,
        weights: Tensor | None = None,
        branch_lengths: Tensor | None = None,
    ) -> TreeSet:
        """Make a set of trees whose taxa and internal nodes come in any order.

        Args:
            taxa: the names of the leaves, nodes 0 to n - 1, in any order.
            parents: parent vectors in any form that :func:`~pyro_ext.phylo.canonical.canonicalize` takes, ``(T, M)``.
            rooted: whether the place of the root is part of the trees.
            weights: the weights of the trees, ``(T,)``; None for equal weights.
            branch_lengths: the length of the edge above each node, ``(T, M)``; the entry of the root is ignored.

        Raises:
            ValueError: if ``parents`` holds no binary trees, or the shapes do not fit.

        Example:
            >>> TreeSet.from_parents(["b", "a", "c"], torch.tensor([[3, 3, 4, 4, -1]]), rooted=True).to_newick()
            ['((a,b),c);']
        """
        if len(set(taxa)) != len(taxa):
            raise ValueError(f"taxa holds {_duplicate(taxa)!r} twice: give each taxon a name of its own")
        if parents.dim() != 2 or len(taxa) != parents.shape[-1] // 2 + 1:
            raise ValueError(f"parents has shape {tuple(parents.shape)}, which does not fit {len(taxa)} taxa")
        if branch_lengths is not None and branch_lengths.shape != parents.shape:
            raise ValueError(
                f"branch_lengths has shape {tuple(branch_lengths.shape)} but parents {tuple(parents.shape)}: "
                "give one length per node, anything at the root"
            )
        order = sorted(range(len(taxa)), key=taxa.__getitem__)
        new = parents.new_tensor([order.index(i) for i in range(len(taxa))])
        old = parents.new_tensor(order)
        moved = torch.cat([parents[:, old], parents[:, len(taxa) :]], -1)
        leaf_root = (moved >= 0) & (moved < len(taxa))
        moved = torch.where(leaf_root, new[moved.clamp(0, len(taxa) - 1)], moved)
        if branch_lengths is not None:
            branch_lengths = torch.cat([branch_lengths[:, old], branch_lengths[:, len(taxa) :]], -1)
        trees = canonicalize(moved, branch_lengths, rooted=rooted)
        _check_numbers(trees.parents, weights, trees.branch_lengths)
        return cls(tuple(taxa[i] for i in order), trees.parents, rooted, weights, trees.branch_lengths, validate=False)

    @property
    def num_taxa(self) -> int:
        """The number of taxa."""
        return len(self.taxa)

    def __len__(self) -> int:
        return len(self.parents)

    def __repr__(self) -> str:
        names = ", ".join(self.taxa[:4]) + (", ..." if len(self.taxa) > 4 else "")
        kind = "rooted" if self.rooted else "unrooted"
        has = [name for name in ("weights", "branch_lengths") if getattr(self, name) is not None]
        extra = f"; with {' and '.join(has)}".replace("_", " ") if has else ""
        plural = "" if len(self) == 1 else "s"
        return f"TreeSet({len(self):,} {kind} tree{plural} of {self.num_taxa} taxa: {names}{extra})"

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> TreeSet:
        """Return a subset of the trees; an integer gives a set of one tree."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"tree {index} of {len(self)}")
            index = [index]
        elif not isinstance(index, slice | Tensor):
            index = list(index)
        return self._with_rows(lambda own: own[index])

    def to(self, device: torch.device | str) -> TreeSet:
        """Return the trees on another device."""
        return self._with_rows(lambda own: own.to(device))

    def probabilities(self) -> Tensor:
        """Return the weights divided by their sum, ``(T,)``; equal ones if there are no weights.

        Example:
            >>> trees = TreeSet(("a", "b", "c"), torch.tensor([[-1, 3, 3, 0]] * 4))
            >>> trees.probabilities()
            tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
        """
        weights = self._weights()
        return weights / weights.sum()

    def unique(self) -> TreeSet:
        """Merge equal topologies, in the order in which they first appear.

        Returns:
            One tree for each topology, weighted by the sum of the weights of its trees, or by their number; without
            branch lengths.

        Example:
            >>> trees = TreeSet(("a", "b", "c"), torch.tensor([[-1, 3, 3, 0]] * 4)).unique()
            >>> trees, trees.weights
            (TreeSet(1 unrooted tree of 3 taxa: a, b, c; with weights), tensor([4.], dtype=torch.float64))
        """
        first, group = _groups(self.parents)
        weights = torch.zeros(len(first), dtype=torch.float64, device=self.parents.device)
        weights.index_add_(0, group, self._weights())
        return TreeSet(self.taxa, self.parents[first], self.rooted, weights, validate=False)

    def concatenate(self, *others: TreeSet) -> TreeSet:
        """Join sets of trees over the same taxa.

        Raises:
            ValueError: if they differ in taxa, in being rooted, or in having weights or branch lengths.

        Example:
            >>> trees = TreeSet(("a", "b", "c"), torch.tensor([[-1, 3, 3, 0]]))
            >>> trees.concatenate(trees, trees)
            TreeSet(3 unrooted trees of 3 taxa: a, b, c)
        """
        for other in others:
            self._check_joins(other)
        every = (self, *others)
        joined: dict[str, Any] = {"parents": torch.cat([own.parents for own in every])}
        for name in ("weights", "branch_lengths"):
            parts = [getattr(own, name) for own in every]
            joined[name] = None if parts[0] is None else torch.cat(parts)
        return replace(self, **joined, validate=False)

    def relabel(self, names: Mapping[str, str]) -> TreeSet:
        """Rename taxa, and bring the trees into the canonical form that follows from the new names.

        Args:
            names: a mapping from old names to new ones; taxa that are not in it keep their names.

        Raises:
            ValueError: if ``names`` holds a name that no taxon has, or two taxa would have the same name.

        Example:
            >>> trees = TreeSet(("a", "b", "c", "d"), torch.tensor([[-1, 5, 5, 4, 0, 4]]))
            >>> trees.relabel({"a": "x"}).to_newick()
            ['(b,c,(d,x));']
        """
        unknown = [name for name in names if name not in self.taxa]
        if unknown:
            raise ValueError(f"names holds {unknown[0]!r}, which is no taxon of these trees")
        root = self.num_taxa if self.rooted else 0
        lengths = self.branch_lengths
        if lengths is not None:
            lengths = torch.cat([lengths[:, :root], lengths.new_zeros(len(self), 1), lengths[:, root:]], -1)
        return TreeSet.from_parents(
            [names.get(name, name) for name in self.taxa],
            self.parents,
            rooted=self.rooted,
            weights=self.weights,
            branch_lengths=lengths,
        )

    def to_newick(self) -> list[str]:
        """Return each tree as a line of Newick; unrooted ones have three subtrees at the top, taxon 0 first.

        Example:
            >>> lengths = torch.tensor([[0.1, 0.2, 0.3]])
            >>> TreeSet(("a", "b", "c"), torch.tensor([[-1, 3, 3, 0]]), branch_lengths=lengths.double()).to_newick()
            ['(a:0.3,b:0.1,c:0.2);']
        """
        return newick_lines([quoted(name) for name in self.taxa], self.parents, self.branch_lengths, self.rooted)

    def _weights(self) -> Tensor:
        if self.weights is not None:
            return self.weights
        return torch.ones(len(self), dtype=torch.float64, device=self.parents.device)

    def _with_rows(self, change: Callable[[Tensor], Tensor]) -> TreeSet:
        """Apply a function to all tensors."""
        changed = {name: getattr(self, name) for name in ("parents", "weights", "branch_lengths")}
        new: dict[str, Any] = {name: None if own is None else change(own) for name, own in changed.items()}
        return replace(self, **new, validate=False)

    def _check_joins(self, other: TreeSet) -> None:
        if other.taxa != self.taxa:
            odd = sorted(set(self.taxa) ^ set(other.taxa))
            raise ValueError(
                f"the trees have different taxa, {odd[0]!r} among {len(odd)}: join trees over the same ones"
            )
        if other.rooted != self.rooted:
            raise ValueError("rooted and unrooted trees cannot be joined: unroot the rooted ones")
        for name in ("weights", "branch_lengths"):
            if (getattr(self, name) is None) != (getattr(other, name) is None):
                raise ValueError(f"some of the trees have {name} and some have not: give all or none")


def _groups(parents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first position of each distinct row, and the number of every row among the distinct ones."""
    generator = torch.Generator().manual_seed(0)
    key = torch.randint(-(2**62), 2**62, parents.shape[1:], generator=generator, device="cpu")
    sums = (parents * key.to(parents.device)).sum(-1)  # modulo 2^64
    _, group = sums.unique(return_inverse=True)
    first = _first_of(group)
    if not (parents[first][group] == parents).all():  # two topologies with the same sum, very unlikely
        _, group = parents.unique(dim=0, return_inverse=True)
        first = _first_of(group)
    order = first.argsort()
    return first[order], order.argsort()[group]


def _first_of(group: Tensor) -> Tensor:
    rows = torch.arange(len(group), device=group.device)
    groups = int(group.max()) + 1 if len(group) else 0
    return rows.new_full((groups,), len(group)).scatter_reduce_(0, group, rows, "amin")


def _duplicate(taxa: Sequence[str]) -> str:
    return next(name for i, name in enumerate(taxa) if name in taxa[:i])


def _check_taxa(taxa: tuple[str, ...]) -> None:
    if len(set(taxa)) != len(taxa):
        raise ValueError(f"taxa holds {_duplicate(taxa)!r} twice: give each taxon a name of its own")
    if list(taxa) != sorted(taxa):
        raise ValueError("taxa must be sorted by name; TreeSet.from_parents takes them in any order")


def _check_parents(parents: Tensor, rooted: bool, n: int) -> None:
    if parents.dtype != torch.int64 or parents.dim() != 2:
        raise ValueError(f"parents must be int64 (T, nodes), got {parents.dtype} of shape {tuple(parents.shape)}")
    if num_taxa(parents, rooted) != n:
        raise ValueError(f"parents has trees of {num_taxa(parents, rooted)} taxa but taxa has {n} names")
    wrong = ~is_canonical(parents, rooted)
    if wrong.any():
        raise ValueError(
            f"parents[{int(wrong.nonzero()[0])}] is not in canonical form; TreeSet.from_parents brings trees into it"
        )


def _check_numbers(parents: Tensor, weights: Tensor | None, lengths: Tensor | None) -> None:
    if weights is not None:
        if weights.shape != parents.shape[:1] or weights.dtype != torch.float64:
            raise ValueError(
                f"weights must be float64 ({len(parents)},), got {weights.dtype} of shape {tuple(weights.shape)}"
            )
        if len(weights) and not ((weights >= 0) & weights.isfinite()).all():
            raise ValueError("weights must be finite and not negative")
        if len(weights) and not weights.any():
            raise ValueError("weights are all zero: leave them out if all trees count alike")
    if lengths is None:
        return
    if lengths.shape != (len(parents), parents.shape[-1] - 1) or not lengths.is_floating_point():
        raise ValueError(
            f"branch_lengths must be floating point ({len(parents)}, {parents.shape[-1] - 1}), "
            f"got {lengths.dtype} of shape {tuple(lengths.shape)}"
        )
