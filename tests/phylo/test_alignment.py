"""Alignments: codes, patterns, files in three formats, and what is wrong with others."""

import gzip
import itertools
import os
import sys
from pathlib import Path

import pytest
import torch

from pyro_ext.phylo import STATES, Alignment, read_alignment

IUPAC = {
    **dict(zip("ACGT", STATES, strict=True)),
    **{"U": "T", "R": "AG", "Y": "CT", "M": "AC", "K": "GT", "S": "CG", "W": "AT"},
    **{"H": "ACT", "B": "CGT", "V": "ACG", "D": "AGT", "N": "ACGT", "X": "ACGT", "?": "ACGT", "-": "ACGT"},
}


@pytest.mark.parametrize("lower", [False, True])
def test_every_code(lower):
    text = "".join(IUPAC)
    alignment = Alignment.from_sequences({"a": text.lower() if lower else text}, compress=False)
    expected = [[float(state in allowed) for state in "ACGT"] for allowed in IUPAC.values()]
    assert alignment.patterns[0].tolist() == expected


def test_columns_become_patterns_in_order_of_appearance():
    alignment = Alignment.from_sequences({"b": "ACGTACA-", "a": "GGGGGTGG", "c": "TTTTT-TT"})
    assert alignment.taxa == ("a", "b", "c")
    columns = [tuple(map(tuple, column)) for column in alignment.patterns.transpose(0, 1).tolist()]
    assert len(set(columns)) == len(columns) == alignment.num_patterns == 6
    assert alignment.weights.tolist() == [3, 1, 1, 1, 1, 1]
    assert alignment.num_sites == 8
    full = Alignment.from_sequences({"b": "ACGTACA-", "a": "GGGGGTGG", "c": "TTTTT-TT"}, compress=False)
    order = [columns.index(tuple(map(tuple, column))) for column in full.patterns.transpose(0, 1).tolist()]
    assert order == [0, 1, 2, 3, 0, 4, 0, 5]
    assert full.weights.tolist() == [1] * 8


def test_gaps_and_unknowns_are_one_pattern():
    assert Alignment.from_sequences({"a": "-?NXnx", "b": "UTuttT"}).weights.tolist() == [6]


def test_frequencies_share_out_ambiguity_codes():
    alignment = Alignment.from_sequences({"a": "AACR-N", "b": "AACGGT"})
    assert alignment.frequencies().tolist() == pytest.approx([4.5 / 10, 2 / 10, 2.5 / 10, 1 / 10])


def test_dtype(dtype):
    alignment = Alignment.from_sequences({"a": "AC", "b": "AG"}).to(dtype=dtype)
    assert alignment.patterns.dtype == alignment.weights.dtype == alignment.frequencies().dtype == dtype


FASTA = ">b first one\nACG\nT-\n>a\nACGTN\n"
PHYLIP = " 2 5\nb  ACG T-\na_longer_name  ACGTN\n"
INTERLEAVED = "2 6\nb ACG\na ACG\n\nT-A\nTNA\n"
WRAPPED = "\n2 6\nb\nACG T-\nA\n\na ACG\nTNA\n"
NEXUS = """#NEXUS
begin data;
dimensions ntax=2 nchar=5;
format datatype=dna missing=? gap=- interleave matchchar=.;
matrix
b ACG
'a b' ...

b T-
'a b' .N
;
end;
"""


