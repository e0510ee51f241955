"""NEXUS blocks of trees: MrBayes, BEAST and PAUP in their own spellings, and what is wrong with others."""

import pytest

from pyro_ext.phylo import iter_trees, parse_trees, read_trees

MRBAYES = """#NEXUS

[ID: 0175083362]
[This file contains the trees that weren't found
"p" indicates; the posterior probability]

begin trees;
   translate
    1 Alligator,
    2 Bufo,
    3 'Homo sapiens',
    4 O_x;
   tree tree_1 [p = 0.7, P = 0.7] = [&W 0.700000] (2,(4,3),1);
   tree tree_2 [p = 0.3, P = 1.0] = [&W 0.300000] (4,(2,3),1);
end;
"""

BEAST = """#NEXUS

Begin taxa;
\tDimensions ntax=3;
\tTaxlabels
\t\tA/New_York/1/2000
\t\t'B''s'
\t\tC-3
\t\t;
End;
Begin trees;
\tTranslate
\t\t1 A/New_York/1/2000,
\t\t2 'B''s',
\t\t3 C-3
\t\t;
tree STATE_0 [&lnP=-1.5,joint=-2] = [&R] ((1[&rate=0.1]:1.0,2[&rate=1E-2,x={1,2}]:[&rate=2]1.0)[&b=3]:2.5,3:3.5)[&a=1];
tree STATE_100 [&lnP=-1.5] = [&R] ((1:1,3:1):0.5,2:1.5):0.0;
End;
"""

PAUP = """#nexus
BEGIN DATA;
  DIMENSIONS ntax=4 nchar=4;
  FORMAT datatype=dna missing=? gap=-;
  MATRIX
    a ACGT
    b (AC)CGT
    c ACGT
    d ACGT ;
END;
BEGIN TREES;
  Title 'a title; with (trees)';
  [comments between]
  utree PAUP_1 = [&U] [&W 1/3] (a,b,(c,d));
  TREE * 'best; tree' = [&U][&W 2/3](a,(b,c),d);
ENDBLOCK;
begin trees;
  translate x a, y b, z c, w d,;
  tree third=[&U][&W 1](x,w,(y,z));
end;
"""


def test_mrbayes():
    trees = parse_trees(MRBAYES)
    assert trees.taxa == ("Alligator", "Bufo", "Homo sapiens", "O_x")
    assert not trees.rooted
    assert trees.weights.tolist() == [0.7, 0.3]
    assert trees.to_newick() == ["(Alligator,Bufo,('Homo sapiens',O_x));", "(Alligator,(Bufo,'Homo sapiens'),O_x);"]


def test_beast():
    trees = parse_trees(BEAST)
    assert trees.taxa == ("A/New_York/1/2000", "B's", "C-3")
    assert trees.rooted
    assert trees.weights is None
    assert trees.to_newick() == [
        "((A/New_York/1/2000:1.0,'B''s':1.0):2.5,C-3:3.5);",
        "((A/New_York/1/2000:1.0,C-3:1.0):0.5,'B''s':1.5);",
    ]


def test_paup_and_several_blocks():
    trees = parse_trees(PAUP)
    assert trees.to_newick() == ["(a,b,(c,d));", "(a,(b,c),d);", "(a,(b,c),d);"]
    assert trees.weights.tolist() == [1 / 3, 2 / 3, 1.0]


def test_numbers_of_taxlabels_stand_for_them():
    text = (
        "#NEXUS begin taxa; taxlabels q [two] 'r s' t; end; begin trees; tree a = (1,2,3); tree b = (q,'r s',3); end;"
    )
    trees = parse_trees(text)
    assert trees.taxa == ("q", "r s", "t")
    assert len(trees.unique()) == 1


def nexus(tree, *blocks, translate=""):
    blocks = "".join(f"begin {block} end;\n" for block in blocks)
    return f"#NEXUS\n{blocks}begin trees; {translate} tree t = [&U] {tree}; end;"


TWO = ("taxa; title one; taxlabels a b c d;", "taxa; title 'number two'; taxlabels w x y z;")


@pytest.mark.parametrize(
    ("text", "newick"),
    [
        (nexus("(1,2,(3,4))", "taxa; dimensions ntax=4; taxlabels A O'Neil C D'Arcy;"), "(A,(C,'D''Arcy'),'O''Neil');"),
        (nexus("(1,2,(3,4))", "taxa; taxlabels swine-1 'a b' c=d \"e f\";"), "('a b',('c=d','e f'),swine-1);"),
        (nexus("(1,2,(3,4))", *TWO, translate="link taxa = one;"), "(a,b,(c,d));"),
        (nexus("(1,2,(3,4))", *TWO, translate="Title x; LINK characters=m Taxa='Number_Two';"), "(w,x,(y,z));"),
        (nexus("(b,a,(c,d))", *TWO), "(a,b,(c,d));"),
        (nexus("(1,2,(3,4))", *TWO, translate="translate 1 p, 2 q, 3 r, 4 s;"), "(p,q,(r,s));"),
        (nexus("(1,2,(3,4))", TWO[0], TWO[0]), "(a,b,(c,d));"),
        (nexus("(1,2,(3,4))", "data; dimensions ntax=4; taxlabels a b c d;"), "(a,b,(c,d));"),
        (nexus("(1,2,(3,4))", TWO[0], translate="translate 1 A, 2 B, 3 C;"), "(A,B,(C,d));"),
        (nexus("(1,2,(3,4))", translate="translate 1 O'Brien, 2 b, 3 'c''s', 4 d;"), "('O''Brien',b,('c''s',d));"),
        (nexus("(2,1,(3,4))", "taxa; taxlabels 4 3 2 1;"), "(1,2,(3,4));"),
        (nexus("(a,b,c)", 'characters; format symbols=" 0 1 2 "; matrix a 01 b 02 c 12;'), "(a,b,c);"),
        (nexus("(a,b,c)", 'characters; format missing=";"symbols="(;" equate="x=\'";'), "(a,b,c);"),
        (nexus("(a,b,c)", "notes; text taxon=1 text='don''t; see (x)';"), "(a,b,c);"),
        (nexus("(a,b,c)", "notes; text taxon=1 text= 'end; begin trees; tree x = (1,2,3);';"), "(a,b,c);"),
        (nexus("(a,b,c)").replace("tree t", "tree *'t; (1)'"), "(a,b,c);"),
        ("(a='b,c,d'e);", "('a=''b',c,'d''e');"),
    ],
)
def test_labels(text, newick):
    assert parse_trees(text).to_newick() == [newick]


