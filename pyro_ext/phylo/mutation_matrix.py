"""A mutation matrix with the names of its cells and mutations, such as single-cell sequencing gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_ext.ops.mutations import MISSING, fill_missing

__all__ = ["MutationMatrix"]


@dataclass(frozen=True, eq=False, repr=False)
class MutationMatrix:
    """Which of n cells have which of m mutations, as far as was observed.

    Args:
        values: int8 ``(n, m)``: 1 where the cell has the mutation, 0 where not, and 3
            (:data:`~pyro_ext.ops.mutations.MISSING`) where that was not observed.
        cells: the names of the cells, all different.
        mutations: the names of the mutations, all different.

    Raises:
        ValueError: if there are no cells or no mutations, an entry is another one, or the names do not fit.

    Example:
        >>> matrix = MutationMatrix.of([[1, 1, 0], [1, 3, 1]])
        >>> matrix
        MutationMatrix(2 cells x 3 mutations, 1 missing entry)
        >>> matrix.cells, matrix.filled().tolist()
        (('cell1', 'cell2'), [[1, 1, 0], [1, 0, 1]])
    """

    values: Tensor
    cells: tuple[str, ...]
    mutations: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.dtype != torch.int8 or self.values.dim() != 2:
            raise ValueError(
                f"values must be int8 (cells, mutations), got {self.values.dtype} of shape {tuple(self.values.shape)}; "
                "MutationMatrix.of takes other arrays"
            )
        if self.values.numel() == 0:
            raise ValueError(f"values must have a cell and a mutation at least, got shape {tuple(self.values.shape)}")
        for what, names, number in (("cells", self.cells, self.shape[0]), ("mutations", self.mutations, self.shape[1])):
            if len(names) != number:
                raise ValueError(f"{what} must have {number} names, got {len(names)}")
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"{what} must have names that differ, got {twice[0]!r} twice")
        wrong = (self.values != 0) & (self.values != 1) & (self.values != MISSING)
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"values must be 0, 1 or {MISSING} (missing), got {int(self.values[row, column])} in row {row + 1}, "
                f"column {column + 1}"
            )

    @classmethod
    def of(
        cls, values: Any, cells: Sequence[str] | None = None, mutations: Sequence[str] | None = None
    ) -> MutationMatrix:
        """Make a mutation matrix of an array of any type.

        Args:
            values: an array, tensor or nested list ``(n, m)`` with entries 0, 1, and 3 or NaN for missing ones.
            cells: the names of the cells; they are numbered if None.
            mutations: the names of the mutations; they are numbered if None.

        Raises:
            ValueError: as the class does, and if ``values`` cannot be an array of numbers.

        Example:
            >>> MutationMatrix.of(np.array([[1, np.nan]]), mutations=["TP53", "KRAS"]).values
            tensor([[1, 3]], dtype=torch.int8)
        """
        try:
            table = torch.as_tensor(values) if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
        except (TypeError, ValueError) as error:
            raise ValueError(f"values must be an array of numbers, (cells, mutations): {error}") from error
        if table.dim() != 2:
            raise ValueError(f"values must be (cells, mutations), got shape {tuple(table.shape)}")
        if table.is_floating_point():
            table = torch.where(table.isnan(), MISSING, table)
        strange = (table != 0) & (table != 1) & (table != MISSING)
        if bool(strange.any()):
            row, column = strange.nonzero()[0].tolist()
            raise ValueError(
                f"values must be 0, 1 or {MISSING} (missing), got {table[row, column].item():g} in row {row + 1}, "
                f"column {column + 1}"
            )
        n, m = table.shape
        return cls(
            table.to(torch.int8),
            tuple(_numbered("cell", n) if cells is None else cells),
            tuple(_numbered("m", m) if mutations is None else mutations),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers n of cells and m of mutations."""
        n, m = self.values.shape
        return n, m

    @property
    def observed(self) -> Tensor:
        """Which entries were observed, bool ``(n, m)``."""
        return self.values != MISSING

    def filled(self, value: int = 0) -> Tensor:
        """Return the entries with ``value`` in the place of missing ones, int8 ``(n, m)``."""
        return fill_missing(self.values, value)

    def replace(self, values: Tensor) -> MutationMatrix:
        """Return a matrix of other entries with the same names.

        Args:
            values: entries 0, 1 and 3, ``(n, m)``, of any type.

        Raises:
            ValueError: as the class does.
        """
        return MutationMatrix.of(values, self.cells, self.mutations)

    def select(self, cells: Sequence[int] | None = None, mutations: Sequence[int] | None = None) -> MutationMatrix:
        """Return some cells and mutations, in the order given.

        Args:
            cells: the places of the cells; all of them if None.
            mutations: the places of the mutations; all of them if None.

        Example:
            >>> MutationMatrix.of([[1, 1, 0], [1, 3, 1]]).select(mutations=[2, 0]).mutations
            ('m3', 'm1')
        """
        rows = list(range(self.shape[0]) if cells is None else cells)
        columns = list(range(self.shape[1]) if mutations is None else mutations)
        return MutationMatrix(
            self.values[rows][:, columns],
            tuple(self.cells[row] for row in rows),
            tuple(self.mutations[column] for column in columns),
        )

    def __repr__(self) -> str:
        missing = int((self.values == MISSING).sum())
        noun = "entry" if missing == 1 else "entries"
        return f"MutationMatrix({self.shape[0]} cells x {self.shape[1]} mutations, {missing} missing {noun})"


def _numbered(word: str, number: int) -> list[str]:
    """Return names whose sorted order is that of their numbers."""
    width = len(str(number))
    return [f"{word}{place:0{width}}" for place in range(1, number + 1)]
