"""Alignments in NEXUS: declared formats are honoured, other blocks passed over, and errors name taxon and column."""

import pytest

from pyro_ext.phylo import Alignment, read_alignment


def nexus(rows, declared="datatype=dna gap=- missing=?", *, size=6, before="", dimensions="", after="", more=""):
    """A file with one block of characters; rows are separated by slashes."""
    matrix = rows.replace("/", "\n")
    return (
        f"#NEXUS\n{before}\nbegin characters; dimensions nchar={size} {dimensions}; format {declared}; {after}\n"
        f"matrix\n{matrix}\n;\nend;\n{more}"
    )


ROWS = "a ACGTAC/b ACGAAC/c ACTTA-"
PLAIN = {"a": "ACGTAC", "b": "ACGAAC", "c": "ACTTA-"}
TAXA = "begin taxa; title t; dimensions ntax=3; taxlabels a b c; end;"
OTHER = "begin taxa; title other; dimensions ntax=3; taxlabels x y z; end;"


def sequences(*rows, names="abc"):
    return dict(zip(names, rows, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (nexus(ROWS), PLAIN),
        (nexus(ROWS, ""), PLAIN),
        (nexus("a ACGUAC/b ACGAAC/c ACUUA-", "datatype=rna"), PLAIN),
        (nexus("a ACGUAC/b ACGAAC/c ACUUA-"), PLAIN),
        (nexus("a acgtac/b acgaac/c actta-", "DATATYPE = Nucleotide  GAP = -"), PLAIN),
        (nexus("a A~GTAC/b ACG.AC/c ACTTA~", "datatype=dna gap=~ missing=."), sequences("A-GTAC", "ACGNAC", "ACTTA-")),
        (nexus("a A_GTAC/b ACG*AC/c ACTTA_", "gap='_' missing=\"*\""), sequences("A-GTAC", "ACGNAC", "ACTTA-")),
        (nexus("a ACGTAC/b ...A../c ..T..-", "datatype=dna matchchar=."), PLAIN),
        (nexus('a xCGTAC/b AyGAAC/c ACTTA-', 'gap=- equate="x=A y=C"'), PLAIN),
        (nexus("a xCYTAC/b yCGAAC/c ACTTA-", 'equate="x={AG}, y=(A G T)"'), sequences("RCYTAC", "DCGAAC", "ACTTA-")),
        (nexus("a aCGTAC/b ACGAAC/c ACTTA-", 'equate="a=?"'), sequences("NCGTAC", "ACGAAC", "ACTTA-")),
        (nexus("a xyGTAC/b ACGAAC/c ACTTA-", 'equate="x=A" equate="y=x"'), sequences("AAGTAC", "ACGAAC", "ACTTA-")),
        (nexus("a {AG}CGTAC/b A(CT)GAAC/c ACTT{A, C,g}-"), sequences("RCGTAC", "AYGAAC", "ACTTV-")),
        (nexus("a {AG}CGTA{A-}/b A{C T}GAAC/c ACTT{AU}-"), sequences("RCGTAN", "AYGAAC", "ACTTW-")),
        (nexus(ROWS, after="eliminate 1-3;"), sequences("TAC", "AAC", "TA-")),
        (nexus(ROWS, after="eliminate 1 3, 5-.;"), sequences("CT", "CA", "CT")),
        (nexus(ROWS, after=r"eliminate 1-.\2 ;"), sequences("CTC", "CAC", "CT-")),
        (nexus("a ACG/a TAC/b ACG/b AAC/c ACT/c TA-", "interleave"), PLAIN),
        (nexus("a ACG/b ACG/c ACT//a TAC/b AA C/c TA-", "interleave=yes"), PLAIN),
        (nexus("a ACG/TAC/b/AC G/AAC/c ACTTA-", "interleave=no"), PLAIN),
        (nexus("a ACGTAC b ACGAAC c ACTTA-"), PLAIN),
        (nexus("ACGTAC/ACGAAC/ACTTA-", "nolabels", before=TAXA), PLAIN),
        (nexus("ACG/TACACG/AACACTTA-", "nolabels", before=TAXA, size=3).replace("nchar=3", "nchar=6"), None),
        (nexus("ACG/ACG/ACT//TAC/AAC/TA-", "labels=no interleave", before=TAXA), PLAIN),
        (nexus("ACGTAC/ACGAAC/ACTTA-", "nolabels", after="taxlabels a b c;", dimensions="ntax=3"), PLAIN),
        (nexus("ACGTAC/ACGAAC/ACTTA-", "nolabels", before=OTHER + TAXA, after="link taxa = T;"), PLAIN),
        (nexus(ROWS, before=OTHER + TAXA, after="link taxa=t;"), PLAIN),
        (nexus("'a b' ACGTAC/O'Neil ACGAAC/'c''s' ACTTA-"), sequences(*PLAIN.values(), names=("a b", "O'Neil", "c's"))),
        (nexus("a-1 ACGTAC/a+2 ACGAAC/b=c:d* ACTTA-"), sequences(*PLAIN.values(), names=("a-1", "a+2", "b=c:d*"))),
        (nexus("A_B ACGTAC/c ACGAAC", before="begin taxa; taxlabels 'a b' C; end;"), {"a b": "ACGTAC", "C": "ACGAAC"}),
        (nexus("[1] a ACG[3]TAC/[2] b [x; y] ACGAAC/c ACTTA-[it's]"), PLAIN),
        (nexus(ROWS, after="blockid z; charlabels 'it''s' b c; statelabels 1 x, 2 y; options gapmode=missing;"), PLAIN),
        (nexus(ROWS, before="begin taxa; title x; dimensions ntax=3; taxlabels a b c; blockid W; end;"), PLAIN),
        (nexus(ROWS, more="begin sets; charset last = 4-.; charset x = 1-3\\2; end;"), PLAIN),
        (nexus(ROWS, more="begin notes; text taxon=1 text='begin data; matrix (';end; begin trees;"), PLAIN),
        (nexus(ROWS, more="begin paup; set x='; end;"), PLAIN),
        (nexus(ROWS).replace("begin", "begin[x] "), PLAIN),
        (nexus(ROWS, more=nexus("c GG/a GA/b GT", size=2)), sequences("ACGTACGA", "ACGAACGT", "ACTTA-GG")),
        (nexus(ROWS, more=nexus("a 01/b 10", "datatype=standard symbols=\" 0 1 \"", size=2)), PLAIN),
        (nexus("a 01/b 10", "datatype=standard", size=2) + nexus(ROWS), PLAIN),
        (nexus("a 0.1 2/b 3 4", "datatype=continuous items=(MIN MAX)", size=2) + nexus(ROWS), PLAIN),
        (nexus("a 01ACGT/b 1?ACGA/c (01)0ACT-", "datatype=mixed(Standard:1-2,DNA:3-6)"),
         sequences("ACGT", "ACGA", "ACT-")),
        (nexus("a 0A1CG T/b 1A?CGA/c {01}A0CT-", "datatype = mixed (dna: 2 4-6, restriction:1-3\\2)"),
         sequences("ACGT", "ACGA", "ACT-")),
        (nexus("a ACGTLV/b ACGAII/c ACTTA-", "datatype=mixed(dna:1-4,protein:5-6)", after="eliminate 1;"),
         sequences("CGT", "CGA", "CTT")),
    ],
)  # fmt: skip
def test_declared_formats(tmp_path, text, expected):
    path = tmp_path / "x.nex"
    path.write_text(text)
    if expected is None:
        with pytest.raises(ValueError, match="has 9 characters, but NCHAR is 6; if the sequences stand in blocks"):
            read_alignment(path)
        return
    result = read_alignment(path, compress=False)
    assert result.taxa == tuple(sorted(expected))
    assert (result.patterns == Alignment.from_sequences(expected, compress=False).patterns).all()


