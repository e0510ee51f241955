"""Small files as other programs write them: each read as its format means it, or refused with what to do."""

import pytest
import torch

from pyro_ext.phylo import Alignment, read_alignment, read_trees

ROWS = {"a": "ACGTAC", "b": "ACGAAC", "c": "ACTTA-"}


def matrix(rows, style="datatype=dna gap=- missing=?", before="", after="", start="data", ntax=3, nchar=6):
    size = f"ntax={ntax} nchar={nchar}" if start == "data" else f"nchar={nchar}"
    return (
        f"#NEXUS\n{before}begin {start};\ndimensions {size};\nformat {style};\n{after}matrix\n"
        + "\n".join(rows)
        + "\n;\nend;\n"
    )


PLAIN = [f"{name} {row}" for name, row in ROWS.items()]
TAXA = "begin taxa; title x; dimensions ntax=3; taxlabels 'a' 'b' 'c'; blockid WM1; end;\n"
STRICT = """6 39
Archaeopt CGATGCTTAC CGCCGATGCT
HesperorniCGTTACTCGT TGTCGTTACT
BaluchitheTAATGTTAAT TGTTAATGTT
B. virginiTAATGTTCGT TGTTAATGTT
BrontosaurCAAAACCCAT CATCAAAACC
B.subtilisGGCAGCCAAT CACGGCAGCC

TACCGCCGAT GCTTACCGC
CGTTGTCGTT ACTCGTTGT
AATTGTTAAT GTTAATTGT
CGTTGTTAAT GTTCGTTGT
CATCATCAAA ACCCATCAT
AATCACGGCA GCCAATCAC
"""
TEN = "ACGTACGTAC"
SQUARE = "3 50\n" + "".join(
    f"taxon0000{k} {first}\n{TEN} {second}\n{TEN} {TEN}\n"
    for k, first, second in ((1, TEN, TEN), (2, "ACGTACGTAA", "ACGTACGTAA"), (3, "ACGTACGTAA", "ACGTACGTAA"))
)
JOINED = ">Homo sapiens\nACGT\n>Macaca mulatta\nACGA\n>Macaca fuscata\nACTA\n"


@pytest.mark.parametrize(
    ("text", "options", "rows"),
    [
        pytest.param(
            matrix(["a xCGTAC", "b AyGAAC", "c ACTTA-"], 'datatype=dna gap=- missing=? equate="x=A y=C"'), {}, ROWS,
            id="EQUATE",
        ),
        pytest.param(
            matrix(PLAIN, after="eliminate 1-3;\n"), {}, {name: row[3:] for name, row in ROWS.items()}, id="ELIMINATE"
        ),
        pytest.param(
            matrix(["swine-1 ACGTAC", "swine-2 ACGAAC", "avian-1 ACTTA-"]), {},
            dict(zip(("swine-1", "swine-2", "avian-1"), ROWS.values(), strict=True)), id="hyphens in names",
        ),
        pytest.param(
            matrix(["a {AG}CGTAC", "b ACGAAC", "c ACTTA-"]), {}, ROWS | {"a": "RCGTAC"}, id="states in braces"
        ),
        pytest.param(matrix([*PLAIN, ";\nblockid z"], before=TAXA, start="characters"), {}, ROWS, id="BLOCKID"),
        pytest.param(
            matrix(ROWS.values(), "datatype=dna gap=- missing=? nolabels", TAXA, start="characters"), {}, ROWS,
            id="names from TAXLABELS",
        ),
        pytest.param(matrix(PLAIN) + "begin sets; charset last = 4-.; end;", {}, ROWS, id="sets are ignored"),
        pytest.param(
            matrix(["a ACG", "b ACT"], start="characters", nchar=3, after="title one;\n")
            + matrix(["a GG", "b GA"], start="characters", nchar=2, after="title two;\n").removeprefix("#NEXUS\n"),
            {}, {"a": "ACGGG", "b": "ACTGA"}, id="two blocks",
        ),
        pytest.param(matrix(PLAIN).replace("#NEXUS\n", "#NEXUS\n[caf\udce9]\n"), {}, ROWS, id="comment in Latin-1"),
        pytest.param(
            matrix(["a A~GTAC", "b ACG.AC", "c ACTTA~"], "datatype=dna gap=~ missing=."), {},
            {"a": "A-GTAC", "b": "ACG?AC", "c": "ACTTA-"}, id="other gaps",
        ),
        pytest.param(matrix(["a ACGUAC", "b ACGAAC", "c ACUUA-"]), {}, ROWS, id="U is T"),
        pytest.param(
            STRICT, {"names": "ten"},
            {
                "Archaeopt": "CGATGCTTACCGCCGATGCTTACCGCCGATGCTTACCGC",
                "Hesperorni": "CGTTACTCGTTGTCGTTACTCGTTGTCGTTACTCGTTGT",
                "Baluchithe": "TAATGTTAATTGTTAATGTTAATTGTTAATGTTAATTGT",
                "B. virgini": "TAATGTTCGTTGTTAATGTTCGTTGTTAATGTTCGTTGT",
                "Brontosaur": "CAAAACCCATCATCAAAACCCATCATCAAAACCCATCAT",
                "B.subtilis": "GGCAGCCAATCACGGCAGCCAATCACGGCAGCCAATCAC",
            },
            id="names of ten characters",
        ),
        pytest.param(
            SQUARE, {},
            {
                "taxon00001": TEN * 5,
                "taxon00002": "ACGTACGTAA" + TEN + "ACGTACGTAA" + TEN * 2,
                "taxon00003": "ACGTACGTAA" + TEN + "ACGTACGTAA" + TEN * 2,
            },
            id="three taxa on three lines each",
        ),
        pytest.param(
            JOINED, {"names": "joined"},
            {"Homo_sapiens": "ACGT", "Macaca_mulatta": "ACGA", "Macaca_fuscata": "ACTA"}, id="names with blanks",
        ),
    ],
)  # fmt: skip
def test_alignments(tmp_path, text, options, rows):
    path = tmp_path / "small"
    path.write_text(text, errors="surrogateescape")
    read, expected = read_alignment(path, **options), Alignment.from_sequences(rows)
    assert read.taxa == expected.taxa
    assert torch.equal(read.patterns, expected.patterns)
    assert torch.equal(read.weights, expected.weights)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(STRICT, "pass names='ten'", id="names of ten characters"),
        pytest.param(JOINED, "taxon 'Macaca' comes twice.*pass names='joined'", id="names with blanks"),
        pytest.param(
            "2 4\na \u0410CGT\nb ACGT\n", "taxon 'a' has '\u0410' in column 1", id="a letter that looks like A"
        ),
    ],
)
def test_alignments_that_are_refused(tmp_path, text, message):
    path = tmp_path / "small"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
        read_alignment(path)


