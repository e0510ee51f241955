"""Alignments: codes, patterns, files in all formats but NEXUS, and what is wrong with others."""

import bz2
import gzip
import itertools
import lzma
import os
import time
import tracemalloc
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
    compressors = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}
    for name, content in [("plain", text.encode()), *((name, of(text.encode())) for name, of in compressors.items())]:
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
        ("²  ³\na ACG", {}, "neither FASTA .* nor NEXUS .* nor PHYLIP"),
        ("hello", {"format": "fasta"}, "no alignment in fasta: expected '>name' at the start, got 'hello'"),
        (FASTA, {"format": "csv"}, "format must be one of fasta, phylip, nexus, clustal, stockholm; got 'csv'"),
        (FASTA, {"names": "all"}, "names must be one of word, joined, ten; got 'all'"),
        (FASTA, {"names": "ten"}, "names='ten' is for phylip, but this file is fasta: leave it out"),
        (PHYLIP, {"names": "joined"}, "names='joined' is for fasta, but this file is phylip"),
        (">a\nACG\n>b\nAC\n", {}, "taxon 'b' has 2 characters but 'a' has 3: sequences must be aligned"),
        (">a\nACG\n>b\nA.G\n", {}, "taxon 'b' has '.' in column 2, which is no nucleotide"),
        (">a\nACG\n>b\nACE\n", {}, "taxon 'b' has 'E' in column 3"),
        (">a\nACG\n>b\nACé\n", {}, "taxon 'b' has 'é' in column 3, which is no nucleotide"),
        (">a\nACG\n>b\nACА\n", {}, "taxon 'b' has 'А' in column 3, which is no nucleotide"),
        (">a\nACG\n>b\nACＡ\n", {}, "taxon 'b' has 'Ａ' in column 3"),
        (">a\nACG\n>b\nA\u00a0G\n", {}, r"taxon 'b' has '\\xa0' in column 2"),
        (">a\nACG\n>b\nA\u2028G\n", {}, r"taxon 'b' has '\\u2028' in column 2"),
        (">a\nACG\n>a\nACG\n", {}, "taxon 'a' comes twice; names end at a blank: .* pass names='joined'"),
        (">a b\nACG\n>a b\nACG\n", {"names": "joined"}, "taxon 'a_b' comes twice$"),
        (">a\n>b\nACG\n", {}, "taxon 'a' has an empty sequence"),
        (">\nACG\n>b\nACG\n", {}, "sequence 1 has no name"),
        ("2 5\na ACGT\nb ACGTA\n", {}, "no alignment in phylip: .* 5 columns, but the sequence of 'a' in line 2 has 4"),
        ("2 8\na ACGT\nb ACGT\n", {}, "says 2 taxa and 8 columns, but the sequence of 'a' in line 2 has 4"),
        ("3 4\na ACGT\nb ACGT\n", {}, "says 3 taxa and 4 columns, but only 2 lines follow: the file is truncated"),
        ("2 4\na ACGT\nb ACGT\nc ACGT\n", {}, "but the 3 lines that follow are no sequences of this number"),
        (" 2 4\nHomo_sapieACGT\nMus_musculACGT\n", {}, "but line 2 is no name and sequence .* pass names='ten'"),
        ("2 4\nHomo_sapieACGT\nMus_mus\n", {"names": "ten"}, "but line 3 is no name of ten characters and a sequence$"),
        ("3 4\na АCGT\nb ACGA\nc ACGC\n", {}, "taxon 'a' has 'А' in column 1, which is no nucleotide"),
        ("2 4\na ACGT\nb ACG\u00c1\n", {}, "taxon 'b' has 'Á' in column 4, which is no nucleotide"),
        ("hello", {"format": "phylip"}, "the first line must hold the numbers of taxa and of columns, got 'hello'"),
        ("² 4\na ACGT", {"format": "phylip"}, "the first line must hold the numbers of taxa and of columns, got '² 4'"),
        ("9" * 5000 + " 4\na ACGT", {}, "the first line must hold the numbers of taxa and of columns, got '99"),
        ("CLUSTAL", {}, "there are no sequences in this file, read as clustal"),
        ("CLUSTAL\n\na ACGT\nb ACG\n", {}, "taxon 'b' has 3 characters but 'a' has 4"),
        ("CLUSTAL\n\na ACGT 4\nb AC GT\n", {}, "no alignment in clustal: line 4 is no name and sequence"),
        ("# STOCKHOLM 1.0\na\n//\n", {}, "no alignment in stockholm: line 2 is no name and sequence"),
        ("# STOCKHOLM 1.0\na ACGT\n", {}, "no alignment in stockholm: the file is truncated"),
        (2 * "# STOCKHOLM 1.0\na ACGT\nb ACGT\n//\n", {}, "there are several alignments in this file: keep one"),
    ],
)
def test_bad_files_are_named(tmp_path, text, options, message):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_alignment(path, **options)
    assert str(error.value).startswith(("format must", "names must", str(path)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FASTA.encode("utf-16"), "this is UTF-16: convert the file to UTF-8"),
        (FASTA.encode("utf-16-be"), "no text, or UTF-16: convert it to UTF-8"),
        (gzip.compress(FASTA.encode("utf-16-le"), mtime=0), "no text, or UTF-16: convert it to UTF-8"),
        (gzip.compress(FASTA.encode(), mtime=0)[:-9], "not a whole gzip file; get it again"),
        (bz2.compress(FASTA.encode())[:-9], "not a whole bzip2 file; get it again"),
        (lzma.compress(FASTA.encode())[:-9], "not a whole xz file; get it again"),
        (b">a\nAC\xe9\n>b\nACG\n", "the sequence of taxon 'a' is no UTF-8 in column 3: convert the file to UTF-8"),
        (b">\xe9a\nACG\n>b\nACG\n", "the name of taxon '\ufffda' is no UTF-8: convert the file to UTF-8"),
        (b"2 3\n\xe9a ACG\nb ACG\n", "the name of taxon '\ufffda' is no UTF-8: convert the file to UTF-8"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_alignment(path)
    assert str(error.value).startswith(str(path))


def test_descriptions_in_fasta_may_be_in_any_encoding(tmp_path):
    (tmp_path / "x.fasta").write_bytes(b">a Ort\xed 2008\nACG\n> b (\xb5m)\nACG\n")
    assert read_alignment(tmp_path / "x.fasta").taxa == ("a", "b")


def test_names_in_fasta_may_be_joined(tmp_path):
    (tmp_path / "x.fasta").write_text(">Macaca  fuscata\nACG\n>Macaca mulatta\t2 \nACG\n")
    assert read_alignment(tmp_path / "x.fasta", names="joined").taxa == ("Macaca_fuscata", "Macaca_mulatta_2")


STRICT = """ 3 12
Homo sapieACGTAC GTAC
Mus musculACGTAC GTAA
Rattus    ACGTAC GTAG

GT
GA
GC
"""
STRICT_IN_TURN = """ 3 12
Homo sapieACGTAC
GTAC GT
Mus musculACGTAC
GTAA GA
Rattus    ACGTAC
GTAG GC
"""


@pytest.mark.parametrize("text", [STRICT, STRICT_IN_TURN])
def test_names_of_ten_characters(tmp_path, text):
    path = tmp_path / "strict.phy"
    path.write_text(text)
    with pytest.raises(ValueError, match="if names have ten characters, pass names='ten'"):
        read_alignment(path)
    expected = {"Homo sapie": "ACGTACGTACGT", "Mus muscul": "ACGTACGTAAGA", "Rattus": "ACGTACGTAGGC"}
    assert read_alignment(path, names="ten").taxa == tuple(expected)
    assert (read_alignment(path, names="ten").patterns == Alignment.from_sequences(expected).patterns).all()


def test_phylip_with_as_many_lines_for_a_taxon_as_taxa(tmp_path):
    """The lines have the right lengths in blocks, too, but names would be repeated, and letters wrong."""
    path = tmp_path / "square.phy"
    names = ("taxon_1", "taxon_2", "taxon_3")
    rows = {name: "ACGTACG" + "ACGTACGTACGTAC" + "ACGTACGTACGTA" + own for name, own in zip(names, "ACG", strict=True)}
    path.write_text("3 35\n" + "".join(f"{name} {row[:7]}\n{row[7:21]}\n{row[21:]}\n" for name, row in rows.items()))
    alignment = read_alignment(path)
    assert (alignment.taxa, alignment.num_sites) == (names, 35)
    assert (alignment.patterns == Alignment.from_sequences(rows).patterns).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 6\nAC GG\nTT CC\nGT GG\nTTCC\n", None),
        ("2 6\nA GGC\nTTC\nC GGA\nTTC\n", {"A": "GGCTTC", "C": "GGATTC"}),
        ("2 6\nA\nGGCTTC\nC\nGGATTC\n", {"A": "GGCTTC", "C": "GGATTC"}),
    ],
)
def test_phylip_whose_names_look_like_sequences(tmp_path, text, expected):
    path = tmp_path / "two.phy"
    path.write_text(text)
    if expected is None:
        with pytest.raises(ValueError, match=r"two\.phy: no alignment in phylip: .* write each on one line"):
            read_alignment(path)
    else:
        assert (read_alignment(path).patterns == Alignment.from_sequences(expected).patterns).all()


