"""Files of trees: formats, compression, several at a time, progress, errors; reference and posterior samples."""

import bz2
import gzip
import json
import os
from pathlib import Path

import pytest
import torch

from pyro_ext.phylo import (
    TreeSet,
    is_canonical,
    iter_trees,
    random_trees,
    read_trees,
    reference_sample,
    split_frequencies,
)
from tests.phylo import naive

TAXA = tuple("abcdef")


@pytest.fixture
def trees():
    return TreeSet(TAXA, random_trees(6, 30))


def test_plain_and_compressed(tmp_path, trees):
    text = "\n".join(trees.to_newick()).encode()
    (tmp_path / "plain").write_bytes(text)
    (tmp_path / "zipped").write_bytes(gzip.compress(text))
    for name in ("plain", "zipped"):
        assert (read_trees(tmp_path / name).parents == trees.parents).all()
        assert (read_trees(str(tmp_path / name)).parents == trees.parents).all()


def test_several_files_come_in_order(tmp_path, trees):
    lines = trees.to_newick()
    paths = [tmp_path / f"{k}.nwk" for k in range(3)]
    for k, path in enumerate(paths):
        path.write_text("\n".join(lines[10 * k : 10 * k + 10]))
    assert (read_trees(*paths).parents == trees.parents).all()


def test_streaming_in_pieces(tmp_path, monkeypatch, trees):
    monkeypatch.setattr("pyro_ext.phylo.reading._CHUNK_BYTES", 64)
    path = tmp_path / "trees.nwk"
    path.write_text("\n".join(trees.to_newick()))
    parts = list(iter_trees(path))
    assert len(parts) > 5
    assert (torch.cat([part.parents for part in parts]) == trees.parents).all()


def test_branch_lengths_may_be_left_out(tmp_path):
    path = tmp_path / "trees.nwk"
    path.write_text("(a:1,b:2,c:x);(a,b,c);")
    assert read_trees(path, branch_lengths=False).branch_lengths is None


def test_progress(tmp_path, trees, capsys):
    path = tmp_path / "trees.nwk"
    path.write_text("\n".join(trees.to_newick()))
    read_trees(path)
    assert capsys.readouterr().err == ""
    read_trees(path, progress=True)
    assert "trees: 100%" in capsys.readouterr().err


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = "(a,b,(c,d));\n"


@pytest.mark.parametrize(
    ("contents", "which", "message"),
    [
        ([GOOD, ""], 1, "the file is empty"),
        ([GOOD, GOOD + "(a,b,(c,e));"], 1, "line 2, tree 2: unknown taxon 'e': all trees must have the same 4 taxa"),
        ([GOOD, "(a,b,c);"], 1, "line 1, tree 1: taxon 'd' is missing"),
        ([GOOD, "[&R]((a,b),(c,d));"], 1, "line 1, tree 1: the tree is rooted but those before are unrooted"),
        ([GOOD, "[&W 1]" + GOOD], 1, "line 1, tree 1: the tree has a weight but others have none"),
        (["[&W 1]" + GOOD, "[&W 0]" + GOOD], 1, "all trees have weight 0"),
        ([gzip.compress(GOOD.encode() * 99)[:-12]], 0, "not a whole gzip file"),
        ([b"(a,\xff,c);"], 0, "is no UTF-8"),
        ([b"#NEXUS begin trees;\ntranslate 1 a, 2 \xe9, 3 c;"], 0, "line 2: .* is no UTF-8"),
        ([b"#NEXUS begin trees;\ntree \xe9 = (a,b);\ntree \xe9 = (a,c);"], 0, r"line 3, tree 2 \(\ufffd\): unknown"),
        ([b"\x89PNG\r\n\x1a\n\0\0"], 0, "has no ';'"),
        (["(a,b,c);".encode("utf-16")], 0, "this is UTF-16: convert the file to UTF-8"),
        ([GOOD, bz2.compress(GOOD.encode())], 1, "this is compressed with bzip2: unpack it, or use gzip"),
    ],
)
def test_bad_files_are_named(tmp_path, contents, which, message):
    paths = [write(tmp_path / f"file{k}", content) for k, content in enumerate(contents)]
    with pytest.raises(ValueError, match=message) as error:
        read_trees(*paths)
    assert str(error.value).startswith(str(paths[which]))


def test_lines_are_counted_over_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_ext.phylo.reading._CHUNK_BYTES", 50)
    path = write(tmp_path / "long.nwk", GOOD * 100 + "(a,b,(c,x));\n" + GOOD * 100)
    with pytest.raises(ValueError, match="line 101, tree 101: unknown taxon 'x'"):
        read_trees(path)


def test_no_files():
    with pytest.raises(ValueError, match="paths is empty"):
        read_trees()
    with pytest.raises(FileNotFoundError):
        read_trees("/no/such/file.nwk")


