"""The data of a run, as Lightning wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from pyro_ext.datasets.base import as_splits
from pyro_ext.inference.training.batches import ResumableLoader, held_out_loader, training_loader
from pyro_ext.utils.checks import positive_int

__all__ = ["FitDataModule"]


class FitDataModule(LightningDataModule):
    """Batches of the training data in random order, and held-out data in order.

    Args:
        data: what :func:`~pyro_ext.datasets.as_splits` takes.
        batch_size: the number of data points per process and step.
        seed: the seed of the order.

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
        self.splits = as_splits(data)
        train: Any = self.splits.train
        source: Any = train.dataset if isinstance(train, DataLoader) else train
        self.size = len(source)
        if self.size == 0:
            raise ValueError("data must hold at least one training point, got none")
        self.batch_size = positive_int("batch_size", batch_size)
        self.seed = seed

    def train_dataloader(self) -> ResumableLoader:
        """Return this process's loader over the training data."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return training_loader(self.splits.train, self.batch_size, self.seed, rank, world_size)

    def held_out(self, split: str, convert: Callable[[Any], Any] = lambda batch: batch) -> DataLoader[Any] | None:
        """Return a loader over the ``"valid"`` or ``"test"`` data in order, or None where there are none.

        Args:
            split: which data.
            convert: applied to every batch (moves it to a device, say).
        """
        data = getattr(self.splits, split)
        return None if data is None else held_out_loader(data, self.batch_size, self.seed, convert)

    def setup(self, stage: str) -> None:
        """Agree on one seed: where none was given, each process has drawn its own."""
        if self.trainer is not None:
            self.seed = self.trainer.strategy.broadcast(self.seed)

    def example(self) -> Any:
        """Return one training batch, which depends on the seed alone."""
        return next(iter(training_loader(self.splits.train, self.batch_size, self.seed)))