CLUSTAL = """CLUSTAL W (1.82) multiple sequence alignment

b               ACGT- 4
a_longer_name   ACGTN 5
                ****

b               GG 6
a_longer_name   GC 7
                *
"""
STOCKHOLM = """# STOCKHOLM 1.0
#=GF ID x
b             ACGT.
a_longer_name ACGTN

b             GG
a_longer_name GC
#=GS b DE x
//
"""


@pytest.mark.parametrize(("text", "kind"), [(CLUSTAL, "clustal"), (STOCKHOLM, "stockholm")])
def test_clustal_and_stockholm(tmp_path, text, kind):
    (tmp_path / "x.aln").write_text(text)
    alignment = read_alignment(tmp_path / "x.aln")
    assert alignment.taxa == ("a_longer_name", "b")
    assert (alignment.patterns == Alignment.from_sequences({"b": "ACGT-GG", "a": "ACGTNGC"}).patterns).all()
    bio = pytest.importorskip("Bio.AlignIO").read(tmp_path / "x.aln", kind)
    assert [record.id for record in bio] == ["b", "a_longer_name"]
    assert [str(record.seq).replace(".", "-") for record in bio] == ["ACGT-GG", "ACGTNGC"]


def test_one_base_a_line_takes_linear_time(tmp_path):
    path = tmp_path / "thin.phy"
    path.write_text("2 200000\n" + "".join(f"{name}\n" + "A\n" * 200_000 for name in "ab"))
    begin = time.perf_counter()
    assert read_alignment(path).num_sites == 200_000
    assert time.perf_counter() - begin < 10


