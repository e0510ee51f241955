"""The data of a run, as Lightning wants it."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from pyro_ext.inference.fit.batches import ResumableLoader, collate_for, shuffled_loader
from pyro_ext.utils.checks import positive_int

__all__ = ["FitDataModule"]


class FitDataModule(LightningDataModule):
    """Shuffled batches of the training data, and held-out data in order.

    Args:
        data: a :class:`~pyro_ext.datasets.Splits`, which may say how many passes make an epoch, or a map-style dataset
            with a length, which is all for training.
        batch_size: the number of data points per process and step.
        seed: the seed of the shuffling.

    Raises:
        ValueError: if there are no data, or ``batch_size`` is not a positive integer.

    Example:
        >>> from pyro_ext.datasets import IndexedDataset
        >>> data = FitDataModule(IndexedDataset(torch.arange(6.0).reshape(3, 2)), batch_size=2)
        >>> data.size, [len(x) for x, _, _ in data.train_dataloader()], data.held_out("valid")
        (3, [2, 1], None)
    """

    def __init__(self, data: Any, batch_size: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.splits: dict[str, Any] = {name: getattr(data, name, None) for name in ("train", "valid", "test")}
        if self.splits["train"] is None:
            self.splits = {"train": data, "valid": None, "test": None}
        train = self.splits["train"]
        if not (isinstance(train, Sized) and hasattr(train, "__getitem__")):
            raise ValueError(f"data must be Splits or a dataset with a length, got {type(data).__name__}")
        if len(train) == 0:
            raise ValueError("data must hold at least one training point, got none")
        self.size = len(train)
        self.passes = positive_int("passes", getattr(data, "passes", 1))
        self.batch_size = positive_int("batch_size", batch_size)
        self.seed = seed

    def train_dataloader(self) -> ResumableLoader:
        """Return this process's loader over the training data."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return shuffled_loader(self.splits["train"], self.batch_size, self.seed, rank, world_size, self.passes)

    def held_out(self, split: str, convert: Callable[[Any], Any] = lambda batch: batch) -> DataLoader[Any] | None:
        """Return a loader over the ``"valid"`` or ``"test"`` data in order, or None where there are none.

        Args:
            split: which data.
            convert: applied to every batch (moves it to a device, say).
        """
        dataset = self.splits[split]
        if dataset is None:
            return None
        collate = collate_for(dataset)
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            dataset, self.batch_size, collate_fn=lambda items: convert(collate(items)), generator=generator
        )

    def setup(self, stage: str) -> None:
        """Agree on one seed: where none was given, each process has drawn its own."""
        if self.trainer is not None:
            self.seed = self.trainer.strategy.broadcast(self.seed)

    def example(self) -> Any:
        """Return one training batch, which depends on the seed alone."""
        return next(iter(shuffled_loader(self.splits["train"], self.batch_size, self.seed)))