def test_comments_anywhere_and_deep():
    text = MRBAYES.replace("begin trees;", "begin [here [come [some [very; deep]] ones]] trees;")
    text = text.replace("[&W 0.700000]", "[a [b [c [d; ']]]] [&W 0.7]")
    assert parse_trees(text).to_newick() == parse_trees(MRBAYES).to_newick()


def test_names_beside_a_translation():
    trees = parse_trees(MRBAYES.replace("(2,(4,3),1)", "(Bufo,('O_x','Homo sapiens'),1)"))
    assert (trees.parents == parse_trees(MRBAYES).parents).all()


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_the_length_of_pieces_does_not_matter(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("pyro_ext.phylo.reading._CHUNK_BYTES", piece)
    for text in (MRBAYES, BEAST, PAUP, MRBAYES.replace("[ID:", "[it's; [more; [and more;]] 'so")):
        path = tmp_path / "some.nex"
        path.write_text(text)
        assert read_trees(path).to_newick() == parse_trees(text).to_newick()


def test_an_unfinished_block_may_be_allowed(tmp_path):
    path = tmp_path / "running.t"
    path.write_text(MRBAYES.replace("end;", "   tree tree_3 = [&W 0.1] (4,(2"))
    with pytest.raises(ValueError, match=r"line 15: what begins with 'tree tree_3 = .* has no ';'.* truncated"):
        read_trees(path)
    assert len(read_trees(path, allow_truncated=True)) == 2
    path.write_text(MRBAYES.replace("end;", ""))
    with pytest.raises(ValueError, match="line 14: the block of trees has no 'end;'"):
        read_trees(path)
    assert [len(trees) for trees in iter_trees(path, allow_truncated=True)] == [2]


def edited(old, new, text=MRBAYES):
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#NEXUS\n", "begins with '#NEXUS' has no ';'"),
        ("#NEXUS begin trees; end;", "there are no trees in this file"),
        (edited("begin trees;", "begin forest;"), "there are no trees in this file"),
        (MRBAYES[:180], "line 8: what begins with 'translate.* has no ';' at its end: the file is truncated"),
        (edited("4 O_x;", "4 O_x"), "line 11: 'translate' is not a list"),
        (edited("2 Bufo", "1 Bufo"), "line 10: 'translate' has label '1' twice"),
        (edited("2 Bufo", "2 Alligator"), "line 8: 'translate' gives taxon 'Alligator' two labels"),
        (edited("(4,(2,3),1)", "(4,(2,5),1)"), r"line 14, tree 2 \(tree_2\): unknown taxon '5'"),
        (edited("(4,(2,3),1)", "(4,(2,2),1)"), r"line 14, tree 2 \(tree_2\): taxon 'Bufo' comes twice"),
        (edited("(4,(2,3),1)", "(4,2,1)"), r"line 14, tree 2 \(tree_2\): taxon 'Homo sapiens' is missing"),
        (edited("(4,(2,3),1)", "(4,2,3,1)"), r"line 14, tree 2 \(tree_2\): not a binary tree"),
        (edited("(4,(2,3),1)", "(4,(2,3,1)"), r"line 14, tree 2 \(tree_2\): unbalanced parentheses"),
        (edited("[&W 0.300000]", "[&W -1]"), r"line 14, tree 2 \(tree_2\): weight -1 is negative"),
        (edited("tree tree_2", "tre tree_2"), "line 14: 'tre' stands where 'tree NAME = "),
        (edited("tree_2 [p = 0.3, P = 1.0] =", "tree_2"), "line 14, tree 2 .*: 'tree tree_2' before the tree"),
        (edited("end;", "begin trees;"), "line 15: a block begins within a block of trees"),
        (nexus("(1,2,3)", "taxa; dimensions ntax=4; taxlabels a b c;"), "TAXLABELS has 3 names, but NTAX is 4"),
        (nexus("(1,2,3)", "taxa; dimensions ntax=x; taxlabels a b c;"), "line 2: NTAX=x is no number"),
        (nexus("(1,2,3)", "taxa; dimensions ?; taxlabels a b c;"), "'[?]' stands where a word such as"),
        (nexus("(1,2,3)", "taxa; taxlabels a b a;"), "line 2: TAXLABELS has taxon 'a' twice"),
        (nexus("(1,2,3)", *TWO), "line 4: taxon 1 is a number, and there are several blocks of taxa: write 'link taxa"),
        (nexus("(1,2,3)", *TWO, translate="link taxa=three;"), "line 4: there is no TAXA block with the title 'three'"),
        (MRBAYES + "tree late = (1,2,3,4);", "line 16: a tree stands outside of all blocks"),
    ],
)
def test_bad_input(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_trees(text)
    assert str(error.value).startswith("<text>")
