"""The shapes of data that models and training share: rows, tuples of rows, two streams, one object seen whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_ext.utils.checks import optional_positive_int, positive_int

__all__ = [
    "Batch",
    "IndexedDataset",
    "IndexedTuples",
    "Splits",
    "TwoStreams",
    "WholeObject",
    "as_dataset",
    "as_splits",
    "collate",
]

Batch = tuple[Tensor, Tensor | None, Tensor]


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

    def __init__(self, x: Tensor, y: Tensor | None = None) -> None:
        if not isinstance(x, Tensor) or not isinstance(y, Tensor | None):
            raise ValueError(f"x and y must be tensors, got {type(x).__name__} and {type(y).__name__}; see as_dataset")
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

    def subset(self, rows: Tensor, labels: bool = True) -> IndexedDataset:
        """Return some of the rows as a data set of their own.

        Args:
            rows: which ones: places ``(n,)``, or a mask ``(N,)``.
            labels: whether they keep their labels, where there are any.
        """
        return IndexedDataset(self.x[rows], self.y[rows] if labels and self.y is not None else None)

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"labels {tuple(self.y.shape)}"
        return f"{type(self).__name__}(x {tuple(self.x.shape)}, {labels})"


class IndexedTuples(Dataset[tuple[Tensor, ...]]):
    """Tensors that belong together row by row, as pairs or triples do; a batch is ``(*rows, index)``.

    Args:
        *parts: tensors of shape ``(N, ...)``.

    Raises:
        ValueError: if there are none, or their lengths differ.

    Example:
        >>> pairs = IndexedTuples(torch.zeros(5, 3), torch.ones(5, 3))
        >>> left, right, index = pairs.__getitems__([4, 1])
        >>> left.shape, right.shape, index
        (torch.Size([2, 3]), torch.Size([2, 3]), tensor([4, 1]))
    """

    def __init__(self, *parts: Tensor) -> None:
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"parts must be tensors, got {', '.join(type(part).__name__ for part in parts)}")
        if not parts or any(part.dim() == 0 or len(part) != len(parts[0]) for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts) or "none"
            raise ValueError(f"parts must be tensors of as many rows each, got {shapes}")
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} data points")
        return (*(part[index] for part in self.parts), torch.tensor(index % len(self), device=self.parts[0].device))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the rows ``indices`` of all parts as one batch."""
        index = torch.as_tensor(indices, dtype=torch.long, device=self.parts[0].device)
        return (*(part[index] for part in self.parts), index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(str(tuple(part.shape)) for part in self.parts)})"


