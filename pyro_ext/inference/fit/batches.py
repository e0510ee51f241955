"""Batches in an order that depends on the seed and the epoch alone, and that can be taken up in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from pyro_ext.datasets.base import collate
from pyro_ext.utils.random_state import mixed_seed

__all__ = ["EpochBatches", "EpochOrder", "ResumableLoader", "collate_for", "shuffled_loader"]


class EpochOrder(Sampler[int]):
    """A fresh permutation of ``range(size)`` for each pass of each epoch, equal in every process.

    Args:
        size: the number of data points.
        seed: together with the epoch and the pass it determines the permutation.
        passes: how often an epoch goes through the data.
    """

    def __init__(self, size: int, seed: int, passes: int = 1) -> None:
        self.size = size
        self.seed = seed
        self.passes = passes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this before each epoch."""
        self.epoch = epoch

    def permutation(self, number: int = 0) -> torch.Tensor:
        """Return the order of one of this epoch's passes, shape ``(size,)``."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch * self.passes + number))
        return torch.randperm(self.size, generator=generator)

    def __len__(self) -> int:
        return self.passes * self.size

    def __iter__(self) -> Iterator[int]:
        return iter([place for number in range(self.passes) for place in self.permutation(number).tolist()])


class EpochBatches(Sampler[list[int]]):
    """Cuts each pass of an epoch into batches, of which each of several processes takes an equal share.

    A step of ``world_size`` processes covers the same data points as a step of one process whose batch is
    ``world_size`` times as large. An order that does not divide evenly loses fewer than ``world_size`` points, other
    ones in every pass; so no point is used twice, and no process runs out of batches before the others.

    Args:
        order: the order to cut.
        batch_size: the number of data points per process and step; the last batch of a pass may be smaller.
        rank: which share this process takes.
        world_size: the number of processes.

    Raises:
        ValueError: if there are fewer data points than processes.

    Example:
        >>> first, second = (EpochBatches(EpochOrder(7, seed=0), 2, rank, 2) for rank in (0, 1))
        >>> [len(batch) for batch in first], [len(batch) for batch in second]
        ([2, 1], [2, 1])
    """

    def __init__(self, order: EpochOrder, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if order.size < world_size:
            raise ValueError(f"data must hold at least one point per process ({world_size}), got {order.size}")
        self.sampler = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start = 0  # the first batch of the next epoch, if it is to be taken up in the middle
        self.position = 0  # the number of batches of the current epoch handed out so far

    def __len__(self) -> int:
        return self.sampler.passes * self._batches_per_pass()

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        per_pass = self._batches_per_pass()
        for number in range(start // per_pass, self.sampler.passes):
            shares = self._shares(number)
            for within in range(max(start - number * per_pass, 0), per_pass):
                self.position = number * per_pass + within + 1
                yield shares[within]

    def _batches_per_pass(self) -> int:
        return -(-(self.sampler.size // self.world_size) // self.batch_size)

    def _shares(self, number: int) -> list[list[int]]:
        usable = self.sampler.size - self.sampler.size % self.world_size
        batches = self.sampler.permutation(number)[:usable].split(self.batch_size * self.world_size)
        return [batch.chunk(self.world_size)[self.rank].tolist() for batch in batches]


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that knows how many batches of the epoch it has handed out, and can start there.

    Lightning saves and restores the state of any loader with these two methods.
    """

    def state_dict(self) -> dict[str, int]:
        """Return where in which epoch this loader stands."""
        batches = self._batches()
        return {"epoch": batches.sampler.epoch, "position": batches.position % len(batches)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        batches = self._batches()
        batches.sampler.set_epoch(state["epoch"])
        batches.start = batches.position = state["position"]

    def _batches(self) -> EpochBatches:
        assert isinstance(self.batch_sampler, EpochBatches)
        return self.batch_sampler


def collate_for(dataset: Dataset[Any]) -> Any:
    """Return what joins items of ``dataset`` to a batch: ours where batches come ready made, else PyTorch's."""
    return collate if hasattr(dataset, "__getitems__") else default_collate


def shuffled_loader(
    dataset: Dataset[Any], batch_size: int, seed: int, rank: int = 0, world_size: int = 1, passes: int = 1
) -> ResumableLoader:
    """Return the loader of one process over the training data.

    Args:
        dataset: a map-style dataset with a length.
        batch_size: the number of data points per process and step.
        seed: the seed of the shuffling.
        rank: which process this is.
        world_size: of how many.
        passes: how often an epoch goes through the data.
    """
    assert isinstance(dataset, Sized)
    batches = EpochBatches(EpochOrder(len(dataset), seed, passes), batch_size, rank, world_size)
    # A generator of its own: otherwise each new epoch takes a draw from the noise of the model.
    generator = torch.Generator().manual_seed(mixed_seed(seed, 0))
    return ResumableLoader(dataset, batch_sampler=batches, collate_fn=collate_for(dataset), generator=generator)
