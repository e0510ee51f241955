"""Texts with some changes, to read as files of trees and alignments."""

import bz2
import gzip
import lzma

from tests.phylo import test_alignment, test_nexus, test_nexus_alignment, test_reading

TEXTS = [
    test_nexus.MRBAYES,
    test_nexus.BEAST,
    test_nexus.PAUP,
    test_nexus.nexus("(1,2,(3,4))", *test_nexus.TWO, translate="link taxa=one; translate 1 O'Brien, 2 'b''c';"),
    test_reading.GOOD * 3,
    test_reading.LOG,
    "[&R] [&W 1/3] (('a b':1e-3,\"c\":.5):1,d:2);\n0.5\t((d,'a b'),c);",
    "5 (a,b,c);\n3 (a,b,c);\n2 (a,b,c);",
    test_alignment.FASTA,
    test_alignment.PHYLIP,
    test_alignment.INTERLEAVED,
    test_alignment.WRAPPED,
    test_alignment.NEXUS,
    test_alignment.STRICT,
    test_alignment.STRICT_IN_TURN,
    test_alignment.CLUSTAL,
    test_alignment.STOCKHOLM,
    test_nexus_alignment.nexus(
        "{AG}CGTAC/A(CT)GAAC/xC.TA-",
        'datatype=mixed(dna:1-4,standard:5-6) gap=- missing=? matchchar=. nolabels equate="x=A y={CT}"',
        before=test_nexus_alignment.TAXA + test_nexus_alignment.OTHER,
        after="title m; link taxa=t; eliminate 1-2\\2;",
        more=test_nexus_alignment.nexus("a GG/b GA/c GT", "interleave", size=2),
    ),
]
PIECES = [
    *(character.encode() for character in "()[]{},;:='\"\\/*-+~.?#&>\n\r\t 0é\u2028\ufeff\U0001f600АᏟ"),
    *(b"\0", b"\xff", b"\xe9", b"\x80", b"[[[[[[[[", b"''", b"begin data;", b"begin trees;", b"end;", b"matrix"),
    *(b"99999999999", b"-1", b"1e999", b"nan", b"ntax=", b"nchar=0", b"interleave", b"[&W 1]", b"[&R]", b"translate"),
    *(b"#NEXUS", b"eliminate 1-.;", b"equate=\"x=A\"", b"datatype=protein", b"(a,b,c);", b"link taxa=x;", b"taxlabels"),
]  # fmt: skip
COMPRESSORS = (gzip.compress, bz2.compress, lzma.compress)


def broken(rng, texts=TEXTS):
    """A text with some changes, sometimes compressed and then changed again."""
    content = rng.choice(texts).encode(rng.choice(["utf-8"] * 6 + ["utf-16", "latin-1"]), "replace")
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        content = changed(content, rng)
    if rng.random() < 0.1:
        content = rng.choice(COMPRESSORS)(content)
        if rng.random() < 0.7:
            content = changed(content, rng)
    return content


def changed(content, rng):
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    last = rng.choice([last, min(first + 1, last), min(first + 4, last)])
    kind = rng.randrange(6)
    if kind == 0:
        return content[:first] + content[last:]
    if kind == 1:
        return content[:first] + rng.choice(PIECES) + content[last if rng.random() < 0.5 else first :]
    if kind == 2:
        return content[:last] + content[first:]
    if kind == 3:
        other = rng.choice(TEXTS).encode()
        return content[:first] + other[rng.randrange(len(other)) :]
    if kind == 4 and content:
        at = min(first, len(content) - 1)
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    return content[:first]
