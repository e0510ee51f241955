"""An alignment as a data set: one object seen whole, many steps to an epoch, bad files."""

import pytest
import torch

from pyro_ext.datasets import alignment, load
from pyro_ext.inference.training.data import FitDataModule

FASTA = ">b\nACGT\n>a\nACGA\n>c\nAGGA\n"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "three.fasta"
    file.write_text(FASTA)
    return str(file)


def test_one_object_makes_an_epoch_of_many_steps(path):
    data = load("alignment", path=path, steps_per_epoch=7)
    assert (data.name, data.alignment.taxa, data.alignment.num_sites) == ("three.fasta", ("a", "b", "c"), 4)
    for batch_size in (1, 100):
        module = FitDataModule(data, batch_size)
        assert module.size == 1
        batches = list(module.train_dataloader())
        assert len(batches) == len(module.train_dataloader()) == 7
        for patterns, weights in batches:
            assert torch.equal(patterns, data.alignment.patterns)
            assert torch.equal(weights, data.alignment.weights)
        assert len(list(module.held_out("valid"))) == 1
        assert module.held_out("test") is None


WRONG = [
    ("none.fasta", "there is no file 'none.fasta'; name an alignment in FASTA, PHYLIP or NEXUS"),
    (">a\nACGT\n>b\nACG\n", "taxon 'b' has 3 characters but 'a' has 4: sequences must be aligned"),
    (">a\nAC!T\n>b\nACGT\n", "taxon 'a' has '!' in column 3, which is no nucleotide"),
    ("", "the file is empty"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_bad_files(tmp_path, text, message):
    file = tmp_path / "bad.fasta"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        alignment(text if text.endswith(".fasta") else str(file))


@pytest.mark.parametrize("number", [0, 2.5, True])
def test_bad_number_of_steps(path, number):
    with pytest.raises(ValueError, match="steps_per_epoch must be an integer of at least 1"):
        alignment(path, number)


def test_alignment_is_in_double_precision_until_asked(path):
    assert alignment(path).alignment.patterns.dtype == torch.float64
