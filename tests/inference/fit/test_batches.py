"""The order of batches: reproducible, shared fairly, taken up anywhere."""

import itertools

import pytest
import torch
from torch.utils.data import TensorDataset

from pyro_ext.datasets import IndexedDataset
from pyro_ext.inference.fit import FitDataModule
from pyro_ext.inference.fit.batches import EpochBatches, EpochOrder, shuffled_loader
from pyro_ext.utils.random_state import isolated_random_state, mixed_seed, random_state, restore_random_state


def test_each_epoch_has_an_order_of_its_own_that_the_seed_repeats():
    order, again = EpochOrder(50, seed=1), EpochOrder(50, seed=1)
    first = list(order)
    assert sorted(first) == list(range(50))
    assert first == list(again)
    order.set_epoch(1)
    assert sorted(order) == list(range(50))
    assert list(order) != first != list(EpochOrder(50, seed=2))


@pytest.mark.parametrize(("size", "batch_size", "processes"), [(70, 5, 2), (23, 4, 3), (6, 10, 4), (8, 8, 1)])
def test_processes_share_what_one_would_take(size, batch_size, processes):
    shares = [list(EpochBatches(EpochOrder(size, 3), batch_size, rank, processes)) for rank in range(processes)]
    lengths = {len(share) for share in shares}
    assert lengths == {len(EpochBatches(EpochOrder(size, 3), batch_size, 0, processes))}
    steps = list(zip(*shares, strict=True))
    assert all(len({len(part) for part in parts}) == 1 for parts in steps)
    together = [row for parts in steps for part in parts for row in part]
    alone = [row for batch in EpochBatches(EpochOrder(size, 3), batch_size * processes) for row in batch]
    assert together == alone[: size - size % processes]


def test_fewer_points_than_processes_is_refused():
    with pytest.raises(ValueError, match=r"data must hold at least one point per process \(3\), got 2"):
        EpochBatches(EpochOrder(2, 0), 1, rank=0, world_size=3)


@pytest.mark.parametrize("done", range(5))
def test_loader_continues_from_its_state(done):
    data = IndexedDataset(torch.arange(18.0))
    loader, other = (shuffled_loader(data, 4, seed=0) for _ in range(2))
    loader.batch_sampler.sampler.set_epoch(2)
    whole = [index.tolist() for _, _, index in loader]
    iterator = iter(loader)
    for _ in range(done):
        next(iterator)
    other.load_state_dict(loader.state_dict())
    assert [index.tolist() for _, _, index in other] == whole[done:]
    assert [index.tolist() for _, _, index in other] == whole  # the next time from the start


def test_loader_draws_nothing_from_the_models_noise():
    loader = shuffled_loader(IndexedDataset(torch.arange(18.0)), 4, seed=0)
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


def test_held_out_data_come_in_order():
    x = torch.arange(5.0)
    parts = type("Parts", (), {"train": IndexedDataset(x), "valid": IndexedDataset(x), "test": None})
    data = FitDataModule(parts, batch_size=2)
    assert [index.tolist() for _, _, index in data.held_out("valid")] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("done", range(8))
def test_an_epoch_of_several_passes_goes_through_the_data_each_time(done):
    data = IndexedDataset(torch.arange(5.0))
    loader, other = (shuffled_loader(data, 2, seed=0, passes=3) for _ in range(2))
    loader.batch_sampler.sampler.set_epoch(1)
    whole = [index.tolist() for _, _, index in loader]
    assert len(loader) == len(whole) == 9
    passes = [[*itertools.chain(*whole[start : start + 3])] for start in (0, 3, 6)]
    assert [sorted(one) for one in passes] == [[0, 1, 2, 3, 4]] * 3
    assert passes[0] != passes[1] != passes[2]
    iterator = iter(loader)
    for _ in range(done):
        next(iterator)
    other.load_state_dict(loader.state_dict())
    assert [index.tolist() for _, _, index in other] == whole[done:]


def test_one_pass_is_what_an_epoch_is_by_default():
    for epoch in range(3):
        orders = [EpochOrder(9, 4), EpochOrder(9, 4, passes=1)]
        for order in orders:
            order.set_epoch(epoch)
        assert list(orders[0]) == list(orders[1]) == orders[0].permutation().tolist()
