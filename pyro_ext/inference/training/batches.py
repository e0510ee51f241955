"""Batches in an order that depends on the seed and the epoch alone, and that can be taken up in the middle."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler, default_collate

from pyro_ext.datasets.base import TwoStreams, WholeObject, collate, set_epoch_of
from pyro_ext.utils.random_state import isolated_random_state, mixed_seed

__all__ = [
    "EpochBatches",
    "LoaderBatches",
    "ResumableBatches",
    "ResumableLoader",
    "StreamBatches",
    "WholeBatches",
    "held_out_loader",
    "training_loader",
]


class ResumableBatches(Sampler[Any]):
    """The batches of one epoch after another, as keys of the data set; an epoch can be begun in the middle.

    Args:
        seed: together with the epoch it determines the order.
        rank: which of several processes this is.
        world_size: the number of processes.
    """

    def __init__(self, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0  # the first batch of the next epoch, if it is to be taken up in the middle

    @property
    def sampler(self) -> ResumableBatches:
        """This object, on which Lightning calls :meth:`set_epoch` by this name."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before each epoch."""
        self.epoch = epoch

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    @abstractmethod
    def batches(self) -> Sequence[Any]:
        """Return the keys of all batches of this epoch that are this process's."""

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        yield from self.batches()[start:]

    def _permutation(self, size: int, *stream: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, *stream))
        return torch.randperm(size, generator=generator, device="cpu")


class EpochBatches(ResumableBatches):
    """Rows in a fresh order in each epoch, cut into batches of which each of several processes takes an equal share.

    A step of ``world_size`` processes covers the same data points as a step of one process whose batch is
    ``world_size`` times as large. An order that does not divide evenly loses fewer than ``world_size`` points, other
    ones in every epoch; so no point is used twice, and no process runs out of batches before the others.

    Args:
        size: the number of data points.
        batch_size: the number of data points per process and step; the last batch of an epoch may be smaller.
        seed: together with the epoch it determines the order.
        rank: which process this is.
        world_size: the number of processes.

    Raises:
        ValueError: if there are fewer data points than processes.

    Example:
        >>> first, second = (EpochBatches(7, 2, 0, rank, 2) for rank in (0, 1))
        >>> [len(batch) for batch in first], [len(batch) for batch in second]
        ([2, 1], [2, 1])
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(seed, rank, world_size)
        if size < world_size:
            raise ValueError(f"data must hold at least one point per process ({world_size}), got {size}")
        self.size = size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-(self.size // self.world_size) // self.batch_size)

    def batches(self) -> list[list[int]]:
        """Return this process's rows of each batch."""
        usable = self.size - self.size % self.world_size
        order = self._permutation(self.size, self.epoch)[:usable]
        return [
            batch.chunk(self.world_size)[self.rank].tolist() for batch in order.split(self.batch_size * self.world_size)
        ]


