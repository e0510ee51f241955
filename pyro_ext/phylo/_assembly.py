"""Sets of trees from parsed text, with checks that all trees are of the same kind."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_ext.phylo._labels import LabelTable
from pyro_ext.phylo._lexer import COMMA, Chunk, Problem, Tokens, tokenize
from pyro_ext.phylo._parser import Parsed, first_labels, parse
from pyro_ext.phylo._polytomies import multifurcating, num_resolutions, resolved, selected
from pyro_ext.phylo._statements import Batch, Header, headers
from pyro_ext.phylo.canonical import canonicalize
from pyro_ext.phylo.trees import TreeSet
from pyro_ext.utils.checks import one_of, positive_int

__all__ = ["Assembly", "TreeOptions"]


POLYTOMIES = ("refuse", "random", "zero_length", "all", "skip")
"""What can be done with trees that have multifurcations."""

MOST_WAYS = 10_395  # those of eight subtrees at the top of an unrooted tree


@dataclass(frozen=True)
class TreeOptions:
    """What is wanted of trees; the arguments of :func:`.read_trees` that concern single trees.

    Args:
        taxa: the names of the taxa that all trees must have; by default those of the first tree.
        rooted: whether to take the trees as rooted; by default as the text says.
        branch_lengths: whether to read branch lengths.
        weights: whether to read weights.
        polytomies: one of :data:`POLYTOMIES`.
        seed: the seed of random resolutions.
    """

    taxa: Sequence[str] | None = None
    rooted: bool | None = None
    branch_lengths: bool = True
    weights: bool = True
    polytomies: str = "refuse"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("polytomies", self.polytomies, POLYTOMIES)
        positive_int("seed", self.seed, 0)
        if self.taxa is not None and len(set(self.taxa)) < len(self.taxa):
            raise ValueError(f"taxa holds a name twice: {', '.join(sorted(self.taxa))}")


class Assembly:
    """Turns batches of trees into sets, and checks that all trees are of the same kind as the first.

    Args:
        options: what is wanted of the trees.

    Attributes:
        bare_weights: the numbers that stand before trees of this file, outside of ``[&W ...]``.
        num_polytomies: how many trees of this file have multifurcations, if those are not refused.
        num_ways: for each batch of this file, how many trees each of its trees has become, if they are not refused.
    """

    def __init__(self, options: TreeOptions) -> None:
        self.taxa = None if options.taxa is None else tuple(sorted(options.taxa))
        self.options = options
        self.bare_weights: list[float] = []
        self.num_polytomies = 0
        self.num_ways: list[np.ndarray] = []
        self._rooted = options.rooted
        self._is_given = options.rooted is not None
        self._rng = random.Random(options.seed)
        self._has: dict[str, bool] = {}
        self._table: LabelTable | None = None

    def build(self, chunk: Chunk, batch: Batch) -> TreeSet | None:
        """Make a set of the trees of a batch; None if all of them are left out.

        Raises:
            Problem: if one is no tree, or of another kind than the first.
        """
        starts, ends = chunk.bodies(batch.statements)
        heads = headers(chunk, batch, starts, self.options.weights)
        self.bare_weights += [head.weight for head in heads if head.is_bare and head.weight is not None]
        tokens = tokenize(chunk, starts, ends)
        if self.options.polytomies == "refuse":
            return self._binary(tokens, heads, starts, ends, batch)
        at_top = self._most_at_top(tokens, heads)
        which = multifurcating(tokens, at_top)
        self.num_polytomies += int(which.sum())
        if self.options.polytomies == "skip":
            if which.all():
                return None
            tokens, ways = selected(tokens, ~which), (~which).astype(np.int64)
        else:
            tokens, ways = self._resolved(tokens, which, at_top, ends)
        self.num_ways.append(ways)
        origin = np.repeat(np.arange(len(ways)), ways)
        heads = [heads[tree] for tree in origin.tolist()]
        shares = torch.from_numpy(1 / ways[origin]) if self.options.polytomies == "all" else None
        try:
            return self._binary(tokens, heads, starts[origin], ends[origin], batch, shares)
        except Problem as error:
            raise Problem(error.message, error.at, None if error.tree is None else int(origin[error.tree])) from error

    @property
    def has_weights(self) -> bool | None:
        """Whether the trees have weights of their own; None before the first one, and where these are not read."""
        return self._has.get("weight")

    def _resolved(
        self, tokens: Tokens, which: np.ndarray, at_top: np.ndarray, ends: np.ndarray
    ) -> tuple[Tokens, np.ndarray]:
        """Return the trees, some of them resolved, and how many trees each has become."""
        if self.options.polytomies == "all":
            for tree in np.flatnonzero(which).tolist():
                number = num_resolutions(tokens, tree, int(at_top[tree]))
                if number > MOST_WAYS:
                    raise Problem(
                        f"the tree can be resolved in {number} ways, more than {MOST_WAYS}: take one at random, with "
                        "polytomies='random'",
                        int(ends[tree]),
                        tree,
                    )
        if not which.any():
            return tokens, np.ones(len(which), np.int64)
        return resolved(tokens, which, at_top, self.options.polytomies, self._rng)

    def _binary(
        self,
        tokens: Tokens,
        heads: list[Header],
        starts: np.ndarray,
        ends: np.ndarray,
        batch: Batch,
        shares: Tensor | None = None,
    ) -> TreeSet:
        """Make a set of binary trees, which count by their shares of trees in the file, if there are shares."""
        if self.taxa is None:
            spellings = first_labels(tokens, batch.aliases)
            self.taxa = tuple(sorted(spellings.values()))
            self._table = LabelTable(self.taxa, batch.aliases, spellings)
        if self._table is None or self._table.aliases != batch.aliases:
            self._table = LabelTable(self.taxa, batch.aliases)
        parsed = parse(tokens, self.taxa, self._table, self.options.branch_lengths)
        rooted = self._decide_rooted(parsed, heads, ends)
        weights = self._weights(heads, starts) if self.options.weights else None
        if shares is not None:
            weights = shares if weights is None else weights * shares
        parents, lengths = self._canonical(parsed, rooted, ends)
        return TreeSet(self.taxa, parents, rooted, weights, lengths, validate=False)

    def _most_at_top(self, tokens: Tokens, heads: list[Header]) -> np.ndarray:
        """Return how many subtrees each tree may have at the top: two if it is rooted, else three."""
        rooted = self._rooted if self._rooted is not None else heads[0].rooted
        if rooted is None:  # the first tree decides
            first = slice(0, int(tokens.ends[0]))
            rooted = int(((tokens.code[first] == COMMA) & (tokens.depth[first] == 1)).sum()) < 2
        return np.full(len(heads), 2 if rooted else 3)

    def _decide_rooted(self, parsed: Parsed, heads: list[Header], ends: np.ndarray) -> bool:
        """Decide by ``[&R]`` and ``[&U]``, and without them by the number of subtrees at the top."""
        assert self.taxa is not None
        three = parsed.num_internal == len(self.taxa) - 2
        says = np.array(
            [bool(two) if head.rooted is None else head.rooted for head, two in zip(heads, ~three, strict=True)]
        )
        if self._rooted is None:
            self._rooted = bool(says[0])
        if self._rooted and three.any():
            tree = int(np.argmax(three))
            raise Problem(
                "three subtrees at the top where the tree should be rooted: root it, or pass rooted=False or "
                "polytomies='random'",
                int(ends[tree]),
                tree,
            )
        odd = says != self._rooted
        if odd.any() and not self._is_given:
            tree = int(np.argmax(odd))
            kinds = ("rooted", "unrooted") if says[tree] else ("unrooted", "rooted")
            raise Problem(
                f"the tree is {kinds[0]} but those before are {kinds[1]}: pass rooted=False, or rooted=True",
                int(ends[tree]),
                tree,
            )
        return self._rooted

    def _weights(self, heads: list[Header], starts: np.ndarray) -> Tensor | None:
        weights = [head.weight for head in heads]
        has = self._has.setdefault("weight", weights[0] is not None)
        for tree, weight in enumerate(weights):
            if (weight is not None) != has:
                state = ("no weight", "others have one") if has else ("a weight", "others have none")
                remedy = "pass weights=False to count each tree once"
                raise Problem(f"the tree has {state[0]} but {state[1]}: {remedy}", int(starts[tree]), tree)
        return torch.tensor(weights, dtype=torch.float64) if has else None

    def _canonical(self, parsed: Parsed, rooted: bool, ends: np.ndarray) -> tuple[Tensor, Tensor | None]:
        assert self.taxa is not None
        n, num_trees = len(self.taxa), len(ends)
        three = parsed.num_internal == n - 2
        all_lengths = self._lengths(parsed, n, three, ends)
        parents = torch.empty(num_trees, 2 * n - 2 + rooted, dtype=torch.int64)
        lengths = None if all_lengths is None else torch.empty(num_trees, parents.shape[1] - 1, dtype=torch.float64)
        for group, width in ((~three, 2 * n - 1), (three, 2 * n - 2)):
            if not group.any():
                continue
            own = None if all_lengths is None else torch.from_numpy(all_lengths[group, :width])
            trees = canonicalize(torch.from_numpy(parsed.parents[group, :width]), own, rooted=rooted)
            rows = torch.from_numpy(group)
            parents[rows] = trees.parents
            if lengths is not None and trees.branch_lengths is not None:
                lengths[rows] = trees.branch_lengths
        return parents, lengths

    def _lengths(self, parsed: Parsed, n: int, three: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
        """Return the branch lengths, 0 at the roots."""
        lengths = parsed.lengths
        has = np.zeros(len(ends), bool)
        if lengths is not None:
            lengths[:, n] = 0
            lengths[three, -1] = 0
            missing = np.isnan(lengths)
            has = missing.sum(-1) < 2 * n - 2 - three
            partly = has & missing.any(-1)
            if partly.any():
                tree = int(np.argmax(partly))
                raise Problem(
                    "some branches have lengths and some have not: pass branch_lengths=False to read topologies only",
                    int(ends[tree]),
                    tree,
                )
        expected = self._has.setdefault("lengths", bool(has[0]))
        if (has != expected).any():
            tree = int(np.argmax(has != expected))
            state = "no branch lengths but others have" if expected else "branch lengths but others have none"
            raise Problem(
                f"the tree has {state}: pass branch_lengths=False to read topologies only", int(ends[tree]), tree
            )
        return lengths if expected else None
