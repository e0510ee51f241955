"""Trees with multifurcations: refused with a remedy, resolved at random, in one way or in all, or left out."""

import logging
import re
from collections import Counter

import pytest
import torch

from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.phylo import iter_trees, num_topologies, parse_trees, read_trees, reference_sample

WAYS = pytest.mark.parametrize(
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


@WAYS
def test_all_ways_are_equally_likely(text, options, ways):
    """Each of the ways comes with its frequency within 4 standard errors."""
    number = 40 * ways + 400
    counts = Counter(parse_trees(text * number, polytomies="random", **options).to_newick())
    assert len(counts) == ways
    share = 1 / ways
    error = (share * (1 - share) / number) ** 0.5
    assert all(abs(count / number - share) < 4 * error for count in counts.values())


@WAYS
def test_all_ways_share_the_weight(text, options, ways):
    """Each way comes once, those that chance finds and no others; the weights add up to that of the tree."""
    drawn = set(parse_trees(text * (20 * ways), polytomies="random", **options).to_newick())
    trees = parse_trees(f"[&W 0.75]{text}", polytomies="all", **options)
    assert len(trees) == ways
    assert set(trees.to_newick()) == drawn
    torch.testing.assert_close(trees.weights, torch.full((ways,), 0.75 / ways, dtype=torch.float64))
    assert torch.allclose(parse_trees(text, polytomies="all", **options).weights * ways, torch.ones(ways).double())


def test_trees_left_out_need_no_weight():
    trees = parse_trees("(a,b,c,d); [&W 2](a,b,(c,d)); [&W 3](a,(b,c),d);", polytomies="skip")
    assert trees.weights.tolist() == [2, 3]


def test_all_resolutions_of_a_star_are_all_trees():
    for n in (3, 4, 5, 6, 7):
        for rooted in (False, True):
            if num_topologies(n, rooted=rooted) > 1000:
                continue
            star = f"({','.join('abcdefg'[:n])});"
            trees = parse_trees(star, polytomies="all", rooted=rooted)
            assert len(trees.unique()) == len(trees) == num_topologies(n, rooted=rooted)


def test_one_way_is_always_the_same():
    """Subtrees join one after the other, as they stand in the text."""
    star = "(a,b,c,d,e);"
    assert parse_trees(star * 3, polytomies="zero_length").to_newick() == ["(a,b,(c,(d,e)));"] * 3
    assert parse_trees(star, polytomies="zero_length", rooted=True).to_newick() == ["((((a,b),c),d),e);"]
    lengths = parse_trees("(a:1,b:2,c:3,d:4);", polytomies="zero_length").branch_lengths
    assert sorted(lengths[0].tolist()) == [0, 1, 2, 3, 4]


def test_weights_with_and_without_multifurcations(tmp_path):
    """Trees without weights count once in all, also when weights are not read."""
    text = "(a,b,c,d); (a,b,(c,d)); (d,a,c,b);"
    trees = parse_trees(text, polytomies="all")
    assert trees.weights.tolist() == pytest.approx([1 / 3] * 3 + [1] + [1 / 3] * 3)
    weighted = parse_trees("[&W 3](a,b,c,d); [&W 2](a,b,(c,d));", polytomies="all", weights=False)
    assert weighted.weights.tolist() == pytest.approx([1 / 3] * 3 + [1])
    path = tmp_path / "some.nwk"
    path.write_text(text)
    sample = reference_sample(path, polytomies="all")
    share = dict(zip(sample.to_newick(), sample.weights.tolist(), strict=True))
    assert share == pytest.approx({"(a,b,(c,d));": 5 / 9, "(a,(b,c),d);": 2 / 9, "(a,(b,d),c);": 2 / 9})
    path.write_text("[&W 0.5](a,b,c,d); [&W 0.25](a,b,(c,d));")
    assert float(reference_sample(path, polytomies="all").weights.sum()) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="tree 2: the tree has no weight but others have one"):
        parse_trees("[&W 1](a,b,c,d); (a,b,(c,d));", polytomies="all")