class StreamBatches(ResumableBatches):
    """Batches of two data sets side by side: an epoch is that of the first; the second one goes round and round.

    Args:
        sizes: the number of data points of each.
        batch_sizes: data points per process and step of each.
        seed: together with the epoch it determines the order.
        rank: which process this is.
        world_size: the number of processes.

    Example:
        >>> streams = StreamBatches((4, 3), (2, 2), seed=0)
        >>> [[len(first), len(second)] for first, second in streams]
        [[2, 2], [2, 2]]
    """

    def __init__(
        self, sizes: tuple[int, int], batch_sizes: tuple[int, int], seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(seed, rank, world_size)
        self.first = EpochBatches(sizes[0], batch_sizes[0], seed, rank, world_size)
        self.second_size = sizes[1]
        self.second_batch_size = batch_sizes[1]

    def __len__(self) -> int:
        return len(self.first)

    def batches(self) -> list[tuple[list[int], list[int]]]:
        """Return this process's rows of each pair of batches."""
        self.first.set_epoch(self.epoch)
        first = self.first.batches()
        step = self.second_batch_size * self.world_size  # points of the second one that all processes take together
        begin = self.epoch * len(first) * step
        stream = self._stream(begin, begin + len(first) * step)
        own = [batch.chunk(self.world_size)[self.rank].tolist() for batch in stream.split(step)]
        return list(zip(first, own, strict=True))

    def _stream(self, begin: int, end: int) -> torch.Tensor:
        """Return the places ``begin`` to ``end`` of the permutations of the second data set, one after another."""
        size = self.second_size
        rounds = range(begin // size, -(-end // size))
        order = torch.cat([self._permutation(size, number, 1) for number in rounds])
        return order[begin - rounds[0] * size : end - rounds[0] * size]


class WholeBatches(ResumableBatches):
    """One object at every step, the same one in every process.

    Args:
        steps_per_epoch: the number of steps.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__(seed=0)
        self.steps_per_epoch = steps_per_epoch

    def __len__(self) -> int:
        return self.steps_per_epoch

    def batches(self) -> list[list[int]]:
        """Return the place of the object, again and again."""
        return [[0]] * self.steps_per_epoch


class LoaderBatches(ResumableBatches):
    """The batches of a DataLoader of the user's, whose random order depends on the seed and the epoch instead.

    Several processes take turns: a step of ``world_size`` processes takes as many batches.

    Args:
        batch_sampler: that of the loader.
        seed: together with the epoch it determines the order of samplers that use PyTorch's generator.
        rank: which process this is.
        world_size: the number of processes.
    """

    def __init__(self, batch_sampler: Any, seed: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(seed, rank, world_size)
        self.batch_sampler = batch_sampler

    def __len__(self) -> int:
        return len(self.batch_sampler) // self.world_size

    def batches(self) -> list[list[int]]:
        """Return this process's batches."""
        sampler = getattr(self.batch_sampler, "sampler", None)
        generator = getattr(sampler, "generator", None)
        if generator is not None:  # a generator of the sampler's own would not repeat after a resume
            generator.manual_seed(mixed_seed(self.seed, self.epoch))
        for part in (self.batch_sampler, sampler):
            set_epoch = getattr(part, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(self.epoch)
        with isolated_random_state(mixed_seed(self.seed, self.epoch), torch.device("cpu")):
            batches = list(self.batch_sampler)
        return batches[self.rank :: self.world_size][: len(self)]


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that knows how many batches of the epoch it has handed out, and can start there.

    Lightning saves and restores the state of any loader with these two methods.
    """

    position = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.position = self._batches().start
        set_epoch_of(self.dataset, self._batches().epoch)  # before there are workers, which get a copy
        for batch in super().__iter__():
            self.position += 1  # counted here: workers ask for batches ahead of time
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where in which epoch this loader stands."""
        return {"epoch": self._batches().epoch, "position": self.position % len(self._batches())}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""
        batches = self._batches()
        batches.set_epoch(state["epoch"])
        batches.start = self.position = state["position"]

    def _batches(self) -> ResumableBatches:
        assert isinstance(self.batch_sampler, ResumableBatches)
        return self.batch_sampler


def training_loader(data: Any, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> ResumableLoader:
    """Return the loader of one process over training data.

    Args:
        data: a data set, or a DataLoader, whose own batches, collation and workers are kept then.
        batch_size: the number of data points per process and step.
        seed: the seed of the order.
        rank: which process this is.
        world_size: the number of processes.

    Raises:
        ValueError: if there are fewer data points than processes.
    """
    # A generator of its own: otherwise each new epoch takes a draw from the noise of the model.
    generator = torch.Generator().manual_seed(mixed_seed(seed, 0))
    if isinstance(data, DataLoader):
        if data.batch_sampler is None:
            raise ValueError("a DataLoader with batch_size=None cannot be trained on; give it a batch_size")
        own = LoaderBatches(data.batch_sampler, seed, rank, world_size)
        if len(own) == 0:
            raise ValueError(f"data must hold at least one batch per process ({world_size}), got fewer")
        return ResumableLoader(
            data.dataset,
            batch_sampler=own,
            collate_fn=_collate_of(data),
            generator=generator,
            num_workers=data.num_workers,
            pin_memory=data.pin_memory,
            worker_init_fn=data.worker_init_fn,
            multiprocessing_context=data.multiprocessing_context,
        )
    batches = _batches_of(data, batch_size, seed, rank, world_size)
    return ResumableLoader(data, batch_sampler=batches, collate_fn=_collate_for(data), generator=generator)


def held_out_loader(data: Any, batch_size: int, seed: int, convert: Any = lambda batch: batch) -> DataLoader[Any]:
    """Return a loader over held-out data in order, each point once.

    Args:
        data: a data set, or a DataLoader, whose batches and collation are kept then.
        batch_size: the number of data points per batch of a data set.
        seed: of the loader's own generator.
        convert: applied to every batch (moves it to a device, say).
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(data, DataLoader):
        own = _collate_of(data)
        return DataLoader(
            data.dataset,
            batch_sampler=data.batch_sampler,
            collate_fn=lambda items: convert(own(items)),
            generator=generator,
            num_workers=data.num_workers,
        )
    if isinstance(data, TwoStreams):
        raise ValueError("held-out data must be one data set, got two streams; pass the one to evaluate on")
    collation = _collate_for(data)
    return DataLoader(data, batch_size, collate_fn=lambda items: convert(collation(items)), generator=generator)


def loader_size(loader: DataLoader[Any]) -> int:
    """Return the number of data points that a DataLoader of the user's goes through in an epoch."""
    sampler: Any = loader.sampler
    return len(sampler) if hasattr(sampler, "__len__") else len(loader.dataset)  # type: ignore[arg-type]


def _collate_of(loader: DataLoader[Any]) -> Any:
    """Return what joins a loader's items: ours in the place of PyTorch's, which does not know labels that are None."""
    return _collate_for(loader.dataset) if loader.collate_fn is default_collate else loader.collate_fn


def _batches_of(data: Any, batch_size: int, seed: int, rank: int, world_size: int) -> ResumableBatches:
    if isinstance(data, WholeObject):
        return WholeBatches(data.steps_per_epoch)
    if isinstance(data, TwoStreams):
        sizes = (batch_size, data.second_batch_size or batch_size)
        return StreamBatches((len(data.first), len(data.second)), sizes, seed, rank, world_size)
    return EpochBatches(len(data), batch_size, seed, rank, world_size)


def _collate_for(data: Any) -> Any:
    """Return what joins items to a batch: ours where batches come ready made, else PyTorch's."""
    return _as_it_is


def _as_it_is(items: Any) -> Any:
    # a data set of somebody else's may have __getitems__ that returns a list of items
    return collate(items) if isinstance(items, tuple) or _has_none(items) else default_collate(items)


def _has_none(items: Sequence[Any]) -> bool:
    return any(part is None for part in items[0]) if items and isinstance(items[0], tuple) else False
