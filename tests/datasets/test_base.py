import pytest
import torch
from torch.utils.data import DataLoader, Subset

from pyro_ext.datasets import IndexedDataset, Splits, collate


@pytest.fixture(params=[True, False], ids=["labels", "no labels"])
def data(request):
    x = torch.arange(14.0).reshape(7, 2)
    return IndexedDataset(x, torch.arange(7) % 3 if request.param else None)


def test_item_and_items_agree(data):
    x, y, index = data.__getitems__([5, 2])
    singles = collate([data[5], data[2]])
    assert torch.equal(x, singles[0])
    assert torch.equal(index, singles[2])
    assert (y is None) == (data.y is None) == (singles[1] is None)
    if y is not None:
        assert torch.equal(y, singles[1])


@pytest.mark.parametrize("subset", [False, True])
def test_every_row_comes_once_through_a_loader(data, subset):
    rows = Subset(data, range(7)) if subset else data
    batches = list(DataLoader(rows, batch_size=3, shuffle=True, collate_fn=collate))
    index = torch.cat([batch[2] for batch in batches])
    assert [len(batch[0]) for batch in batches] == [3, 3, 1]
    assert torch.equal(index.sort().values, torch.arange(7))
    assert torch.equal(torch.cat([batch[0] for batch in batches]), data.x[index])


def test_negative_index_names_the_row_it_means(data):
    assert data[-1][2] == 6


def test_index_out_of_range_ends_iteration(data):
    assert len(list(data)) == 7


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.tensor(1.0), None, "x must have a leading dim"),
        (torch.zeros(3, 2), torch.zeros(2), "y must have one entry for each of the 3 rows"),
        (torch.zeros(3, 2), torch.tensor(1.0), "y must have one entry for each of the 3 rows"),
    ],
)
def test_bad_tensors(x, y, message):
    with pytest.raises(ValueError, match=message):
        IndexedDataset(x, y)


def test_splits_default_to_no_test_part(data):
    splits = Splits("toy", data, data)
    assert splits.test is None
    assert splits.image_shape is None