def test_what_grows_when_unpacked_is_refused_at_its_first_piece(tmp_path):
    for text, message in ((b"no", "neither FASTA"), (b">a\n" + b"\0", "zero bytes")):
        (tmp_path / "x.gz").write_bytes(gzip.compress(text + text[-1:] * 2**26, mtime=0))
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=message):
                read_alignment(tmp_path / "x.gz")
            assert tracemalloc.get_traced_memory()[1] < 2**25
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Alignment.from_sequences({"a": "A\u0410"}), "taxon 'a' has '\u0410' in column 2"),
        (lambda: Alignment.from_sequences({"a": "A\ud800"}), r"taxon 'a' has '\\ud800' in column 2"),
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
    sizes = [(27, 1949), (29, 2520), (36, 1812), (41, 1137), (50, 378), (50, 1133), (59, 1824), (64, 1008)]
    alignments = [read_alignment(data(f"DS{k}.fasta")) for k in range(1, 9)]
    assert [(alignment.num_taxa, alignment.num_sites) for alignment in alignments] == sizes
    assert alignments[0].frequencies().tolist() == pytest.approx([0.2341, 0.2567, 0.2799, 0.2293], abs=5e-5)
    for alignment, (n, sites) in zip(alignments, sizes, strict=True):
        assert alignment.patterns.shape == (n, alignment.num_patterns, 4)
        assert alignment.num_patterns < sites
        assert all(a != b for a, b in itertools.pairwise(alignment.taxa))


@pytest.mark.slow
def test_an_alignment_that_grows_without_measure_is_refused(tmp_path):
    for name, opened in (("x.gz", gzip.open), ("x.bz2", bz2.open), ("x.xz", lzma.open)):
        with opened(tmp_path / name, "wb") as file:
            file.write(b">a\n")
            for _ in range(300):
                file.write(b"A" * 2**20)
        with pytest.raises(
            ValueError, match=rf"{name}: [\d,]+ compressed bytes hold more than 25\d MiB, which is hardly"
        ):
            read_alignment(tmp_path / name)
