"""The order of batches: reproducible, shared fairly, taken up anywhere."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_ext.datasets import IndexedDataset, IndexedTuples, Splits, TwoStreams, WholeObject
from pyro_ext.inference.training import FitDataModule
from pyro_ext.inference.training.batches import EpochBatches, StreamBatches, training_loader
from pyro_ext.utils.random_state import isolated_random_state, mixed_seed, random_state, restore_random_state


def test_each_epoch_has_an_order_of_its_own_that_the_seed_repeats():
    order, again = (EpochBatches(50, 50, seed=1) for _ in range(2))
    (first,) = order
    assert sorted(first) == list(range(50))
    assert [first] == list(again)
    order.set_epoch(1)
    (second,) = order
    assert sorted(second) == list(range(50))
    assert second != first != next(iter(EpochBatches(50, 50, seed=2)))


@pytest.mark.parametrize(("size", "batch_size", "processes"), [(70, 5, 2), (23, 4, 3), (6, 10, 4), (8, 8, 1)])
def test_processes_share_what_one_would_take(size, batch_size, processes):
    shares = [list(EpochBatches(size, batch_size, 3, rank, processes)) for rank in range(processes)]
    lengths = {len(share) for share in shares}
    assert lengths == {len(EpochBatches(size, batch_size, 3, 0, processes))}
    steps = list(zip(*shares, strict=True))
    assert all(len({len(part) for part in parts}) == 1 for parts in steps)
    together = [row for parts in steps for part in parts for row in part]
    alone = [row for batch in EpochBatches(size, batch_size * processes, 3) for row in batch]
    assert together == alone[: size - size % processes]


def test_fewer_points_than_processes_is_refused():
    with pytest.raises(ValueError, match=r"data must hold at least one point per process \(3\), got 2"):
        EpochBatches(2, 1, 0, rank=0, world_size=3)


def rows(batch):
    """Return the indices in a batch of rows, or of two streams."""
    return [rows(part) for part in batch] if isinstance(batch[0], tuple) else batch[-1].tolist()


DATA = {
    "rows": lambda: IndexedDataset(torch.arange(18.0)),
    "triples": lambda: IndexedTuples(*torch.arange(54.0).reshape(3, 18)),
    "streams": lambda: TwoStreams(torch.arange(18.0), (torch.arange(7.0), torch.arange(7)), second_batch_size=3),
    "loader": lambda: DataLoader(TensorDataset(torch.arange(18.0), torch.arange(18)), 4, shuffle=True),
    "workers": lambda: DataLoader(TensorDataset(torch.arange(18), torch.arange(18)), 4, shuffle=True, num_workers=1),
}


@pytest.mark.parametrize("done", range(5))
@pytest.mark.parametrize("kind", DATA)
def test_loader_continues_from_its_state(kind, done):
    loader, other = (training_loader(DATA[kind](), 4, seed=0) for _ in range(2))
    loader.batch_sampler.sampler.set_epoch(2)
    whole = [rows(batch) for batch in loader]
    iterator = iter(loader)
    for _ in range(done):
        next(iterator)
    torch.manual_seed(99)  # a new process has other random states
    other.load_state_dict(loader.state_dict())
    assert [rows(batch) for batch in other] == whole[done:]
    assert [rows(batch) for batch in other] == whole  # the next time from the start
    other.batch_sampler.sampler.set_epoch(3)
    assert [rows(batch) for batch in other] != whole


def test_two_streams_go_round_across_epochs():
    streams = StreamBatches((6, 5), (2, 2), seed=0)
    first, second = [], []
    for epoch in range(5):
        streams.set_epoch(epoch)
        for left, right in streams:
            first += left
            second += right
    assert [sorted(first[start : start + 6]) for start in range(0, 30, 6)] == [list(range(6))] * 5
    assert [sorted(second[start : start + 5]) for start in range(0, 30, 5)] == [list(range(5))] * 6
    assert second[:5] != second[5:10]


def test_processes_share_two_streams():
    shares = [list(StreamBatches((8, 5), (2, 3), 3, rank, 2)) for rank in range(2)]
    alone = list(StreamBatches((8, 5), (4, 6), 3))
    for at, (left, right) in enumerate(alone):
        assert shares[0][at][0] + shares[1][at][0] == left
        assert shares[0][at][1] + shares[1][at][1] == right


def test_processes_take_turns_at_the_batches_of_a_loader():
    loader = DATA["loader"]()
    alone = [rows(batch) for batch in training_loader(loader, 1, seed=0)]
    shares = [[rows(batch) for batch in training_loader(loader, 1, 0, rank, 2)] for rank in range(2)]
    assert [batch for pair in zip(*shares, strict=True) for batch in pair] == alone[:4]


def test_one_object_is_seen_whole_at_every_step():
    graph = WholeObject(torch.eye(3), None, steps_per_epoch=4)
    batches = list(training_loader(graph, 100, seed=0))
    assert len(batches) == 4
    assert all(torch.equal(matrix, torch.eye(3)) and labels is None for matrix, labels in batches)
    data = FitDataModule(Splits("graph", graph, graph))
    assert data.size == 1
    assert len(list(data.held_out("valid"))) == 1


def test_loader_draws_nothing_from_the_models_noise():
    loader = training_loader(IndexedDataset(torch.arange(18.0)), 4, seed=0)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


def test_random_states_come_back():
    cpu = torch.device("cpu")
    state = random_state(cpu)
    first = torch.rand(3)
    with isolated_random_state(7, cpu):
        inside = torch.rand(3)
    with isolated_random_state(7, cpu):
        assert torch.equal(torch.rand(3), inside)
    restore_random_state(state, cpu)
    assert torch.equal(torch.rand(3), first)
    assert len({mixed_seed(a, b) for a in range(30) for b in range(30)}) == 900


def test_ordinary_datasets_of_tensors():
    data = FitDataModule(TensorDataset(torch.arange(5.0), torch.arange(5)), batch_size=2)
    x, index = next(iter(data.train_dataloader()))
    assert torch.equal(x.long(), index)
    assert data.held_out("valid") is None


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: x.numpy(), lambda x: {"train": x, "valid": x}])
def test_arrays_are_rows(wrap):
    data = FitDataModule(wrap(torch.arange(5.0)), batch_size=2)
    assert data.size == 5
    assert next(iter(data.train_dataloader()))[0].dtype == torch.float32


def test_held_out_data_come_in_order():
    data = FitDataModule({"train": torch.arange(5.0), "valid": torch.arange(5.0)}, batch_size=2)
    assert [index.tolist() for _, _, index in data.held_out("valid")] == [[0, 1], [2, 3], [4]]
    assert data.held_out("test") is None
