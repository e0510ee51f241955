"""Data sets of which a few data points keep their labels."""

import pytest
import torch

from pyro_ext.datasets import (
    IndexedDataset,
    RedrawnPixels,
    Splits,
    TwoStreams,
    choose_labelled,
    digits,
    few_labels,
    keep_few_labels,
)
from tests.contracts.device_guard import DEVICE, DeviceGuard

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


def test_no_data_point_is_in_both_streams():
    rows = IndexedDataset(torch.arange(9.0)[:, None], LABELS.y)
    kept = keep_few_labels(Splits("nine", rows, rows), num_labels=4, labelled_batch_size=2)
    assert isinstance(kept.train, TwoStreams)
    unlabelled, labelled = kept.train.first, kept.train.second
    assert unlabelled.y is None  # nothing can look at labels that are not to be used
    assert sorted([*unlabelled.x.flatten().tolist(), *labelled.x.flatten().tolist()]) == list(range(9))
    assert torch.equal(LABELS.y[labelled.x.flatten().long()], labelled.y)
    assert kept.train.second_batch_size == 2
    assert kept.name == "nine-4-labels"
    assert kept.valid is rows


def test_labelled_data_points_without_their_labels_among_the_others():
    rows = IndexedDataset(torch.arange(9.0)[:, None], LABELS.y)
    few, same = (keep_few_labels(Splits("nine", rows), 4, unlabelled=which).train for which in ("others", "all"))
    assert same.first.x.flatten().tolist() == list(range(9))
    assert same.first.y is None
    assert torch.equal(same.second.x, few.second.x)
    with pytest.raises(ValueError, match="unlabelled must be one of others, all; got 'none'"):
        keep_few_labels(Splits("nine", rows), 4, unlabelled="none")


def test_shades_and_protocols_are_those_of_the_source():
    assert few_labels(binarize=None).train.first.x.unique().numel() > 2
    assert few_labels().train.first.x.unique().tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="protocol='split' is for source='mnist', got source='digits'"):
        few_labels(protocol="split")


def test_images_go_on_being_redrawn():
    data = digits("dynamic", num_train=200)
    kept = keep_few_labels(data, num_labels=20).train
    chosen = choose_labelled(data.train, num_labels=20, classes=10)
    for part in (kept.first, kept.second, chosen):
        assert isinstance(part, RedrawnPixels)
        before = part.__getitems__([0, 1])[0]
        part.set_epoch(1)
        assert not torch.equal(part.__getitems__([0, 1])[0], before)
    assert kept.first.y is None
    assert torch.equal(kept.second.y, chosen.y)
    shades = torch.cat([kept.first.shades, kept.second.shades])
    assert torch.equal(shades.sum(0), data.train.shades.sum(0))


def test_data_may_lie_on_a_device():
    with DeviceGuard():
        data = IndexedDataset(LABELS.x.to(DEVICE), LABELS.y.to(DEVICE))
        chosen, kept = choose_labelled(data, 4, 3), keep_few_labels(Splits("nine", data), num_labels=4).train
        for part in (chosen, kept.first, kept.second):
            assert part.x.device == DEVICE
        assert torch.equal(chosen.x.cpu(), choose_labelled(LABELS, 4, 3).x)
        redrawn = RedrawnPixels((LABELS.x / 9).to(DEVICE), LABELS.y.to(DEVICE))
        part = choose_labelled(redrawn, 4, 3)
        assert part.__getitems__([1, 0])[0].device == redrawn[0][0].device == DEVICE


def test_a_seed_chooses_the_labels():
    first, again, other = (few_labels(num_labels=30, label_seed=seed).train.second for seed in (0, 0, 1))
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)
    assert first.y.bincount().tolist() == [3] * 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: few_labels("letters"), "source must be one of digits, mnist; got 'letters'"),
        (lambda: few_labels(num_labels=9), "num_labels must be at least 10, one of each class, got 9"),
        (lambda: few_labels(labelled_batch_size=0), "second_batch_size must be an integer of at least 1, got 0"),
        (
            lambda: keep_few_labels(Splits("x", torch.zeros(4, 2)), 2),
            "splits.train must be rows with labels, got Index",
        ),
        (lambda: keep_few_labels(few_labels(), 20), "splits.train must be rows with labels, got TwoStreams"),
        (lambda: keep_few_labels(Splits("nine", (LABELS.x[:6], LABELS.y[:6])), 6), "num_labels"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_all_labels_leave_nothing_unlabelled():
    data = digits(num_train=20)
    rows = torch.tensor([int((data.train.y == label).nonzero()[0]) for label in range(10)])
    one_each = Splits("ten", IndexedDataset(data.train.x[rows], data.train.y[rows]))
    with pytest.raises(ValueError, match="num_labels must be less than 10, the number of data points, got 10"):
        keep_few_labels(one_each, 10)
