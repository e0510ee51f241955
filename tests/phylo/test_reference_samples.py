"""Samples of several files that count alike."""

import pytest
import torch

from pyro_ext.phylo.reference_samples import reference_sample


def test_files_count_alike_whatever_their_weights_sum_to(tmp_path):
    first, second = tmp_path / "first.nwk", tmp_path / "second.nwk"
    first.write_text("[&W 0.9] (a,b,(c,d)); [&W 0.1] (a,c,(b,d));")
    second.write_text("(a,b,(c,d)); (a,d,(b,c)); (a,d,(b,c)); (a,d,(b,c));")
    found = reference_sample(first, second)
    assert found.to_newick() == ["(a,b,(c,d));", "(a,(b,d),c);", "(a,(b,c),d);"]
    torch.testing.assert_close(found.weights, torch.tensor([0.575, 0.05, 0.375], dtype=torch.float64))


def test_weights_as_counts(tmp_path):
    file = tmp_path / "run.nwk"
    file.write_text("[&W 0.68] (a,b,(c,d)); [&W 0.32] (a,c,(b,d));")
    expected = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(reference_sample(file, counts=3).weights, expected)


def test_wrong_calls(tmp_path):
    with pytest.raises(ValueError, match="paths is empty: name at least one file of trees"):
        reference_sample()
    with pytest.raises(ValueError, match="counts must be at least 1, got 0"):
        reference_sample(tmp_path / "run.nwk", counts=0)


def test_counts_too_small_for_the_weights(tmp_path):
    path = tmp_path / "many.nwk"
    path.write_text("(a,b,(c,d)); (a,c,(b,d)); (a,(b,c),d);")
    with pytest.raises(ValueError, match=r"many\.nwk: counts=1 rounds all weights to 0"):
        reference_sample(path, counts=1)
