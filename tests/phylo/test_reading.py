"""Files of trees: formats, compression, several at a time, progress, errors; reference and posterior samples."""

import bz2
import gzip
import json
import lzma
import os
import re
import time
import tracemalloc
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
    packers = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
    for name, compress in packers.items():
        half = len(text) // 2
        (tmp_path / name).write_bytes(compress(text[:half]) + compress(text[half:]))
    for name in ("plain", *packers):
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
LOG = """Iteration\tLikelihood\tpsi
0\t-9\t((a[&index=1]:1.0,b[&index=2]:1.0)[&index=4]:1.0,c[&index=3]:2.0)[&index=5]:0.0;
10\t-8\t((a[&index=1]:1.0,c[&index=2]:1.0)[&index=4]:1.0,b[&index=3]:2.0)[&index=5]:0.0;
"""


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
        ([gzip.compress(GOOD.encode()) + b"and more"], 0, "not a whole gzip file"),
        ([GOOD, bz2.compress(GOOD.encode() * 99)[:-12]], 1, "not a whole bzip2 file"),
        ([lzma.compress(GOOD.encode() * 99)[:-12]], 0, "not a whole xz file"),
        ([b"BZh is no compressed text"], 0, "not a whole bzip2 file"),
        ([b"PK\x03\x04 and more"], 0, "this is a zip archive: unpack it"),
        ([b"\x89PNG\r\n\x1a\n"], 0, "has no ';'"),
        ([b"\x89PNG\r\n\x1a\n\0\0"], 0, "the file holds zero bytes, so it is no text"),
        (["(a,b,c);".encode("utf-16")], 0, "this is UTF-16: convert the file to UTF-8"),
        (["(a,b,c);".encode("utf-16-le")], 0, "no text, or UTF-16: convert it to UTF-8"),
        ([gzip.compress("(a,b,c);".encode("utf-16"))], 0, "this is UTF-16: convert the file to UTF-8"),
        (["0 (a,b,c);10 (a,b,c);20 (a,b,c);"], 0, r"0, 10, 20, \.\.\. rise like the iterations .* as \[&W 0\]"),
        (["0 (a,b,c);10 (a,b,c);20 (a,b,c);" * 2], 0, "rise like the iterations of a sampler"),
        (["2 (a,b,c);3 (a,b,c);"], 0, "rise like the iterations of a sampler"),
        ([LOG.replace("\t-9", "")], 0, "line 2, tree 1: this log has 3 columns, and a tree stands in another than"),
        ([LOG.replace(";\n", ";\t5\n")], 0, "line 3, tree 2: this log has 3 columns, and a tree stands in another"),
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


def test_logs_of_revbayes(tmp_path):
    expected = ["((a:1.0,b:1.0):1.0,c:2.0);", "((a:1.0,c:1.0):1.0,b:2.0);"]
    for text in (LOG, "#RevBayes version (1.2.1)\n#Build from here\n" + LOG, LOG.replace("\n", "\r\n")):
        trees = read_trees(write(tmp_path / "log.trees", text))
        assert trees.to_newick() == expected
        assert trees.weights is None


@pytest.mark.parametrize("numbers", [(3, 2, 1), (1, 1, 1), (5, 1, 7, 2), (0.25, 0.5, 0.75), (7,)])
def test_numbers_that_are_weights(tmp_path, numbers):
    path = write(tmp_path / "counted.nwk", "".join(f"{number}\t{GOOD}" for number in numbers))
    assert read_trees(path).weights.tolist() == list(numbers)


def test_weights_in_comments_may_rise(tmp_path):
    path = write(tmp_path / "weighted.nwk", "".join(f"[&W {number}] {GOOD}" for number in (0, 10, 20)))
    assert read_trees(path).weights.tolist() == [0, 10, 20]


