"""Newick against a slow parser, tree by tree, in every spelling; and what is no tree."""

import random

import numpy as np
import pytest
import torch

from pyro_ext.phylo import TreeSet, parse_trees, random_trees
from pyro_ext.phylo._labels import LabelTable
from pyro_ext.phylo._lexer import Chunk, tokenize
from pyro_ext.phylo._parser import parse
from tests.phylo import naive

NAMES = ("Homo_sapiens", "Mus musculus", "O'Brien", "a", "b", "c", "d", "e.1", "f-2", "gorilla gorilla [1]; (x, y:z)")


def trees_of(n, rooted, lengths, seed=0, count=40):
    generator = torch.Generator().manual_seed(seed)
    parents = random_trees(n, count, rooted=rooted, generator=generator)
    own = torch.rand(count, parents.shape[1] - 1, dtype=torch.float64, generator=generator) if lengths else None
    return TreeSet(tuple(sorted(NAMES[:n])), parents, rooted, branch_lengths=own)


def same(result, expected):
    assert result.taxa == expected.taxa
    assert result.rooted == expected.rooted
    assert (result.parents == expected.parents).all()
    if expected.branch_lengths is None:
        assert result.branch_lengths is None
    else:
        assert (result.branch_lengths == expected.branch_lengths).all()


def turned(text, rng):
    """The same tree with children in any order and, if it has three subtrees at the top, any of them there."""
    own, length = naive.parse(text) if isinstance(text, str) else text
    if isinstance(own, str):
        return own, length
    children = [turned(child, rng) for child in own]
    rng.shuffle(children)
    return children, length


def written(tree, space=lambda: ""):
    own, length = tree
    if isinstance(own, str):
        text = "'" + own.replace("'", "''") + "'"
    else:
        text = "(" + (space() + ",").join(space() + written(child, space) for child in own) + space() + ")"
    return text + ("" if length is None else f"{space()}:{space()}{length!r}")


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("rooted", [False, True])
@pytest.mark.parametrize("n", [2, 3, 4, 7, 10])
def test_what_is_written_is_read(n, rooted, lengths):
    trees = trees_of(n, rooted, lengths)
    same(parse_trees("\n".join(trees.to_newick()), rooted=rooted), trees)


@pytest.mark.parametrize("rooted", [False, True])
def test_order_blanks_and_comments_do_not_matter(rooted):
    rng = random.Random(0)
    trees = trees_of(10, rooted, True)

    def space():
        return rng.choice(
            ["", "", " ", "\n", "\t ", "[a (comment), it's; one]", "[&rate=0.1,x={1,2}]", "[a [nested] one]"]
        )

    text = ";\n".join(written(turned(line, rng), space) for line in trees.to_newick()) + ";"
    same(parse_trees(text, rooted=rooted), trees)


def test_topologies_and_lengths_against_the_slow_parser():
    for rooted in (False, True):
        trees = trees_of(10, rooted, True, seed=1)
        result = parse_trees("\n".join(trees.to_newick()))
        for t, line in enumerate(trees.to_newick()):
            expected = naive.edges(naive.parse(line), rooted)
            ours = naive.edges_of(result.taxa, result.parents[t].tolist(), result.branch_lengths[t].tolist(), rooted)
            assert ours == expected


@pytest.mark.parametrize(
    ("text", "newick"),
    [
        ("((a,b),(c,d));", "(a,b,(c,d));"),
        ("((a,b)90,(c,d)'in ner'[x])root;", "(a,b,(c,d));"),
        ("(a,b,(c,d)):0;", "(a,b,(c,d));"),
        ("  ( a , b,\r\n( c,d ) ) ;\n\n", "(a,b,(c,d));"),
        ("\ufeff(a,b,(c,d));", "(a,b,(c,d));"),
        ('("a b",b,(c,d));', "('a b',b,(c,d));"),
        ("((a:1,b:2):3,(c:4,d:5):6):9;", "(a:1.0,b:2.0,(c:4.0,d:5.0):9.0);"),
        ("(a:1e-3,b:+2.5E+2,(c:.5,d:-1.):0);", "(a:0.001,b:250.0,(c:0.5,d:-1.0):0.0);"),
        ("((((((a,b),c),d),e),f),g);", "(a,b,(c,(d,(e,(f,g)))));"),
        ("(é,b,(日本,d));", "(b,(d,日本),é);"),
        ("(a:1,b:2);", "(a:0.0,b:3.0);"),
        ("[x [y [z [it's]]]] (a[x [y [z]]],'b b',(c,d));", "(a,'b b',(c,d));"),
    ],
)
def test_spellings(text, newick):
    assert parse_trees(text, rooted=False).to_newick() == [newick]