class TwoStreams:
    """Two data sets of different lengths seen side by side, such as unlabelled and labelled images.

    A batch is ``(batch of the first, batch of the second)``. An epoch goes through the first data set once; the second
    one is gone through again and again, in a new order each time, across the ends of epochs.

    Args:
        first: the data set whose length an epoch has; what :func:`as_dataset` takes.
        second: the other one.
        second_batch_size: data points of the second one per step and process; as many as of the first one if None.

    Raises:
        ValueError: if one of them is empty, or ``second_batch_size`` is not a positive integer.

    Example:
        >>> streams = TwoStreams(IndexedDataset(torch.zeros(6, 2)), IndexedDataset(torch.ones(4, 2), torch.arange(4)))
        >>> (x, _, _), (_, labels, _) = streams.__getitems__(([0, 1], [3, 2]))
        >>> x.shape, labels
        (torch.Size([2, 2]), tensor([3, 2]))
    """

    def __init__(self, first: Any, second: Any, second_batch_size: int | None = None) -> None:
        self.first = as_dataset(first)
        self.second = as_dataset(second)
        for name, data in (("first", self.first), ("second", self.second)):
            if len(data) == 0:
                raise ValueError(f"{name} must hold at least one data point, got none")
        self.second_batch_size = optional_positive_int("second_batch_size", second_batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of an epoch, for data sets that draw anew each time."""
        for data in (self.first, self.second):
            set_epoch_of(data, epoch)

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.first[index], self.second[index % len(self.second)]

    def __getitems__(self, indices: tuple[Sequence[int], Sequence[int]]) -> tuple[Any, Any]:
        """Return a batch of each data set, of the rows that ``indices`` holds for each."""
        return fetched(self.first, indices[0]), fetched(self.second, indices[1])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.first!r}, {self.second!r})"


class WholeObject:
    """One object that is seen whole at every step, such as a graph or an alignment; a batch is its parts.

    Args:
        *parts: tensors, or None; what the model is called with.
        steps_per_epoch: the number of steps that make an epoch, after which there are metrics and a checkpoint.

    Raises:
        ValueError: if ``steps_per_epoch`` is not a positive integer.

    Example:
        >>> graph = WholeObject(torch.eye(3), torch.zeros(3, 5), steps_per_epoch=200)
        >>> len(graph), [part.shape for part in graph[0]]
        (1, [torch.Size([3, 3]), torch.Size([3, 5])])
    """

    def __init__(self, *parts: Tensor | None, steps_per_epoch: int = 100) -> None:
        self.parts = parts
        self.steps_per_epoch = positive_int("steps_per_epoch", steps_per_epoch)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Tensor | None, ...]:
        if index not in (0, -1):
            raise IndexError(f"index {index} is out of range for one object")
        return self.parts

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor | None, ...]:
        """Return the parts."""
        return self.parts

    def __repr__(self) -> str:
        shapes = ", ".join("None" if part is None else str(tuple(part.shape)) for part in self.parts)
        return f"{type(self).__name__}({shapes})"


@dataclass
class Splits:
    """A data set cut into the parts that training needs.

    Each part is an :class:`IndexedDataset`, an :class:`IndexedTuples`, a :class:`TwoStreams`, a :class:`WholeObject`,
    a map-style dataset or a DataLoader of PyTorch, or arrays that :func:`as_dataset` takes.

    Args:
        name: what the data set is called.
        train: what parameters are fitted to.
        valid: what decisions (stopping, comparing) are made on, if anything is.
        test: what is left for the last word, if anything is.
        image_shape: ``(height, width)`` in pixels if the rows of ``x`` are flattened images.
    """

    name: str
    train: Any
    valid: Any = None
    test: Any = None
    image_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.train = as_dataset(self.train)
        self.valid = None if self.valid is None else as_dataset(self.valid)
        self.test = None if self.test is None else as_dataset(self.test)


def as_splits(data: Any) -> Splits:
    """Return ``data`` as :class:`Splits`.

    Args:
        data: splits; a mapping with ``"train"`` and perhaps ``"valid"`` and ``"test"``; or what :func:`as_dataset`
            takes, which is all for training then.

    Raises:
        ValueError: if it is none of these.

    Example:
        >>> as_splits({"train": np.zeros((4, 2)), "valid": np.ones((3, 2))}).valid
        IndexedDataset(x (3, 2), no labels)
    """
    if isinstance(data, Splits):
        return data
    if isinstance(data, Mapping):
        names = ("train", "valid", "test")
        unknown = [name for name in data if name not in names]
        if "train" not in data or unknown:
            raise ValueError(f"data must have the keys 'train', 'valid' and 'test' only, got {', '.join(data)}")
        return Splits("data", *(data.get(name) for name in names))
    return Splits("data", as_dataset(data))


def as_dataset(data: Any) -> Any:
    """Return ``data`` as something that batches can be taken from.

    Args:
        data: a NumPy array or tensor ``(N, ...)``; a pair of them, rows and labels; a map-style dataset with a length;
            or a DataLoader over one. Arrays of real numbers become tensors of PyTorch's default type.

    Raises:
        ValueError: if it is none of these, or an iterable dataset without a length.

    Example:
        >>> as_dataset((np.zeros((4, 2)), np.arange(4)))
        IndexedDataset(x (4, 2), labels (4,))
    """
    if isinstance(data, np.ndarray | Tensor):
        return IndexedDataset(_tensor(data))
    if isinstance(data, tuple | list) and 1 <= len(data) <= 2 and isinstance(data[0], np.ndarray | Tensor):
        labels = data[1] if len(data) == 2 else None
        return IndexedDataset(_tensor(data[0]), None if labels is None else _tensor(labels))
    source = data.dataset if isinstance(data, DataLoader) else data
    by_index = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if not by_index or (source is data and isinstance(data, str | Mapping | list | tuple)):
        raise ValueError(
            "data must be Splits, arrays, a dataset with a length and items by index, or a DataLoader over one, "
            f"got {type(data).__name__}; for several arrays that belong together use IndexedTuples"
        )
    return data


def collate(batch: Any) -> Any:
    """Turn what a data set of this package gives, item by item or already batched, into one batch.

    Give it as ``collate_fn`` to a DataLoader: the default one does not accept ``None`` labels.

    Args:
        batch: a batch made by ``__getitems__`` (a tuple), returned as it is, or a list of single items.
    """
    if isinstance(batch, tuple):
        return batch
    parts = zip(*batch, strict=True)
    return tuple(None if part[0] is None else torch.stack(part) for part in parts)


def fetched(dataset: Any, indices: Sequence[int]) -> Any:
    """Return the rows ``indices`` of a map-style dataset as one batch."""
    if hasattr(dataset, "__getitems__"):
        items = dataset.__getitems__(indices)
        if isinstance(items, tuple):
            return items
    else:
        items = [dataset[index] for index in indices]
    return torch.utils.data.default_collate(items)


def set_epoch_of(dataset: Any, epoch: int) -> None:
    """Tell a data set which epoch begins, if it has a method ``set_epoch``."""
    set_epoch = getattr(dataset, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)


def _tensor(array: np.ndarray | Tensor) -> Tensor:
    try:
        tensor = torch.as_tensor(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"an array of type {array.dtype} cannot be trained on; turn it into numbers") from error
    return tensor.to(torch.get_default_dtype()) if isinstance(array, np.ndarray) and array.dtype.kind == "f" else tensor
