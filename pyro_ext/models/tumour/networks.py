"""Networks from a mutation matrix to the log-odds of a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pyro_ext.models.toolkit import perceptron
from pyro_ext.ops.mutations import MISSING, lexsort
from pyro_ext.utils.checks import number_between, one_of, positive_int

__all__ = ["MatrixPerceptron", "PairNetwork", "Sorting", "sort_matrices"]

Sorting = Literal["none", "mutations", "both"]


def sort_matrices(matrices: Tensor, sort: Sorting = "both") -> Tensor:
    """Put mutations, or mutations and cells, into an order that does not depend on how they are listed.

    Args:
        matrices: observed matrices, ``batch_shape + (n, m)``.
        sort: ``"none"``; ``"mutations"``, which sorts columns as words, as the publication does; or ``"both"``, which
            sorts mutations by the number of cells that have them, and then cells as words. Ties of the former are left
            as they are.

    Returns:
        Matrices of the same shape and type.

    Raises:
        ValueError: if ``sort`` is another word.

    Example:
        >>> sort_matrices(torch.tensor([[0, 1, 0], [1, 1, 0]]))
        tensor([[1, 1, 0],
                [1, 0, 0]])
    """
    one_of("sort", sort, ("none", "mutations", "both"))
    if sort == "none":
        return matrices
    if sort == "mutations":
        return lexsort(matrices)
    order = (matrices == 1).sum(-2, keepdim=True).argsort(dim=-1, descending=True, stable=True)
    return lexsort(matrices.gather(-1, order.expand_as(matrices)), -2)


class MatrixPerceptron(nn.Module):
    """A perceptron on the entries of a sorted matrix; missing ones are one half.

    Args:
        shape: the numbers of cells and mutations.
        hidden: the widths of the hidden layers.
        activation: makes the module after each of them.
        dropout: the probability that a hidden unit is dropped in training, in [0, 1).
        sort: the order into which matrices are put, see :func:`sort_matrices`.

    Raises:
        ValueError: if a number is out of range; when called, if matrices have another size.

    Example:
        >>> MatrixPerceptron((10, 8), (400, 400))(torch.zeros(5, 10, 8)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: tuple[int, int],
        hidden: tuple[int, ...] = (400, 400),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.2,
        sort: Sorting = "both",
    ) -> None:
        super().__init__()
        cells, mutations = (positive_int("shape", size) for size in shape)
        number_between("dropout", dropout, 0, 1, "[)")
        self.shape: tuple[int, int] | None = (cells, mutations)
        self.sort: Sorting = one_of("sort", sort, ("none", "mutations", "both"))
        self.layers = perceptron(
            cells * mutations, *hidden, 1, activation=lambda: nn.Sequential(activation(), nn.Dropout(dropout))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-odds of label 1, ``(B,)``.

        Args:
            x: observed matrices, ``(B, n, m)``, of any type.
        """
        if tuple(x.shape[-2:]) != self.shape:
            raise ValueError(
                f"x must hold matrices of shape {self.shape}, got {tuple(x.shape[-2:])}; resize_matrices changes it"
            )
        dtype = next(self.parameters()).dtype
        ordered = sort_matrices(x, self.sort).to(dtype)
        logits: Tensor = self.layers(torch.where(ordered == MISSING, 0.5, ordered).flatten(-2)).squeeze(-1)
        return logits


class PairNetwork(nn.Module):
    """A network that looks at each pair of mutations, whatever their number and the number of cells.

    Whether there are conflicts, and whether there are branches, are questions about pairs: which of the combinations of
    entries occur in cells. The numbers of cells with each of the nine combinations of 0, 1 and missing go through a
    perceptron, the largest and mean features of all pairs through another one. The orders of cells and of mutations
    cannot matter.

    Args:
        width: the number of features of a pair.
        dropout: the probability that a hidden unit is dropped in training, in [0, 1).

    Raises:
        ValueError: if a number is out of range; when called, if there are fewer than two mutations.

    Example:
        >>> network = PairNetwork()
        >>> network(torch.zeros(5, 10, 8)).shape, network(torch.zeros(1, 3, 4)).shape
        (torch.Size([5]), torch.Size([1]))
    """

    shape: tuple[int, int] | None = None

    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        positive_int("width", width)
        number_between("dropout", dropout, 0, 1, "[)")

        def activation() -> nn.Module:
            return nn.Sequential(nn.ReLU(), nn.Dropout(dropout))

        self.pairs = perceptron(27, 2 * width, width, width, activation=activation)
        self.whole = perceptron(2 * width, 2 * width, 1, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-odds of label 1, ``(B,)``.

        Args:
            x: observed matrices, ``(B, n, m)``, of any type.
        """
        m = x.shape[-1]
        if m < 2:
            raise ValueError(f"x must have two mutations at least, got {m}: there are no pairs")
        dtype = next(self.parameters()).dtype
        kinds = torch.stack([x == 0, x == 1, x == MISSING], -1).to(dtype).flatten(-2)
        counts = (kinds.mT @ kinds).reshape(-1, m, 3, m, 3).transpose(2, 3).flatten(3)
        places = torch.arange(m * m, device=x.device)
        places = places[: m * m - 1].reshape(m - 1, m + 1)[:, 1:].flatten()  # without the diagonal
        counts = counts.flatten(1, 2)[:, places]
        features = self.pairs(torch.cat([counts / x.shape[-2], (counts > 0).to(dtype), counts.log1p()], -1))
        logits: Tensor = self.whole(torch.cat([features.amax(1), features.mean(1)], -1)).squeeze(-1)
        return logits