def block(trees, before=""):
    return f"#NEXUS\n{before}begin trees;\n{trees}\nend;\n"


ONE = "tree t=[&U] (1,2,(3,4));"
LOG = "Iteration\tPosterior\tpsi\n" + "".join(
    f"{10 * k}\t-10.1\t(({a}[&index=1]:1.0,{b}[&index=2]:1.0)[&index=4]:1.0,{c}[&index=3]:2.0)[&index=5]:0.0;\n"
    for k, (a, b, c) in enumerate(("abc", "acb"))
)


@pytest.mark.parametrize(
    ("text", "newick"),
    [
        pytest.param(
            block(ONE, "begin taxa; dimensions ntax=4; taxlabels A O'Neil C D; end;\n"), ["(A,(C,D),'O''Neil');"],
            id="an apostrophe in TAXLABELS",
        ),
        pytest.param(
            block(f"title T; link taxa = one;\n{ONE}", "begin taxa; title one; dimensions ntax=4; taxlabels a b c d; "
                  "end;\nbegin taxa; title two; dimensions ntax=4; taxlabels w x y z; end;\n"), ["(a,b,(c,d));"],
            id="LINK",
        ),
        pytest.param(
            block(f"translate 1 A, 2 B, 3 C;\n{ONE}", "begin taxa; dimensions ntax=4; taxlabels A B C D; end;\n"),
            ["(A,B,(C,D));"], id="TRANSLATE of some taxa",
        ),
        pytest.param(
            block(f"translate 1 O'Brien, 2 b, 3 c, 4 d;\n{ONE}"), ["('O''Brien',b,(c,d));"],
            id="an apostrophe in TRANSLATE",
        ),
        pytest.param(LOG, ["((a:1.0,b:1.0):1.0,c:2.0);", "((a:1.0,c:1.0):1.0,b:2.0);"], id="a log of RevBayes"),
        pytest.param(
            block("tree t=[&U](a,b,c);", 'begin characters; dimensions nchar=2; format datatype=standard symbols=" 0 1 '
                  '2 "; matrix a 01 b 02 c 12; end;\n'), ["(a,b,c);"], id="a quote behind =",
        ),
        pytest.param(
            block("tree t=[&U](a,b,c);", "begin notes; text taxon=1 text='don''t; see (x)'; end;\n"), ["(a,b,c);"],
            id="a semicolon in a note",
        ),
    ],
)  # fmt: skip
def test_trees(tmp_path, text, newick):
    path = tmp_path / "small"
    path.write_text(text)
    trees = read_trees(path)
    assert trees.to_newick() == newick
    assert trees.weights is None


def test_iterations_are_no_weights(tmp_path):
    path = tmp_path / "small"
    path.write_text("".join(f"{k}\t((a:1.0,b:1.0):1.0,c:2.0);\n" for k in (0, 10, 20)))
    with pytest.raises(ValueError, match="rise like the iterations of a sampler, which are no weights"):
        read_trees(path)
    assert len(read_trees(path, weights=False)) == 3
