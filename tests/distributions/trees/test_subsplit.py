"""Subsplit networks: probabilities, their sums, symmetries, gradients, files and bad input."""

import math
import re

import pytest
import torch

from pyro_ext.distributions import SubsplitBayesianNetwork
from pyro_ext.phylo import (
    SubsplitSupport,
    TreeSet,
    all_trees,
    canonicalize,
    is_canonical,
    parse_trees,
    random_trees,
    root_on_edge,
    unroot,
)
from pyro_ext.phylo.support_files import write_arrays
from tests.phylo.brute_force import rootings
from tests.phylo.test_support import listed


def random_network(trees, *batch_shape, dtype=torch.float64, **options):
    support = SubsplitSupport.from_trees(trees)
    return SubsplitBayesianNetwork(support, torch.randn(*batch_shape, support.num_parameters, dtype=dtype), **options)


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_all_trees_together(n, dtype):
    q = random_network(all_trees(n), dtype=dtype)
    assert q.num_trees() == {4: 3, 5: 15, 6: 105, 7: 945}[n]
    total = q.log_prob(all_trees(n)).double().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.slow
def test_all_trees_of_eight_taxa_together():
    trees = all_trees(8)
    assert len(trees) == 10395
    assert float(random_network(trees).log_prob(trees).exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("n", [3, 6, 11])
def test_sums_over_rootings_one_by_one(n, dtype):
    trees = random_trees(n, 6)
    q = random_network(trees, dtype=dtype)
    number = {subsplit: i for i, subsplit in enumerate(listed(q.subsplits))}
    ids = [[[number[s] for s in rooting] for rooting in rootings(tree)] for tree in trees.tolist()]
    expected = q.log_theta[torch.tensor(ids)].sum(-1)
    tolerance = {"rtol": 0, "atol": 1e-12} if dtype == torch.float64 else {}
    torch.testing.assert_close(q.log_prob_rootings(trees), expected, **tolerance)
    torch.testing.assert_close(q.log_prob(trees), expected.logsumexp(-1), **tolerance)


def test_rootings_are_the_rooted_network():
    trees = random_trees(8, 5)
    q = random_network(trees, 2)
    edge = torch.arange(13)
    rooted = root_on_edge(trees.unsqueeze(1), edge).parents
    expected = q.rooted_network().log_prob(rooted.unsqueeze(2)).movedim(-1, 1)
    torch.testing.assert_close(q.log_prob_rootings(trees.unsqueeze(1)), expected)


def test_unrooted_draws_are_rooted_draws_without_their_roots():
    q = random_network(random_trees(12, 30))
    torch.manual_seed(1)
    rooted = q.rooted_network().sample((500,))
    torch.manual_seed(1)
    assert torch.equal(q.sample((500,)), unroot(rooted).parents)
    assert is_canonical(rooted, rooted=True).all()


def test_names_do_not_matter():
    """Renaming the taxa renames the trees: every tree keeps its probability, whichever leaf it hangs from."""
    trees, weights = random_trees(9, 25), torch.rand(25, dtype=torch.float64)
    names = tuple("abcdefghi")
    for options in ({}, {"method": "em", "max_iterations": 7}, {"method": "em", "alpha": 0.1, "max_iterations": 7}):
        q, _ = SubsplitBayesianNetwork.fit(TreeSet(names, trees), weights, **options)
        shuffled = TreeSet.from_parents([names[i] for i in torch.randperm(9).tolist()], trees)
        other, _ = SubsplitBayesianNetwork.fit(shuffled, weights, **options)
        torch.testing.assert_close(other.log_prob(shuffled.parents), q.log_prob(trees), rtol=0, atol=1e-12)


def test_gradients():
    trees = random_trees(6, 4)
    q = random_network(trees)
    support = q.subsplits

    def log_prob(logits):
        return SubsplitBayesianNetwork(support, logits).log_prob(trees)

    logits = torch.randn(2, 1, support.num_parameters, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_prob, logits[0, 0].detach().requires_grad_())
    assert torch.autograd.gradcheck(log_prob, logits, fast_mode=True)
    assert torch.autograd.gradgradcheck(log_prob, logits[0, 0].detach().requires_grad_(), fast_mode=True)


def test_batches():
    trees = random_trees(7, 5)
    q = random_network(trees, 3, 1)
    each = torch.stack([SubsplitBayesianNetwork(q.subsplits, q.logits[i, 0]).log_prob(trees) for i in range(3)])
    torch.testing.assert_close(q.log_prob(trees), each)
    torch.testing.assert_close(q.log_prob(trees[:, None, None]), each.t().unsqueeze(-1))
    wide = q.expand((3, 5))
    torch.testing.assert_close(wide.log_prob(trees), each)
    torch.testing.assert_close(wide.expand((2, 3, 5)).log_prob(trees), each.expand(2, 3, 5))
    assert wide.sample((2,)).shape == (2, 3, 5, 12)
    assert wide.log_theta.stride(1) == 0


def test_outside_the_support():
    trees = random_trees(8, 4)
    q = random_network(trees[:2])
    inside = q.subsplits.contains(trees)
    assert not inside.all()
    logits = q.logits.requires_grad_()
    log_prob = SubsplitBayesianNetwork(q.subsplits, logits).log_prob(trees)
    assert ((log_prob > -math.inf) == inside).all()
    (grad,) = torch.autograd.grad(log_prob.exp().sum(), logits)
    assert torch.isfinite(grad).all()


def test_files(tmp_path):
    for rooted in (False, True):
        q = random_network(random_trees(6, 5), 2, rooted=rooted)
        q.save(tmp_path / "q.npz")
        read = SubsplitBayesianNetwork.load(tmp_path / "q.npz")
        assert read.subsplits == q.subsplits
        assert torch.equal(read.logits, q.logits)
        assert read.event_shape == q.event_shape
    q.subsplits.save(tmp_path / "support.npz")
    with pytest.raises(ValueError, match="has no logits"):
        SubsplitBayesianNetwork.load(tmp_path / "support.npz")


def test_files_that_hold_no_network(tmp_path):
    q = random_network(random_trees(5, 3))
    arrays = {**q.subsplits.to_arrays(), "rooted_values": torch.tensor(False).numpy()}
    for logits, message in (
        (q.logits[:-1], "logits has shape"),
        (q.logits * math.nan, "logits"),
        (q.logits.long(), "give floating point numbers"),
    ):
        write_arrays(tmp_path / "q.npz", {**arrays, "logits": logits.numpy()})
        with pytest.raises(ValueError, match=message) as error:
            SubsplitBayesianNetwork.load(tmp_path / "q.npz")
        assert str(error.value).startswith(str(tmp_path / "q.npz"))


def test_no_trees_at_all():
    trees = random_trees(6, 4)
    for batch_shape in ((), (2,)):
        q = random_network(trees, *batch_shape)
        none = q.sample((0,))
        assert none.shape == (0, *batch_shape, 10)
        assert q.log_prob(none).shape == (0, *batch_shape)
        assert q.log_prob_rootings(none).shape == (0, *batch_shape, 9)
        assert q.rooted_network().log_prob(q.rooted_network().sample((0,))).shape == (0, *batch_shape)


def test_inference_mode():
    q = random_network(random_trees(6, 4))
    with torch.inference_mode():
        trees = q.sample((3,))
        log_prob = q.log_prob(trees)
        trees.copy_(q.sample((3,)))
        assert torch.equal(q.log_prob(trees), q.log_prob(trees.clone()))
    assert log_prob.shape == (3,)


@pytest.mark.parametrize("n", [5, 8])
def test_where_a_tree_was_rooted_does_not_matter(n):
    """A tree rooted on any edge, written and read again, is the same tree of the same probability."""
    trees = random_trees(n, 3)
    taxa = tuple("abcdefgh"[:n])
    q = random_network(trees)
    for tree in trees:
        rooted = root_on_edge(tree, torch.arange(2 * n - 3)).parents
        text = "\n".join(TreeSet(taxa, rooted, rooted=True).to_newick())
        read = parse_trees(text, rooted=False).parents
        assert (read == tree).all()
        assert (q.log_prob(read) == q.log_prob(tree)).all()


def interchanged(n, num):
    """Caterpillars that differ by the order of two neighbouring leaves here and there: very many combinations."""
    rows = []
    for _ in range(num):
        order = [*range(n)]
        for i in range(1, n - 1, 2):
            if torch.rand(()) < 0.5:
                order[i], order[i + 1] = order[i + 1], order[i]
        parents = [-1] * (2 * n - 2)
        for node, leaf in zip([*range(n, 2 * n - 2), 2 * n - 3], order[1:], strict=True):
            parents[leaf] = node
        rows.append([*parents[:n], 0, *range(n, 2 * n - 3)])
    return canonicalize(torch.tensor(rows)).parents


SUPPORT = SubsplitSupport.from_trees(random_trees(5, 3, generator=torch.Generator().manual_seed(0)))
Q = SubsplitBayesianNetwork(SUPPORT)
BAD = {
    "too few logits": (lambda: SubsplitBayesianNetwork(SUPPORT, torch.zeros(3)), ValueError, "logits has shape (3,)"),
    "a number": (lambda: SubsplitBayesianNetwork(SUPPORT, torch.zeros(())), ValueError, "logits has shape ()"),
    "integers": (lambda: SubsplitBayesianNetwork(SUPPORT, Q.logits.long()), ValueError, "give floating point numbers"),
    "NaN": (lambda: SubsplitBayesianNetwork(SUPPORT, Q.logits * math.nan), ValueError, "logits"),
    "infinite": (lambda: SubsplitBayesianNetwork(SUPPORT, Q.logits + math.inf), ValueError, "logits holds inf"),
    "a context without splits": (
        lambda: SubsplitBayesianNetwork(SUPPORT, Q.logits - math.inf),
        ValueError,
        "-inf for all splits of some context",
    ),
    "no sisters": (
        lambda: SubsplitBayesianNetwork(SubsplitSupport.from_trees(random_trees(5, 1), sisters=False)),
        ValueError,
        "sisters=True",
    ),
    "no tree": (lambda: Q.log_prob(torch.zeros(8, dtype=torch.int64)), ValueError, "TreeTopology()"),
    "other taxa": (lambda: Q.log_prob(random_trees(6, 1)), ValueError, "event"),
    "rooted trees": (lambda: Q.log_prob(random_trees(5, 1, rooted=True)), ValueError, "event"),
    "rootings of rooted trees": (
        lambda: Q.rooted_network().log_prob_rootings(random_trees(5, 1, rooted=True)),
        NotImplementedError,
        "rooted=False",
    ),
    "entropy of too many trees": (
        lambda: SubsplitBayesianNetwork(SubsplitSupport.from_trees(interchanged(40, 300))).entropy(),
        NotImplementedError,
        "see entropy_bounds, or ask rooted_network()",
    ),
    "too many trees": (
        lambda: SubsplitBayesianNetwork(SubsplitSupport.from_trees(interchanged(40, 300))).enumerate_support(),
        NotImplementedError,
        "too many to list",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, message = BAD[name]
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_the_last_trees_are_remembered_by_expanded_copies_too():
    d, trees = random_network(all_trees(5)), all_trees(5)
    assert d.expand([len(trees)]).index(trees) is d.index(trees)
    assert d.index(trees.clone()) is not d.index(trees)


def test_trees_changed_in_place_are_looked_up_again():
    d, trees = random_network(all_trees(5)), all_trees(5).clone()
    before = d.log_prob(trees).clone()
    trees.copy_(trees.flip(0))
    torch.testing.assert_close(d.index(trees).position, d.subsplits.index(trees).position)
    torch.testing.assert_close(d.log_prob(trees), before.flip(0))