def test_comments_may_be_in_any_encoding(tmp_path):
    path = tmp_path / "x.nex"
    path.write_bytes(nexus(ROWS).encode().replace(b"#NEXUS", b"#NEXUS\n[Ort\xed 2008; it's [nested\xff]]"))
    assert read_alignment(path).taxa == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#NEXUS\n", "there are no sequences: expected a block 'begin data;'"),
        ("#NEXUS begin trees; tree t = (a,b,c); end;", "there are no sequences: expected a block 'begin data;'"),
        (nexus(ROWS)[: nexus(ROWS).index("c ACT") + 5], "line 3: the file is truncated: the last statement"),
        (nexus(ROWS, "datatype=protein"), "line 3: there is no DNA in this file: its blocks .* hold protein"),
        (nexus(ROWS, "datatype=standard"), "its blocks of characters hold standard"),
        (nexus(ROWS, "datatype=mixed(standard:1-6)"), "there is no DNA in this file"),
        (nexus("a ACGTAC/b ACEAAC"), "taxon 'b' has 'E' in column 3, which is no nucleotide"),
        (nexus("a ACGTAC/b ACEAAC", after="eliminate 1-2;"), "taxon 'b' has 'E' in column 3, which is no nucleotide"),
        (nexus("a ACGTAC/b AC\u0410AAC"), "taxon 'b' has '\u0410' in column 3"),
        (nexus("a ACGTAC/b AC\u00a0AAC"), r"taxon 'b' has '\\xa0' in column 3"),
        (nexus("a ACGTAC/b AC{AE}AAC"), "taxon 'b' has a set of states in column 3, which is no nucleotide"),
        (nexus("a ACGTAC/b AC{}AAC"), "taxon 'b' has a set of states in column 3"),
        (nexus("a ACGTAC/b AC{AAC"), "taxon 'b' has '{' without its counterpart"),
        (nexus("a A.GTAC/b ACGAAC", "matchchar=."), "taxon 'a' has '.' in column 2"),
        (nexus("a ACGTAC/b ACGAA"), "the sequence of 'b' has 5 characters, but NCHAR is 6; if the sequences stand in"),
        (nexus("a ACGTACG/b ACGAACG"), "the sequence of 'a' has 7 characters, but NCHAR is 6"),
        (nexus("a ACG/b ACG/a TAC/b AAC"), "the sequence of 'a' has 7 characters, but NCHAR is 6; .* say INTERLEAVE"),
        (nexus("a ACG/b ACG/a TAC/b AA", "interleave"), "the sequence of 'b' has 5 characters, but NCHAR is 6$"),
        (nexus("a ACGTAC/a ACGAAC"), "taxon 'a' comes twice in the block of characters"),
        (nexus(ROWS, dimensions="ntax=4"), "the block of characters has 3 sequences, but NTAX is 4"),
        (nexus("a ACGTAC/b ACGAAC", before=TAXA), "has 2 sequences, but NTAX is 3"),
        (nexus("a ACGTAC/b ACGAAC/d ACGAAC", before=TAXA), "taxon 'd' in the block .* is not among the TAXLABELS"),
        (nexus(ROWS, before=TAXA.replace("b c", "b")), "line 2: TAXLABELS has 2 names, but NTAX is 3"),
        (nexus(ROWS, size="x"), "NCHAR=x is no number"),
        (nexus(ROWS, size=10**11), "NCHAR is 100000000000, but the block of characters has less text than that"),
        (nexus(ROWS, size=0), "has no characters left: NCHAR is 0"),
        (nexus(ROWS).replace("nchar=6", ""), "has no NCHAR before its MATRIX: write 'dimensions nchar=...;'"),
        (nexus(ROWS, after="eliminate 1-6;"), "has no characters left"),
        (nexus(ROWS, after="eliminate all;"), "has no characters left"),
        (nexus(ROWS, after="eliminate 5-7;"), "'5-7' are not among the characters 1 to 6"),
        (nexus(ROWS, after="eliminate 0;"), "'0' are not among the characters 1 to 6"),
        (nexus(ROWS, after="eliminate third;"), "'third' is no set of characters such as"),
        (nexus(ROWS, "gap=-- missing=?"), "FORMAT GAP=-- is not one character"),
        (nexus(ROWS, 'equate="x"'), "EQUATE='x' is not understood"),
        (nexus(ROWS, 'equate="x=E"'), "EQUATE='x=E' is not understood"),
        (nexus(ROWS, "datatype=dna ?"), "'[?]' stands where a word such as 'datatype=dna' is expected"),
        (nexus(ROWS, "transpose"), "FORMAT TRANSPOSE is not read"),
        (nexus(ROWS, "labels=right"), "FORMAT LABELS=RIGHT is not read"),
        (nexus("ACGTAC/ACGAAC", "nolabels"), "FORMAT NOLABELS needs the names of the taxa: write TAXLABELS$"),
        (nexus("ACGTAC/ACGAAC", "nolabels", before=TAXA + OTHER), "write TAXLABELS, and 'link taxa = TITLE;' where"),
        (nexus("ACGTAC/" * 4, "nolabels", before=TAXA), r"the block of characters has more sequences than taxa \(3\)"),
        (nexus(ROWS, before=TAXA, after="link taxa=u;"), "there is no TAXA block with the title 'u'"),
        (nexus(ROWS, more=nexus("a GG/b GA", size=2, after="title 'm n';")), "characters 'm n' has other taxa"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.nex"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_alignment(path)
    assert str(error.value).startswith(f"{path}, line ")


def test_names_that_are_no_utf8(tmp_path):
    path = tmp_path / "bad.nex"
    for text in (nexus(ROWS).replace("\na ", "\n\u00e9 "), nexus(ROWS, before=TAXA.replace("a b", "\u00e9 b"))):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match="convert the file") as error:
            read_alignment(path)
        assert str(error.value).startswith(str(path))