def test_deep_trees():
    """More levels than fit into a byte, or into Python's stack."""
    n = 1500
    names = [f"t{k:04d}" for k in range(n)]
    text = "(" * (n - 1) + names[0] + "".join(f",{name})" for name in names[1:]) + ";"
    trees = parse_trees(text)
    assert trees.rooted
    assert trees.parents[0, :3].tolist() == [2 * n - 2, 2 * n - 2, 2 * n - 3]
    assert trees.to_newick() == [text]


def test_more_levels_than_two_bytes_count():
    n = 66_000
    names = [f"t{k:05d}" for k in range(n)]
    text = "(" * (n - 1) + names[0] + "".join(f",{name})" for name in names[1:]) + ";"
    chunk = Chunk(text.encode())
    tokens = tokenize(chunk, *chunk.bodies(np.array([0])))
    parents = parse(tokens, tuple(names), LabelTable(names), False).parents[0]
    assert parents[:n].tolist() == [2 * n - 2, 2 * n - 2, *range(2 * n - 3, n - 1, -1)]


def test_weights_and_rooting_before_trees():
    result = parse_trees("[&R] [&W 1/4] ((a,b),c); [&w 0.5][&r] (a,(b,c));")
    assert result.rooted
    assert result.weights.tolist() == [0.25, 0.5]
    result = parse_trees("0.75\t((a,b),(c,d));\n0.25 (a,(b,(c,d)));", rooted=False)
    assert result.weights.tolist() == [0.75, 0.25]
    assert parse_trees("[&U] ((a,b),(c,d));").rooted is False
    assert parse_trees("((a,b),(c,d));").rooted is True
    assert parse_trees("(a,b,(c,d));").rooted is False
    assert parse_trees("[&R] ((a,b),(c,d));", rooted=False).rooted is False


def test_taxa_may_be_given():
    assert parse_trees("(a,b,(c,d));", taxa=["d", "c", "b", "a"]).taxa == tuple("abcd")
    with pytest.raises(ValueError, match="line 1, tree 1: taxon 'e' is missing: all trees must have the same 5 taxa"):
        parse_trees("(a,b,(c,d));", taxa="abcde")
    with pytest.raises(ValueError, match="taxa holds a name twice: a, a, b"):
        parse_trees("(a,b,c);", taxa="aab")