def data(name):
    return Path(os.environ["PYRO_EXT_DATA"]) / "phylo" / name


@pytest.mark.data
@pytest.mark.parametrize(("name", "count", "topologies"), [("DS1", 12_256, 2_784), ("DS3", 2_274, 351)])
def test_posterior_samples_of_ten_runs(name, count, topologies):
    paths = sorted(data(f"golden/{name}").glob("*/*.trprobs.gz"))
    trees = read_trees(*paths)
    assert len(trees) == count
    assert is_canonical(trees.parents).all()
    unique = trees.unique()
    assert len(unique) == topologies
    assert unique.weights.sum().item() == pytest.approx(10, abs=0.002)


def test_files_of_a_reference_sample_have_equal_weights(tmp_path):
    first, second = tmp_path / "first.nwk", tmp_path / "second.nwk"
    first.write_text("[&W 0.9] (a,b,(c,d)); [&W 0.1] (a,c,(b,d));")
    second.write_text("(a,b,(c,d)); (a,d,(b,c)); (a,d,(b,c)); (a,d,(b,c));")
    result = reference_sample(first, second)
    assert result.to_newick() == ["(a,b,(c,d));", "(a,(b,d),c);", "(a,(b,c),d);"]
    torch.testing.assert_close(result.weights, torch.tensor([0.575, 0.05, 0.375], dtype=torch.float64))


def test_reference_samples_with_weights_as_counts(tmp_path):
    file = tmp_path / "run.nwk"
    file.write_text("[&W 0.68] (a,b,(c,d)); [&W 0.32] (a,c,(b,d));")
    expected = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(reference_sample(file, counts=3).weights, expected)


def test_wrong_calls_of_reference_sample(tmp_path):
    with pytest.raises(ValueError, match="paths is empty: name at least one file of trees"):
        reference_sample()
    with pytest.raises(ValueError, match="counts must be an integer of at least 1, got 0"):
        reference_sample(tmp_path / "run.nwk", counts=0)


def test_counts_too_small_for_the_weights_of_a_reference_sample(tmp_path):
    path = tmp_path / "many.nwk"
    path.write_text("(a,b,(c,d)); (a,c,(b,d)); (a,(b,c),d);")
    with pytest.raises(ValueError, match=r"many\.nwk: counts=1 rounds all weights to 0"):
        reference_sample(path, counts=1)


@pytest.mark.data
def test_posterior_samples_against_the_slow_parser():
    (path,) = data("golden/DS1/rep_1").iterdir()
    trees = read_trees(path)[::40]
    lines = [line for line in gzip.open(path, "rt") if line.strip().startswith("tree ")][::40]
    labels = [str(k) for k in range(1, 28)]
    order = sorted(range(27), key=lambda k: _translation(path)[k])
    for line, parents in zip(lines, trees.parents.tolist(), strict=True):
        named = naive.edges(naive.parse(line[line.index("(") :]), rooted=True)
        sides = {frozenset(order.index(labels.index(label)) for label in side) for side in named}
        result = naive.edges_of(range(27), parents, None, rooted=False)
        assert set(result) == {side if 0 not in side else frozenset(range(27)) - side for side in sides}


def _translation(path):
    lines = gzip.open(path, "rt").read().split("translate")[1].split(";")[0].split(",")
    return [line.split()[1] for line in lines]


@pytest.mark.data
def test_other_files_of_the_same_trees():
    bito = read_trees(data("reference/DS1.100_topologies.nwk"), rooted=False)
    assert len(bito) == 100
    assert len(bito.unique()) == 44
    subsampled = read_trees(data("reference/DS1.subsampled_10.nexus"))
    assert subsampled.branch_lengths.shape == (10, 51)
    assert len(json.loads(data("reference/likelihood.json").read_text())["ds1_trees"]) == len(subsampled)
    credible = read_trees(data("credible/JC_no_gamma_credible_set_ds1"))
    assert credible.weights.sum().item() == pytest.approx(0.951226, abs=1e-6)
    golden = read_trees(*sorted(data("golden/DS1").glob("*/*.trprobs.gz"))).unique()
    assert bito.taxa == subsampled.taxa == credible.taxa == golden.taxa
    top = golden[golden.weights.argsort(descending=True)[:42]]
    known = set(map(tuple, top.parents.tolist()))
    assert sum(tuple(row) in known for row in credible.parents.tolist()) >= 40
    frequencies = split_frequencies(golden).frequencies
    assert (frequencies <= 1 + 1e-9).all()


@pytest.mark.slow
def test_a_hundred_thousand_trees(tmp_path):
    """Nothing but the size: 50 taxa, each tree read back as it was."""
    trees = TreeSet(tuple(f"{k:02d}" for k in range(50)), random_trees(50, 100_000))
    path = write(tmp_path / "many.nwk", "\n".join(trees.to_newick()))
    assert (read_trees(path).parents == trees.parents).all()