@pytest.mark.parametrize("piece", [8, 40, 2**21])
def test_burn_in_and_thinning_count_trees_of_the_file(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("pyro_ext.phylo.reading._CHUNK_BYTES", piece)
    path = tmp_path / "some.nwk"
    path.write_text("(a,b,c,d);\n(a,b,(c,d));\n(d,a,c,b);\n((a,c),b,d);\n(a,b,c,d);\n(a,(b,c),d);\n")
    assert len(read_trees(path, polytomies="all")) == 12
    trees = read_trees(path, polytomies="all", burnin=2, thin=2)
    assert len(trees) == 6
    assert trees.weights.tolist() == pytest.approx([1 / 3] * 6)
    assert read_trees(path, polytomies="all", burnin=0.5).weights.tolist() == pytest.approx([1] + [1 / 3] * 3 + [1])
    assert len(read_trees(path, path, polytomies="all", burnin=3)) == 10
    with pytest.raises(ValueError, match="burnin=6 leaves none of the 6 trees"):
        read_trees(path, polytomies="all", burnin=6)


def test_network_of_a_star_is_uniform():
    """Trees of equal weight in all ways: a subsplit network fitted to them gives each the same probability."""
    trees = parse_trees("(a,b,c,d,e);", polytomies="all")
    network = SubsplitBayesianNetwork.from_trees(trees, method="em")
    torch.testing.assert_close(network.log_prob(trees.parents).exp(), torch.full((15,), 1 / 15, dtype=torch.float64))


def test_a_tree_whose_nodes_have_two_subtrees_stays_as_it_is():
    text = "(a:1,(b:2,'c d':3)x:4,(e:5,f:6):7); (a:1,b:2,'c d':3,e:4,f:5);"
    plain, resolved = parse_trees(text.split()[0] + " d':3)x:4,(e:5,f:6):7);"), parse_trees(text, polytomies="random")
    assert torch.equal(plain.parents[0], resolved.parents[0])
    assert torch.equal(plain.branch_lengths[0], resolved.branch_lengths[0])


def test_new_branches_have_length_zero_and_the_others_keep_theirs():
    trees = parse_trees("((a:1,b:2,'c d':3):9,(e:5,f:6,g:7,h:8)[&x=1]:0.5);", rooted=True, polytomies="random")
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
    trees = parse_trees(text * 50, polytomies="random", rooted=True).to_newick()
    assert all(clades(text) < clades(newick) for newick in trees)
    assert all(len(clades(newick)) == 12 for newick in trees)


def test_seeds_repeat_and_differ(tmp_path):
    path = tmp_path / "star.nwk"
    path.write_text("(a,b,c,d,e,f,g);\n" * 20)
    first, again, other = (read_trees(path, polytomies="random", seed=seed) for seed in (1, 1, 2))
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
        assert len(read_trees(path, polytomies="random", seed=5)) == 2
    assert caplog.messages == [f"{path}: 1 of 2 trees have multifurcations and are resolved at random, with seed 5"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("(a,b,(c,d));(a,b,c,d);", {}, "tree 2: not a binary tree.*polytomies='random'.*polytomies='skip'"),
        ("((a),b,c);", {}, "one subtree; take its parentheses out"),
        ("((a),b,c);", {"polytomies": "random"}, "one subtree; take its parentheses out"),
        ("(a,b,c,d);(a,b,c,d);", {"polytomies": "skip"}, "all 2 trees have multifurcations; resolve them"),
        ("(a,b,c,d);\n(a,b,(c,d));\n(a,b,(c,x));", {"polytomies": "skip"}, "line 3, tree 3: unknown taxon 'x'"),
        ("(a,b,c,d);\n(a,b,(c,d));\n(a,b,c,x);", {"polytomies": "random"}, "line 3, tree 3: unknown taxon 'x'"),
        ("(a,b,c,d);\n(a,b,(c,d));\n(a,b,(c,c));", {"polytomies": "skip"}, "line 3, tree 3: taxon 'c' comes twice"),
        (
            "(a,b,c);",
            {"polytomies": "drop"},
            "polytomies must be one of refuse, random, zero_length, all, skip; got 'drop'",
        ),
        ("(a,b,c);", {"polytomies": "random", "seed": -1}, "seed must be an integer of at least 0"),
        ("(a,b,c,(d,e));\n(a,b,c,d,e,f,g,h,i);", {"polytomies": "all"}, r"line 2.*135135 ways, more than 10395: take"),
        ("(a,b,c,d);(a,b,c,x);", {"polytomies": "all"}, "tree 2: unknown taxon 'x'"),
        ("((a,b),c);(a,b,c);", {"rooted": True}, "root it, or pass rooted=False or polytomies='random'"),
    ],
)
def test_refusals(text, options, message):
    with pytest.raises(ValueError, match=message):
        parse_trees(text, **options)


def test_deep_trees_do_not_recurse():
    n = 3000
    text = "(" * (n - 2) + "t0" + "".join(f",t{k})" for k in range(1, n - 2)) + ",y,z,w);"
    assert parse_trees(text, polytomies="random").num_taxa == n + 1
