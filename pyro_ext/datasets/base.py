"""The one shape of data that models and the fit engine share: ``(x, y, index)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

__all__ = ["Batch", "IndexedDataset", "Splits", "collate"]

Batch = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]


class IndexedDataset(Dataset[Batch]):
    """Tensors in memory whose items know their own index, so that a plate can be scaled and subsampled explicitly.

    Args:
        x: the data, shape ``(N, ...)``.
        y: the labels, shape ``(N, ...)``, or ``None`` where there are none.

    Raises:
        ValueError: if ``x`` has no leading dim or ``y`` another length.

    Example:
        >>> data = IndexedDataset(torch.arange(6.0).reshape(3, 2))
        >>> data.__getitems__([2, 0])
        (tensor([[4., 5.],
                [0., 1.]]), None, tensor([2, 0]))
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        if x.dim() == 0:
            raise ValueError("x must have a leading dim of data points, got a scalar; pass x.unsqueeze(0)")
        if y is not None and (y.dim() == 0 or len(y) != len(x)):
            raise ValueError(f"y must have one entry for each of the {len(x)} rows of x, got shape {tuple(y.shape)}")
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Batch:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} data points")
        position = torch.tensor(index % len(self), device=self.x.device)
        return self.x[index], None if self.y is None else self.y[index], position

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return the rows ``indices`` as one batch ``(x, y, index)``; the DataLoader calls this when it can."""
        index = torch.as_tensor(indices, dtype=torch.long, device=self.x.device)
        return self.x[index], None if self.y is None else self.y[index], index

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"labels {tuple(self.y.shape)}"
        return f"{type(self).__name__}(x {tuple(self.x.shape)}, {labels})"


def collate(batch: Batch | Sequence[Batch]) -> Batch:
    """Turn what an :class:`IndexedDataset` gives, item by item or already batched, into ``(x, y, index)``.

    Give it as ``collate_fn`` to a DataLoader: the default one does not accept ``None`` labels.

    Args:
        batch: a batch made by ``__getitems__`` (a tuple), returned as it is, or a list of single items.
    """
    if isinstance(batch, tuple):
        return batch
    x, y, index = zip(*batch, strict=True)
    labels = None if y[0] is None else torch.stack(y)
    return torch.stack(x), labels, torch.stack(index)


@dataclass
class Splits:
    """A data set cut into the parts that fitting needs.

    Args:
        name: what the data set is called.
        train: what parameters are fitted to.
        valid: what decisions (stopping, comparing) are made on.
        test: what is left for the last word, if anything is.
        image_shape: ``(height, width)`` in pixels if the rows of ``x`` are flattened images.
        passes: how often an epoch goes through the training data; more than once where these are few, so that
            epochs, after which there are metrics and checkpoints, are not too short.
    """

    name: str
    train: IndexedDataset
    valid: IndexedDataset
    test: IndexedDataset | None = None
    image_shape: tuple[int, int] | None = None
    passes: int = 1