def test_what_grows_when_unpacked_is_not_held(tmp_path, monkeypatch):
    """A file that unpacks to zeros, or to a text without an end, is left at the first piece that tells so."""
    monkeypatch.setattr("pyro_ext.phylo._tree_files._LONGEST", 2**22)
    for character, message in ((b"\0", "zero bytes"), (b" ", "line 1: a statement of more than 4194304 bytes")):
        path = write(tmp_path / "large.nwk.gz", gzip.compress(GOOD.encode() + character * 2**26))
        tracemalloc.start()
        with pytest.raises(ValueError, match=message) as error:
            read_trees(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
        tracemalloc.stop()
        assert str(error.value).startswith(str(path))


def seconds(path):
    begin = time.perf_counter()
    read_trees(path)
    return time.perf_counter() - begin


def balanced(labels):
    while len(labels) > 1:
        odd = labels[len(labels) // 2 * 2 :]
        labels = [f"({a},{b})" for a, b in zip(labels[0::2], labels[1::2], strict=False)] + odd
    return labels[0]


@pytest.mark.slow
def test_time_grows_with_the_number_of_labels_only(tmp_path):
    """Quoted labels, TRANSLATE and numbers of TAXLABELS; compared with plain labels, with some allowance for noise."""
    n = 20_000
    names, numbers = [f"t{k}" for k in range(n)], balanced([str(k) for k in range(1, n + 1)])
    translate = ",\n".join(f"{k} {name}" for k, name in enumerate(names, 1))
    texts = {
        "plain": balanced(names) + ";",
        "quoted": balanced([f"'t {k}'" for k in range(n)]) + ";",
        "translated": f"#NEXUS begin trees; translate {translate}; tree x = [&R] {numbers}; end;",
        "numbered": f"#NEXUS begin taxa; taxlabels {' '.join(names)}; end; begin trees; tree x = {numbers}; end;",
    }
    times = {name: min(seconds(write(tmp_path / name, text)) for _ in range(2)) for name, text in texts.items()}
    assert max(times.values()) < 3 * times["plain"], times
    assert seconds(write(tmp_path / "many", balanced([f"'t {k}'" for k in range(50_000)]) + ";")) < 30


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


def test_burn_in_and_thinning_are_of_each_file(tmp_path, trees):
    lines = trees.to_newick()
    paths = [write(tmp_path / f"{k}.nwk", "\n".join(lines[10 * k : 10 * k + 10])) for k in range(3)]

    def rows(**options):
        return read_trees(*paths, **options).to_newick()

    assert rows(burnin=0.25) == [line for k in range(3) for line in lines[10 * k + 2 : 10 * k + 10]]
    assert rows(burnin=7) == [line for k in range(3) for line in lines[10 * k + 7 : 10 * k + 10]]
    assert rows(thin=4) == [line for k in range(3) for line in lines[10 * k : 10 * k + 10 : 4]]
    assert rows(burnin=0.5, thin=2) == [line for k in range(3) for line in lines[10 * k + 5 : 10 * k + 10 : 2]]
    assert float(reference_sample(*paths, burnin=9).weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"burnin": 3}, "t.nwk: burnin=3 leaves none of the 3 trees"),
        ({"burnin": 1.0}, "burnin must be a number of trees of at least 0, or a share below 1 as 0.25, got 1.0"),
        ({"burnin": -1}, "burnin must be"),
        ({"burnin": True}, "burnin must be"),
        ({"burnin": float("nan")}, "burnin must be"),
        ({"thin": 0}, "thin must be an integer of at least 1, got 0"),
        ({"burnin": 1, "weights": True}, None),
    ],
)
def test_wrong_burn_in(tmp_path, options, message):
    path = write(tmp_path / "t.nwk", "(a,b,c);" * 3)
    if message is None:
        assert len(read_trees(path, **options)) == 2
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        read_trees(path, **options)


def test_a_summary_has_no_burn_in(tmp_path):
    path = write(tmp_path / "t.nwk", "[&W 0.6] (a,b,(c,d)); [&W 0.4] (a,c,(b,d));")
    with pytest.raises(ValueError, match=r"t\.nwk: the trees have different weights, so they are a summary"):
        read_trees(path, burnin=0.5)
    assert len(read_trees(path, burnin=0.5, weights=False)) == 1
    assert len(read_trees(write(path, "[&W 1] (a,b,(c,d)); [&W 1] (a,c,(b,d));"), burnin=0.5)) == 1


def test_weights_can_be_left_out(tmp_path):
    """Where some trees have none, or the numbers before trees are iterations."""
    for text in ("[&W 0.6] (a,b,(c,d)); (a,c,(b,d));", "0 (a,b,(c,d)); 10 (a,c,(b,d)); 20 (a,c,(b,d));"):
        path = write(tmp_path / "t.nwk", text)
        with pytest.raises(ValueError, match=r"t.nwk.*with weights=False|t.nwk.*pass weights=False"):
            read_trees(path)
        assert read_trees(path, weights=False).weights is None
