"""Batches in models: the plate, means over a loader, the choice of labels."""

import pyro
import pytest
import torch

from pyro_ext.datasets import IndexedDataset
from pyro_ext.models.toolkit import choose_labelled, data_plate, mean_metrics


def test_the_plate_scales_and_takes_indices():
    with data_plate(10, torch.zeros(4, 2), torch.tensor([7, 3, 1, 0]), name="rows") as index:
        assert index.tolist() == [7, 3, 1, 0]
        site = pyro.poutine.trace(lambda: pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))).get_trace().nodes["z"]
    assert site["value"].shape == (4,)
    assert site["cond_indep_stack"][0].name == "rows"


def test_means_are_weighted_by_rows_and_repeat():
    network = torch.nn.Linear(2, 1).double()

    def metrics(x, y, index):
        assert x.dtype == torch.float64  # as the module
        assert index.dtype == torch.int64
        return {"row": x[:, 0], "batch": x[:, 0].mean(), "noise": torch.rand(())}

    evaluate = mean_metrics(network, metrics, seed=3)
    loader = [
        (torch.tensor([[1.0, 0], [2, 0], [3, 0]]), None, torch.arange(3)),
        (torch.tensor([[10.0, 0]]), None, torch.arange(1)),
    ]
    first = evaluate(loader)
    assert (first["row"], first["batch"]) == (4.0, 4.0)
    state = torch.get_rng_state()
    assert evaluate(loader) == first
    assert torch.equal(state, torch.get_rng_state())


def test_an_empty_loader_is_refused():
    with pytest.raises(ValueError, match="loader must hold at least one data point, got none"):
        mean_metrics(torch.nn.Linear(1, 1), lambda x: {})([])


LABELS = IndexedDataset(torch.arange(9.0)[:, None], torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2]))


def test_labels_are_balanced_and_a_seed_repeats_them():
    chosen = choose_labelled(LABELS, num_labels=7, classes=3)
    assert chosen.y.bincount().tolist() == [3, 2, 2]
    assert torch.equal(chosen.x, choose_labelled(LABELS, 7, 3).x)
    assert not torch.equal(chosen.x, choose_labelled(LABELS, 7, 3, seed=1).x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IndexedDataset(torch.zeros(3, 1)), 2, 2), "data must hold labels to choose from, got none"),
        ((LABELS, 10, 3), "num_labels must be at most 9, the number of data points, got 10"),
        ((LABELS, 2, 3), "num_labels must be at least 3, one of each class, got 2"),
        ((LABELS, 9, 3), "num_labels=9 needs 3 data points of class 2, got 2"),
        ((LABELS, 0, 3), "num_labels must be an integer of at least 1, got 0"),
    ],
)
def test_labels_that_are_not_there(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_labelled(*arguments)