@pytest.mark.parametrize(
    ("text", "taxa", "sites"),
    [
        (FASTA, ("a", "b"), 5),
        (PHYLIP, ("a_longer_name", "b"), 5),
        (INTERLEAVED, ("a", "b"), 6),
        (WRAPPED, ("a", "b"), 6),
        ("\n\n" + FASTA, ("a", "b"), 5),
        (FASTA.replace("\n", "\r\n"), ("a", "b"), 5),
        (FASTA.replace("\n", "\r"), ("a", "b"), 5),
        (NEXUS, ("a b", "b"), 5),
    ],
)
def test_formats_by_content(tmp_path, text, taxa, sites):
    pytest.importorskip("Bio")
    for name, content in (("plain", text.encode()), ("zipped", gzip.compress(text.encode()))):
        path = tmp_path / name
        path.write_bytes(content)
        alignment = read_alignment(path)
        assert alignment.taxa == taxa
        assert alignment.num_sites == sites
        expected = Alignment.from_sequences({taxa[0]: "ACGTNA"[:sites], taxa[1]: "ACGT-A"[:sites]})
        assert (alignment.patterns == expected.patterns).all()


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the file is empty"),
        ("hello", {}, "neither FASTA .* nor NEXUS .* nor PHYLIP"),
        ("hello", {"format": "fasta"}, "."),
        (FASTA, {"format": "clustal"}, "format must be one of fasta, phylip, nexus; got 'clustal'"),
        (">a\nACG\n>b\nAC\n", {}, "taxon 'b' has 2 characters but 'a' has 3: sequences must be aligned"),
        (">a\nACG\n>b\nA.G\n", {}, "taxon 'b' has '.' in column 2, which is no nucleotide"),
        (">a\nACG\n>b\nACE\n", {}, "taxon 'b' has 'E' in column 3"),
        (">a\nACG\n>b\nACé\n", {}, "no alignment in fasta: 'ascii' codec"),
        (">a\nACG\n>a\nACG\n", {}, "taxon 'a' comes twice"),
        (">a\n>b\nACG\n", {}, "taxon 'a' has an empty sequence"),
        (">\nACG\n>b\nACG\n", {}, "sequence 1 has no name"),
        ("2 5\na ACGT\nb ACGTA\n", {}, "no alignment in phylip: .* 5 columns, but the sequence of 'a' in line 2 has 4"),
        ("2 8\na ACGT\nb ACGT\n", {}, "says 2 taxa and 8 columns, but the sequence of 'a' in line 2 has 4"),
        ("3 4\na ACGT\nb ACGT\n", {}, "says 3 taxa and 4 columns, but only 2 lines follow: the file is truncated"),
        ("2 4\na ACGT\nb ACGT\nc ACGT\n", {}, "but the 3 lines that follow are no sequences of this number"),
        (" 2 4\nHomo_sapieACGT\nMus_musculACGT\n", {}, "but line 2 is no name and sequence with a blank between"),
        ("hello", {"format": "phylip"}, "the first line must hold the numbers of taxa and of columns, got 'hello'"),
        (NEXUS[:130], {}, "there are no sequences in this file, read as nexus"),
    ],
)
def test_bad_files_are_named(tmp_path, text, options, message):
    pytest.importorskip("Bio")
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_alignment(path, **options)
    assert "format must" in str(error.value) or str(error.value).startswith(str(path))


def test_a_broken_gzip_file(tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(FASTA.encode())[:-9])
    with pytest.raises(ValueError, match=r"cut\.gz: not a whole gzip file"):
        read_alignment(tmp_path / "cut.gz")


def test_without_biopython(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "Bio", None)
    (tmp_path / "x.fasta").write_text(FASTA)
    with pytest.raises(ImportError, match=r"pip install 'pyro-ext\[phylo\]'"):
        read_alignment(tmp_path / "x.fasta")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Alignment.from_sequences({}), "there are no sequences"),
        (lambda: Alignment(("b", "a"), torch.ones(2, 1, 4), torch.ones(1)), "taxa must be sorted"),
        (lambda: Alignment(("a", "b"), torch.ones(2, 2, 4), torch.ones(1)), r"patterns must be \(2, 1, 4\)"),
        (lambda: Alignment.from_sequences({"a": "--"}).frequencies(), "nothing but gaps"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def data(name):
    return Path(os.environ["PYRO_EXT_DATA"]) / "phylo/alignments" / name


@pytest.mark.data
def test_real_data():
    """Taxa and sites as published; base frequencies as IQ-TREE 2 prints them for DS1."""
    pytest.importorskip("Bio")
    sizes = [(27, 1949), (29, 2520), (36, 1812), (41, 1137), (50, 378), (50, 1133), (59, 1824), (64, 1008)]
    alignments = [read_alignment(data(f"DS{k}.fasta")) for k in range(1, 9)]
    assert [(alignment.num_taxa, alignment.num_sites) for alignment in alignments] == sizes
    assert alignments[0].frequencies().tolist() == pytest.approx([0.2341, 0.2567, 0.2799, 0.2293], abs=5e-5)
    for alignment, (n, sites) in zip(alignments, sizes, strict=True):
        assert alignment.patterns.shape == (n, alignment.num_patterns, 4)
        assert alignment.num_patterns < sites
        assert all(a != b for a, b in itertools.pairwise(alignment.taxa))
