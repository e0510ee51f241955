"""The network that points at the entries to flip, one after the other."""

from __future__ import annotations

from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_ext.models.tumour.elimination.cost import Observed, flip_changes, observe
from pyro_ext.nn import AttentionEncoder, ExchangeableLayer, PointerDecoder, PointerState
from pyro_ext.ops.mutations import gamete_product
from pyro_ext.utils.checks import finite_number, number_between, positive_int

__all__ = ["FlipPolicy", "Rollout", "entry_rows", "matrix_features"]

_NUM_FEATURES, _COST = 10, 5  # features of an entry, and the place of the change of the cost among them


class FlipPolicy(PyroModule):
    """A pointer network over the entries of observed matrices.

    Each entry is a row (cell, mutation, rate, observed value), as published; an attention encoder makes items of them,
    and an LSTM points at one after the other. With ``state`` the pointer also sees the matrix as its flips so far have
    left it: what flipping each entry would do to the conflicts and to the likelihood, in two exchangeable layers and in
    a linear score. That score starts at minus the change of the cost, so that training starts near greedy search.
    Published are a width of 128, 16 heads, 3 blocks, and no sight of the matrix.

    Networks have no sizes of matrices in them: one that is trained on 10 x 10 runs on any other size.

    Args:
        false_positive: the rate of false positives, in (0, 1).
        false_negative: the rate of false negatives, in (0, 1).
        gamma: the weight of a nat in the cost.
        width: the number of features of an encoded entry.
        num_heads: the number of heads of attention, which divides ``width``.
        num_blocks: the number of blocks of attention; with 0 an entry is encoded on its own.
        state: whether the pointer sees the matrix as it is after the flips so far.

    Raises:
        ValueError: if a rate lies outside of (0, 1), or a size is out of range.

    Example:
        >>> policy = FlipPolicy(false_positive=0.002, false_negative=0.1)
        >>> rollout = policy.start(torch.tensor([[[1, 1], [1, 0], [0, 1]]]))
        >>> rollout.logits().shape
        torch.Size([1, 6])
        >>> rollout.flip(torch.tensor([0]))
        >>> rollout.matrix[0].int()
        tensor([[0, 1],
                [1, 0],
                [0, 1]], dtype=torch.int32)
    """

    false_positive: Tensor
    false_negative: Tensor

    def __init__(
        self,
        false_positive: float,
        false_negative: float,
        gamma: float = 0.04,
        width: int = 32,
        num_heads: int = 4,
        num_blocks: int = 1,
        state: bool = True,
    ) -> None:
        super().__init__()
        rates = {"false_positive": false_positive, "false_negative": false_negative}
        for name, rate in rates.items():
            self.register_buffer(name, torch.tensor(number_between(name, rate, 0, 1, "()")))
        self.gamma = finite_number("gamma", gamma)
        self.encoder = AttentionEncoder(4, positive_int("width", width), num_heads, num_blocks)
        self.decoder = PointerDecoder(width)
        self.state = _MatrixNetwork(width) if state else None
        self.remembered = RememberedItems()

    def start(
        self,
        x: Tensor,
        rates: tuple[Tensor, Tensor] | None = None,
        samples: tuple[int, ...] = (),
        gamma: float | None = None,
    ) -> Rollout:
        """Return the start of sequences of flips.

        Args:
            x: observed matrices, ``(B, n, m)``; 1 present, 0 absent, 3 missing, -1 padding.
            rates: the rates of false positives and of false negatives, each of a shape that broadcasts against that of
                ``x``; those of this policy if None.
            samples: how many sequences to start for each matrix, dims on the left of the batch.
            gamma: the weight of a nat in what the pointer sees of a matrix; that of this policy if None.

        Raises:
            ValueError: if ``x`` has another shape, or holds no entry.
        """
        if x.dim() != 3 or x.numel() == 0:
            raise ValueError(f"x must be matrices (batch, cells, mutations), at least one, got shape {tuple(x.shape)}")
        alpha, beta = (self.false_positive, self.false_negative) if rates is None else rates
        observed = observe(x, alpha, beta)
        present = observed.present.flatten(-2)
        rows = entry_rows(observed)
        if torch.is_grad_enabled() and self.training and rates is None:
            items = self.remembered.of(x, self.encoder, rows, present)
        else:
            items = self.encoder(rows, present)
        matrix = observed.matrix.expand(*samples, *observed.matrix.shape)
        weight = self.gamma if gamma is None else gamma
        return Rollout(self, observed, self.decoder.start(items, present), matrix, weight)