GOOD = "(a,b,(c,d));\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (" \n ", "the file is empty"),
        ("[nothing]", "no trees in this file"),
        (">a\nACGT", "line 1: what begins with '>a\\\\nACGT' has no ';' at its end: the file is truncated or holds no"),
        (GOOD + "(a,b,(c,", r"line 2: what begins with '\(a,b,\(c,' has no ';' at its end: the file is truncated"),
        (GOOD + "(a,b,(c,d))", "line 2: .* has no ';'"),
        (GOOD + "[unfinished", "line 2: .* has no ';'"),
        (GOOD + "('a,b,(c,d));", "line 2: .* has no ';'"),
        (GOOD + ";", "line 2, tree 2: there is no tree before the ';'"),
        (GOOD * 3 + "\n(a,b,((c,d));", r"line 5, tree 4: unbalanced parentheses, 1 '\(' without its '\)'"),
        ("(a,b,(c,d)));", r"line 1, tree 1: unbalanced parentheses, a '\)' without its '\('"),
        ("(a,b),(c,d);", r"unbalanced parentheses, a '\)' without its '\('"),
        ("(a,b)(c,d);", r"'\(' right after '\)'"),
        ("(a,b,(c,d)) (c,d);", r"'\(' right after '\)'"),
        ("(a,,(c,d));", "',' right after ',': a taxon's name is missing"),
        ("(a,b,());", r"'\)' right after '\(': a taxon's name is missing"),
        ("(a,b,x(c,d));", r"'x' between ',' and '\('"),
        ("(a,b,(c,d:));", r"'\)' right after ':': a branch length is missing"),
        ("(a,b,(c,d;", "'d' between ',' and ';': the tree breaks off"),
        (GOOD + "(a,b,\n(c,x));", "line 3, tree 2: unknown taxon 'x': all trees must have the same 4 taxa"),
        (GOOD + "(a,b,c);", "line 2, tree 2: taxon 'd' is missing"),
        (GOOD + "(a,b,((c,d),e));", "line 2, tree 2: unknown taxon 'e'"),
        (GOOD + "(a,b,(c,c));", "line 2, tree 2: taxon 'c' comes twice"),
        ("(a,b,(c,c));", "line 1, tree 1: taxon 'c' comes twice"),
        (
            GOOD + "(a,b,c,d);",
            "line 2, tree 2: not a binary tree.*resolve multifurcations at random with polytomies='random'",
        ),
        ("((a,b,c),d,e);", "line 1, tree 1: not a binary tree"),
        ("((a,b,c),(d),e);", "line 1, tree 1: not a binary tree"),
        ("((a,b,c),(d,e),f);" * 2, "line 1, tree 1: not a binary tree"),
        ("((a,b),(c,d),e);\n((a,b,c),(d),e);\n((a,b),(c,d),e);", "line 2, tree 2: not a binary tree"),
        ("(((a,b)),c,d);", "not a binary tree"),
        ("(a);", "not a binary tree"),
        ("1 (a b  ,c,d);0.5(a,c,d);", "tree 1: a blank within 'ab'"),
        ("(a,b,(c d,e));", "a blank within 'cd': put names with blanks in quotes"),
        ("(a:1,b:x,(c:1,d:1):1);", "branch length 'x' is no finite number"),
        (GOOD.replace("b", "b:1") + GOOD, "tree 1: some branches have lengths and some have not"),
        ("(a:1,b:1.2.3,c:1);", "branch length '1.2.3' is no finite number"),
        ("(a:1,b:inf,c:1);", "branch length 'inf' is no finite number"),
        ("(a:1,b:nan,c:1);", "branch length 'nan' is no finite number"),
        ("(a:1,b:1_0,c:1);", "branch length '1_0' is no finite number"),
        ("(a:1,b:1,c:1);(a,b,c);", "tree 2: the tree has no branch lengths but others have"),
        ("(a,b,c);(a:1,b:1,c:1);", "tree 2: the tree has branch lengths but others have none"),
        (GOOD + "((a,b),(c,d));", "tree 2: the tree is rooted but those before are unrooted: pass rooted=False"),
        ("[&R] (a,b,c);", "three subtrees at the top where the tree should be rooted: .* pass rooted=False"),
        (GOOD + "\n[&W -0.5] " + GOOD, "line 3, tree 2: weight -0.5 is negative"),
        ("[&W x] " + GOOD, "weight 'x' is no number"),
        ("[&W 1/0] " + GOOD, "weight '1/0' is no number"),
        ("[&W 0] " + GOOD * 1, "all trees have weight 0"),
        ("[&W 1] " + GOOD + GOOD, "tree 2: the tree has no weight but others have one"),
        (GOOD + "[&W 1] " + GOOD, "tree 2: the tree has a weight but others have none"),
        ("(a,\ud800,c);", r"'\\xed\\xa0\\x80' is no UTF-8: convert the file"),
        ("abc " + GOOD, "tree 1: 'abc' before the tree: expected nothing, or 'tree NAME ='"),
    ],
)
def test_bad_input(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_trees(text)
    assert str(error.value).startswith("<text>")


def test_rooted_needs_two_subtrees():
    with pytest.raises(ValueError, match="tree 2: three subtrees at the top"):
        parse_trees("((a,b),c); (a,b,c);", rooted=True)


def test_names_that_no_file_can_hold():
    trees = TreeSet(("", "b", "c"), torch.tensor([[-1, 3, 3, 0]]))
    with pytest.raises(ValueError, match="a taxon is named ''"):
        trees.to_newick()
