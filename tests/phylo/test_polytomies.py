"""Trees with multifurcations: refused with a remedy, resolved uniformly at random, or left out."""

import logging
import re
from collections import Counter

import pytest
import torch

from pyro_ext.phylo import iter_trees, num_topologies, parse_trees, read_trees, reference_sample


@pytest.mark.parametrize(
    ("text", "options", "ways"),
    [
        ("(a,b,c,d);", {}, num_topologies(4)),
        ("(a,b,c,d,e);", {}, num_topologies(5)),
        ("((a,b,c),d,e);", {}, 3),
        ("(((a,b,c),d),e);", {"rooted": False}, 3),
        ("(a,b,c);", {"rooted": True}, num_topologies(3, rooted=True)),
        ("[&R] (a,b,c,d);", {}, num_topologies(4, rooted=True)),
        ("((a,b,c,d),(e,f));", {}, num_topologies(4, rooted=True)),
        ("((a,b,c),(d,e,f));", {}, 9),
    ],
)
def test_all_ways_are_equally_likely(text, options, ways):
    """Each of the ways comes with its frequency within 4 standard errors."""
    number = 40 * ways + 400
    counts = Counter(parse_trees(text * number, polytomies="resolve", **options).to_newick())
    assert len(counts) == ways
    share = 1 / ways
    error = (share * (1 - share) / number) ** 0.5
    assert all(abs(count / number - share) < 4 * error for count in counts.values())


def test_a_tree_whose_nodes_have_two_subtrees_stays_as_it_is():
    text = "(a:1,(b:2,'c d':3)x:4,(e:5,f:6):7); (a:1,b:2,'c d':3,e:4,f:5);"
    plain, resolved = parse_trees(text.split()[0] + " d':3)x:4,(e:5,f:6):7);"), parse_trees(text, polytomies="resolve")
    assert torch.equal(plain.parents[0], resolved.parents[0])
    assert torch.equal(plain.branch_lengths[0], resolved.branch_lengths[0])


def test_new_branches_have_length_zero_and_the_others_keep_theirs():
    trees = parse_trees("((a:1,b:2,'c d':3):9,(e:5,f:6,g:7,h:8)[&x=1]:0.5);", rooted=True, polytomies="resolve")
    lengths = trees.branch_lengths[0]
    assert sorted(lengths.tolist()) == sorted([1, 2, 3, 0, 9, 5, 6, 7, 8, 0, 0, 0.5])
    above = dict(zip(trees.taxa, lengths[:7].tolist(), strict=True))
    assert above == {"a": 1, "b": 2, "c d": 3, "e": 5, "f": 6, "g": 7, "h": 8}


def clades(newick):
    found, begun, names = set(), [], []
    for word in re.findall(r"[(),;]|[^(),;]+", newick):
        if word == "(":
            begun.append(len(names))
        elif word == ")":
            found.add(frozenset(names[begun.pop() :]))
        elif word not in ",;":
            names.append(word)
    return found


def test_resolved_trees_keep_the_clades_of_the_text():
    text = "(((a,b,c),(d,e,f,g)),(h,i),(j,k,l,m));"
    trees = parse_trees(text * 50, polytomies="resolve", rooted=True).to_newick()
    assert all(clades(text) < clades(newick) for newick in trees)
    assert all(len(clades(newick)) == 12 for newick in trees)


def test_seeds_repeat_and_differ(tmp_path):
    path = tmp_path / "star.nwk"
    path.write_text("(a,b,c,d,e,f,g);\n" * 20)
    first, again, other = (read_trees(path, polytomies="resolve", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.parents, again.parents)
    assert not torch.equal(first.parents, other.parents)
    assert len(first.unique()) > 10


@pytest.mark.parametrize("piece", [8, 40, 2**21])
def test_trees_are_left_out_wherever_pieces_end(tmp_path, monkeypatch, caplog, piece):
    monkeypatch.setattr("pyro_ext.phylo.reading._CHUNK_BYTES", piece)
    path = tmp_path / "some.nwk"
    path.write_text("(a,b,c,d);\n(a,b,(c,d));\n(d,a,c,b);\n((a,c),b,d);\n(a,b,c,d);\n")
    with caplog.at_level(logging.WARNING):
        assert read_trees(path, polytomies="skip").to_newick() == ["(a,b,(c,d));", "(a,(b,d),c);"]
    assert caplog.messages == [f"{path}: 3 of 5 trees have multifurcations and are left out"]
    assert sum(map(len, iter_trees(path, polytomies="skip"))) == 2
    assert reference_sample(path, polytomies="skip").weights.tolist() == [0.5, 0.5]


def test_how_many_are_resolved_is_logged(tmp_path, caplog):
    path = tmp_path / "some.nwk"
    path.write_text("(a,b,c,d);\n(a,b,(c,d));\n")
    with caplog.at_level(logging.WARNING):
        assert len(read_trees(path, polytomies="resolve", seed=5)) == 2
    assert caplog.messages == [f"{path}: 1 of 2 trees have multifurcations and are resolved at random, with seed 5"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("(a,b,(c,d));(a,b,c,d);", {}, "tree 2: not a binary tree.*polytomies='resolve'.*polytomies='skip'"),
        ("((a),b,c);", {}, "one subtree; take its parentheses out"),
        ("((a),b,c);", {"polytomies": "resolve"}, "one subtree; take its parentheses out"),
        ("(a,b,c,d);(a,b,c,d);", {"polytomies": "skip"}, "all 2 trees have multifurcations; resolve them"),
        ("(a,b,c,d);\n(a,b,(c,d));\n(a,b,(c,x));", {"polytomies": "skip"}, "line 3, tree 3: unknown taxon 'x'"),
        ("(a,b,c,d);\n(a,b,(c,d));\n(a,b,c,x);", {"polytomies": "resolve"}, "line 3, tree 3: unknown taxon 'x'"),
        ("(a,b,c,d);\n(a,b,(c,d));\n(a,b,(c,c));", {"polytomies": "skip"}, "line 3, tree 3: taxon 'c' comes twice"),
        ("(a,b,c);", {"polytomies": "drop"}, "polytomies must be one of refuse, resolve, skip; got 'drop'"),
        ("(a,b,c);", {"polytomies": "resolve", "seed": -1}, "seed must be an integer of at least 0"),
        ("((a,b),c);(a,b,c);", {"rooted": True}, "root it, or pass rooted=False or polytomies='resolve'"),
    ],
)
def test_refusals(text, options, message):
    with pytest.raises(ValueError, match=message):
        parse_trees(text, **options)


def test_deep_trees_do_not_recurse():
    n = 3000
    text = "(" * (n - 2) + "t0" + "".join(f",t{k})" for k in range(1, n - 2)) + ",y,z,w);"
    assert parse_trees(text, polytomies="resolve").num_taxa == n + 1
