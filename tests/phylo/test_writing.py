"""What is written can be read back, by this package and others, and files are whole or not there."""

import gzip
import io

import pytest
import torch

from pyro_ext.phylo import TreeSet, random_trees, read_trees, write_trees

NAMES = ("Homo sapiens", "O'Brien", "a", "b_c", "d-e", "f;(g)")


def trees_of(rooted, weights, lengths):
    generator = torch.Generator().manual_seed(0)
    parents = random_trees(6, 25, rooted=rooted, generator=generator)
    return TreeSet(
        NAMES,
        parents,
        rooted,
        torch.rand(25, dtype=torch.float64, generator=generator) if weights else None,
        torch.rand(25, parents.shape[1] - 1, dtype=torch.float64, generator=generator) if lengths else None,
    )


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("name", ["x.nwk", "x.nex", "x.trees.gz", "x.tre.gz"])
def test_round_trip(tmp_path, name, rooted, weights, lengths):
    trees = trees_of(rooted, weights, lengths)
    path = write_trees(tmp_path / name, trees)
    result = read_trees(path)
    assert result.taxa == trees.taxa
    assert result.rooted == rooted
    for part in ("parents", "weights", "branch_lengths"):
        ours, theirs = getattr(result, part), getattr(trees, part)
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours == theirs).all()


def test_compressed_files_are_the_same_each_time(tmp_path):
    first, second = (write_trees(tmp_path / name, trees_of(False, True, True)) for name in ("a.nwk.gz", "b.nwk.gz"))
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes()).count(b";") == 25 + 25 * 1  # one name has a semicolon


def test_trprobs_is_sorted_with_running_sums(tmp_path):
    trees = TreeSet(tuple("abc"), torch.tensor([[-1, 3, 3, 0]] * 3), weights=torch.tensor([1.0, 6, 3]).double())
    text = write_trees(tmp_path / "x.trprobs", trees).read_text()
    assert "tree tree_1 [p = 0.600, P = 0.600] = [&U] [&W 6.0] (1,2,3);" in text
    assert "tree tree_2 [p = 0.300, P = 0.900] = [&U] [&W 3.0] (1,2,3);" in text
    assert read_trees(tmp_path / "x.trprobs").weights.tolist() == [6.0, 3.0, 1.0]
    plain = write_trees(tmp_path / "y.trprobs", TreeSet(trees.taxa, trees.parents))
    assert read_trees(plain).weights.tolist() == pytest.approx([1 / 3] * 3)


def test_biopython_reads_it(tmp_path):
    phylo = pytest.importorskip("Bio.Phylo")
    trees = trees_of(True, True, True).relabel(dict(zip(NAMES, "pqrstu", strict=True)))  # it reads no others
    path = write_trees(tmp_path / "x.nex", trees)
    result = list(phylo.parse(io.StringIO(path.read_text()), "nexus"))
    assert len(result) == 25
    assert result[0].total_branch_length() == pytest.approx(trees.branch_lengths[0].sum().item(), abs=1e-4)


def test_a_failure_leaves_the_old_file(tmp_path):
    path = write_trees(tmp_path / "x.nwk", TreeSet(("a", "b", "c"), torch.tensor([[-1, 3, 3, 0]])))
    with pytest.raises(ValueError, match="a taxon is named 'a\\\\nb'"):
        write_trees(path, TreeSet(("a\nb", "b", "c"), torch.tensor([[-1, 3, 3, 0]])))
    assert path.read_text() == "(a,b,c);\n"
    assert [file.name for file in tmp_path.iterdir()] == ["x.nwk"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder, trees: write_trees(folder / "x.txt", trees), "x.txt: cannot tell the format from the name"),
        (lambda folder, trees: write_trees(folder / "x.gz", trees), "cannot tell the format"),
        (lambda folder, trees: write_trees(folder / "x", trees, format="csv"), "format must be .* got 'csv'"),
    ],
)
def test_bad_input(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path, trees_of(False, False, False))