class Rollout:
    """Sequences of flips in progress.

    Args:
        policy: the policy.
        observed: what was observed, of shape ``(B, n, m)``.
        pointer: where the pointer stands.
        matrix: the matrices after the flips so far, ``(..., B, n, m)``.
        gamma: the weight of a nat in what the pointer sees of a matrix.

    Example:
        >>> x = torch.tensor([[[1, 1], [1, 0], [0, 1]]])
        >>> rollout = FlipPolicy(0.002, 0.1, width=4, num_heads=2).start(x)
        >>> rollout.logits().shape
        torch.Size([1, 6])
        >>> rollout.flip(torch.tensor([0]))
        >>> rollout.matrix[0].tolist()
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(
        self, policy: FlipPolicy, observed: Observed, pointer: PointerState, matrix: Tensor, gamma: float
    ) -> None:
        self.policy = policy
        self.observed = observed
        self.pointer = pointer
        self.matrix = matrix
        self.gamma = gamma

    def logits(self) -> Tensor:
        """Return the logits of the entry that is flipped next, ``(..., B, n * m)``; -inf for those flipped before."""
        extra, scores = None, None
        if self.policy.state is not None:
            extra, scores = self.policy.state(self.matrix, self.observed, self.gamma)
        self.pointer, logits = self.policy.decoder.step(self.pointer, extra, scores)
        return logits

    def flip(self, position: Tensor) -> None:
        """Flip an entry of each matrix, int64 ``(..., B)``; one that was flipped before stays as it is."""
        n, m = self.observed.matrix.shape[-2:]
        self.pointer = self.policy.decoder.visit(self.pointer, position)
        flipped = (~self.pointer.allowed & self.observed.present.flatten(-2)).unflatten(-1, (n, m))
        self.matrix = (self.observed.matrix - flipped.to(self.matrix.dtype)).abs()


class _MatrixNetwork(nn.Module):
    """Two exchangeable layers on the features of a matrix, and a linear score that starts as that of greedy search."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ExchangeableLayer(_NUM_FEATURES, width)
        self.second = ExchangeableLayer(width, width)
        self.score = nn.Parameter(torch.zeros(_NUM_FEATURES))
        with torch.no_grad():
            self.score[_COST] = -1.0

    def forward(self, matrix: Tensor, observed: Observed, gamma: float) -> tuple[Tensor, Tensor]:
        features = matrix_features(matrix, observed, gamma)
        result: Tensor = self.second(self.first(features, observed.present).relu(), observed.present)
        return result.flatten(-3, -2), (features @ self.score).flatten(-2)


class RememberedItems:
    """The encoding of the last batch, for as long as no sequence of flips for it has come to its end.

    An ELBO that draws one site after the other starts the guide anew for each of them; with the same batch and the same
    parameters the encoder would return the same items.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._x: Tensor | None = None
        self._items: Tensor | None = None

    def of(self, x: Tensor, encoder: nn.Module, rows: Tensor, present: Tensor) -> Tensor:
        """Return the encoded rows of a batch ``x``."""
        key = (x._version, rows.dtype, rows.device, *((id(p), p._version) for p in encoder.parameters()))
        if self._items is None or self._x is not x or self._key != key:
            self._key, self._x, self._items = key, x, encoder(rows, present)
        return self._items

    def forget(self) -> None:
        """Let go of the encoding, and of the graph behind it."""
        self._key = self._x = self._items = None

    def __deepcopy__(self, memo: dict[int, Any]) -> RememberedItems:
        return RememberedItems()

    def __reduce__(self) -> tuple[Any, ...]:
        return RememberedItems, ()


def entry_rows(observed: Observed) -> Tensor:
    """Return a row (cell, mutation, rate, value) for each entry, ``(B, n * m, 4)``.

    Cells and mutations are numbered from 0 to 1, so that matrices of other sizes look alike. A missing value is 1/2,
    its rate too. The rows need not be shuffled: their order is nothing that attention or the pointer could see.
    """
    n, m = observed.matrix.shape[-2:]
    like = observed.matrix
    cell = torch.linspace(0, 1, n, dtype=like.dtype, device=like.device).unsqueeze(-1).expand_as(like)
    mutation = torch.linspace(0, 1, m, dtype=like.dtype, device=like.device).expand_as(like)
    value = like.masked_fill(observed.missing, 0.5)
    return torch.stack([cell, mutation, observed.rates, value], -1).flatten(-3, -2)


def matrix_features(matrix: Tensor, observed: Observed, gamma: float) -> Tensor:
    """Return what there is to say of each entry of a matrix that is being denoised.

    Args:
        matrix: the matrices as they are, ``(..., n, m)``.
        observed: what was observed.
        gamma: the weight of a nat in the cost.

    Returns:
        ``(..., n, m, 10)``: the entry and whether it was read; what its flip would do to the likelihood, to the graded
        conflicts, to the number of conflicting pairs, and to the cost; its part in the conflicts; the shares of ones in
        its row and its column; and all conflicts. Counts are on a logarithmic scale.
    """
    graded, pairs, involved = flip_changes(matrix)
    undone = matrix != observed.matrix
    likelihood = torch.where(undone, -observed.changes, observed.changes).expand_as(matrix)
    present = observed.present.to(matrix.dtype)
    rows = matrix.sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1)
    columns = matrix.sum(-2, keepdim=True) / present.sum(-2, keepdim=True).clamp(min=1)
    whole = gamete_product(matrix)[..., None, None]
    features = (
        matrix,
        observed.missing.to(matrix.dtype),
        likelihood / 4,
        _log_scale(graded),
        _log_scale(pairs),
        _log_scale(graded + gamma * likelihood),
        _log_scale(involved),
        rows,
        columns,
        _log_scale(whole),
    )
    return torch.stack([x.expand_as(matrix) for x in features], -1) * present.unsqueeze(-1)


def _log_scale(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p() / 2
