import pytest
import torch

from pyro_ext.datasets import IndexedDataset
from pyro_ext.models.disentangling import ClassPartners

LABELS = torch.tensor([4, 0, 4, 2, 0, 4, 2, 4])


def partners(labels=LABELS):
    return ClassPartners(IndexedDataset(torch.arange(float(len(labels)))[:, None], labels))


def test_partners_are_uniform_over_the_class_and_over_all_others():
    torch.manual_seed(0)
    own, number = partners(), 4000
    for index, label in enumerate(LABELS):
        drawn = own.draw(torch.full((number,), index))
        same = drawn.same.flatten().long().bincount(minlength=8)
        other = drawn.other.flatten().long().bincount(minlength=8)
        may_same = LABELS == label
        may_same[index] = False
        assert torch.equal(drawn.other_y, LABELS[drawn.other.flatten().long()])
        for counts, allowed in ((same, may_same), (other, LABELS != label)):
            assert (counts[~allowed] == 0).all()
            p = 1 / float(allowed.sum())
            z = (counts[allowed] - number * p) / (number * p * (1 - p) + 1e-9) ** 0.5
            assert z.abs().max() < 4  # of 56 in all; false alarm below 0.4 %


def test_indices_of_a_batch_are_mixed():
    own = partners()
    index = torch.tensor([3, 1, 7])
    drawn = own.draw(index)
    assert torch.equal(LABELS[drawn.same.flatten().long()], LABELS[index])
    assert (drawn.other_y != LABELS[index]).all()


def test_data_are_not_saved():
    assert partners().state_dict() == {}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 0, 7, 1, 1]), "class 7 has a single image in data.train; give each class at least two"),
        (torch.tensor([3, 3]), "data.train must hold at least two classes, got class 3 alone"),
    ],
)
def test_classes_without_partners_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        partners(labels)


def test_no_labels():
    with pytest.raises(ValueError, match=r"data\.train must hold a class for each of its images, got no labels"):
        ClassPartners(IndexedDataset(torch.zeros(3, 1)))
