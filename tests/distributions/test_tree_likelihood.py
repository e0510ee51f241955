"""TreeLikelihood: published values, normalisation over all patterns, simulation, mixtures, batches, bad input."""

import itertools
import json
import math
import os
from pathlib import Path

import pyro
import pytest
import torch

from pyro_ext.distributions import TreeLikelihood
from pyro_ext.distributions.testing import check_distribution
from pyro_ext.phylo import read_alignment, read_trees
from pyro_ext.phylo.rates import GammaRates, InvariantSites, WeibullRates
from pyro_ext.phylo.substitution import GTR, HKY85, JC69
from tests.ops.trees import random_trees

F64 = torch.float64
EYE = torch.eye(4, dtype=F64)
QUARTER = torch.full((4,), 0.25, dtype=F64)
UNEVEN = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
MODELS = {
    "jc": (JC69(QUARTER), None),
    "hky, gamma": (HKY85(torch.tensor(3.0, dtype=F64), UNEVEN), GammaRates(torch.tensor(0.5, dtype=F64))),
    "gtr, invariant and weibull": (
        GTR(torch.arange(1.0, 7, dtype=F64), UNEVEN),
        InvariantSites(torch.tensor(0.3, dtype=F64), WeibullRates(torch.tensor(0.8, dtype=F64))),
    ),
}


def all_patterns(num_taxa):
    return EYE[torch.cartesian_prod(*[torch.arange(4)] * num_taxa).T]


@pytest.mark.parametrize("models", MODELS)
@pytest.mark.parametrize("rooted", [False, True])
def test_probabilities_of_all_patterns_sum_to_one(models, rooted):
    trees = random_trees(3, 4, rooted)
    d = TreeLikelihood(trees, torch.rand(3, trees.shape[-1] - 1, dtype=F64), *MODELS[models])
    total = d.site_log_prob(all_patterns(4)).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(3, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("models", MODELS)
def test_simulated_sites_follow_the_law(models):
    """The frequencies of all 64 patterns of 100,000 sites, |z| < 4.5: false alarms 5e-4 a case."""
    tree, lengths = random_trees(1, 3)[0], torch.tensor([0.1, 0.4, 0.7], dtype=F64)
    sites = TreeLikelihood(tree, lengths, *MODELS[models], num_sites=100_000).sample()
    assert sites.shape == (3, 100_000, 4)
    number = (sites.argmax(-1) * torch.tensor([[16], [4], [1]])).sum(0)
    frequency = number.bincount(minlength=64) / 100_000
    probs = TreeLikelihood(tree, lengths, *MODELS[models]).site_log_prob(all_patterns(3)).exp()
    assert ((frequency - probs) / (probs * (1 - probs) / 100_000).sqrt()).abs().max() < 4.5


@pytest.mark.parametrize("models", MODELS)
def test_where_the_root_lies_does_not_matter(models):
    """A reversible process: the rooted tree, its two upper edges joined, is the unrooted one."""
    value = all_patterns(4)[:, ::7]
    # ((0, 1), (2, 3)) with nodes 4 = root, 5, 6; unrooted at taxon 0: 4 = (1, 5), 5 = (2, 3)
    rooted = TreeLikelihood(
        torch.tensor([5, 5, 6, 6, -1, 4, 4]), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=F64), *MODELS[models]
    )
    joined = TreeLikelihood(
        torch.tensor([-1, 4, 5, 5, 0, 4]), torch.tensor([0.2, 0.3, 0.4, 0.1, 1.1], dtype=F64), *MODELS[models]
    )
    torch.testing.assert_close(rooted.site_log_prob(value), joined.site_log_prob(value), rtol=1e-12, atol=0)


def test_two_taxa():
    """The probability of a pair is a quarter times the transition probability."""
    d = TreeLikelihood(torch.tensor([-1, 0]), torch.tensor([0.3], dtype=F64))
    change = (1 - math.exp(-0.4)) / 4
    expected = torch.tensor([math.log(0.25 * (1 - 3 * change)), math.log(0.25 * change)], dtype=F64)
    torch.testing.assert_close(d.site_log_prob(EYE[torch.tensor([[0, 0], [0, 1]])]), expected)


def test_gaps_and_ambiguity_add_up():
    tree, lengths = random_trees(1, 4)[0], torch.rand(5, dtype=F64)
    d = TreeLikelihood(tree, lengths, *MODELS["hky, gamma"])
    value = EYE[torch.tensor([[0], [1], [2], [2]])]
    purine = value.clone()
    purine[3, 0] = torch.tensor([1, 0, 1, 0])
    other = EYE[torch.tensor([[0], [1], [2], [0]])]
    sum_of_both = (d.site_log_prob(value).exp() + d.site_log_prob(other).exp()).log()
    torch.testing.assert_close(d.site_log_prob(purine), sum_of_both)
    torch.testing.assert_close(d.site_log_prob(torch.ones(4, 1, 4, dtype=F64)), torch.zeros(1, dtype=F64))


def test_weights_and_batches():
    trees = random_trees(2, 5)
    lengths = torch.rand(3, 1, 7, dtype=F64, requires_grad=True)
    kappa = torch.tensor([1.0, 4.0], dtype=F64, requires_grad=True)
    shape = torch.tensor([0.5, 2.0], dtype=F64, requires_grad=True)
    weights, value = torch.tensor([2.0, 1.0, 3.0], dtype=F64), EYE[torch.randint(4, (5, 3))]
    d = TreeLikelihood(trees, lengths, HKY85(kappa), GammaRates(shape), weights)
    assert d.batch_shape == (3, 2)
    assert d.event_shape == (5, 3, 4)
    result = d.log_prob(value)
    repeated = value[:, [0, 0, 1, 2, 2, 2]]
    plain = TreeLikelihood(trees[1], lengths[2, 0], HKY85(kappa[1]), GammaRates(shape[1])).log_prob(repeated)
    torch.testing.assert_close(result[2, 1], plain)
    gradients = torch.autograd.grad(result.sum(), (lengths, kappa, shape))
    assert all(gradient.abs().min() > 0 for gradient in gradients)
    torch.testing.assert_close(d.expand((4, 3, 2)).log_prob(value), result.expand(4, 3, 2))


@pytest.mark.parametrize("models", MODELS)
def test_gradients(models):
    trees, value = random_trees(2, 4), EYE[torch.randint(4, (4, 3))]
    lengths = (torch.rand(2, 5, dtype=F64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: TreeLikelihood(trees, b, *MODELS[models]).log_prob(value), (lengths,))


@pytest.mark.parametrize("models", MODELS)
@pytest.mark.parametrize("differentiable_twice", [False, True])
def test_second_derivatives(models, differentiable_twice):
    tree, value = random_trees(1, 4)[0], EYE[torch.randint(4, (4, 3))]
    lengths = (torch.rand(5, dtype=F64) + 0.1).requires_grad_()

    def function(b):
        return TreeLikelihood(tree, b, *MODELS[models]).site_log_prob(value, differentiable_twice).sum()

    assert torch.autograd.gradgradcheck(function, (lengths,))
    hessian = torch.autograd.functional.hessian(function, lengths)  # nothing but zeros if a term is left out
    assert torch.linalg.matrix_rank(hessian) == 5


@pytest.mark.parametrize("models", MODELS)
def test_branches_of_length_zero(models):
    """Their likelihood is the limit, their gradient the one-sided derivative."""
    tree, step = random_trees(1, 5)[0], 1e-6
    value = EYE[torch.tensor([[0, 1, 2, 0, 3], [0, 1, 2, 1, 3], [0, 1, 0, 0, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 3]])]
    lengths = 0.1 + torch.rand(7, dtype=F64)
    lengths[2] = lengths[5] = 0

    def function(b):
        return TreeLikelihood(tree, b, *MODELS[models]).log_prob(value)

    lengths.requires_grad_()
    (gradient,) = torch.autograd.grad(function(lengths), lengths)
    with torch.no_grad():
        at = [torch.stack([function(lengths + k * step * row) for row in torch.eye(7, dtype=F64)]) for k in range(3)]
        slopes = (-3 * at[0] + 4 * at[1] - at[2]) / (2 * step)
    torch.testing.assert_close(gradient, slopes, rtol=1e-5, atol=1e-5)
    still = TreeLikelihood(tree, torch.zeros(7, dtype=F64), *MODELS[models]).site_log_prob(value)
    assert still.isneginf().tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("models", MODELS)
def test_alignments_of_their_own(models):
    d = TreeLikelihood(random_trees(2, 4), torch.rand(2, 5, dtype=F64), *MODELS[models], num_sites=6)
    value = d.sample((3,))
    assert value.shape == (3, 2, 4, 6, 4)
    result = d.log_prob(value)
    for i, j in itertools.product(range(3), range(2)):
        one = TreeLikelihood(d.tree[j], d.branch_lengths[j], *MODELS[models]).log_prob(value[i, j])
        torch.testing.assert_close(result[i, j], one)


def test_alignments_of_their_own_for_models_in_a_batch():
    kappa, shape = torch.tensor([1.0, 4.0], dtype=F64), torch.tensor([0.5, 2.0], dtype=F64)
    lengths = torch.rand(5, dtype=F64)
    d = TreeLikelihood(random_trees(1, 4)[0], lengths, HKY85(kappa), GammaRates(shape), num_sites=3)
    value = d.sample()
    expected = [
        TreeLikelihood(d.tree[j], lengths, HKY85(kappa[j]), GammaRates(shape[j])).log_prob(value[j]) for j in range(2)
    ]
    torch.testing.assert_close(d.log_prob(value), torch.stack(expected))


@pytest.mark.parametrize("models", MODELS)
@pytest.mark.parametrize("rooted", [False, True])
def test_contract(models, rooted):
    """All but goodness of fit: samples are one-hot, though the support has all likelihoods of states."""
    trees = random_trees(2, 4, rooted)
    lengths = (0.1 + torch.rand(2, trees.shape[-1] - 1, dtype=F64)).requires_grad_()
    d = TreeLikelihood(trees, lengths, *MODELS[models], num_sites=2)
    check_distribution(d, parameters=[lengths], num_samples=2000, skip=["goodness_of_fit"])


@pytest.mark.parametrize("models", MODELS)
def test_ancestral_marginals(models):
    """Against Bayes' rule: a leaf hung at the node by an edge of length 0 shows its state."""
    tree, lengths = torch.tensor([-1, 3, 3, 0]), torch.tensor([0.1, 0.4, 0.7], dtype=F64)
    value = EYE[torch.randint(4, (3, 5))]
    result = TreeLikelihood(tree, lengths, *MODELS[models]).ancestral_marginals(value)
    # leaf 3 beside leaves 1 and 2: nodes 4 = (1, 5), 5 = (2, 3)
    hung = TreeLikelihood(
        torch.tensor([-1, 4, 5, 5, 0, 4]), torch.tensor([0.1, 0.4, 0.0, 0.7, 0.0], dtype=F64), *MODELS[models]
    )
    shown = [hung.site_log_prob(torch.cat([value, state.expand(1, 5, 4)])).exp() for state in EYE]
    expected = torch.stack(shown, -1) / sum(shown).unsqueeze(-1)
    torch.testing.assert_close(result, expected.unsqueeze(0))
    unlike = EYE[torch.tensor([[0], [0], [1]])]
    impossible = TreeLikelihood(tree, torch.zeros(3, dtype=F64), *MODELS[models]).ancestral_marginals(unlike)
    assert torch.equal(impossible, torch.zeros(1, 1, 4, dtype=F64))


def test_observed_in_a_program():
    tree, value = random_trees(1, 4)[0], EYE[torch.randint(4, (4, 3))]

    def model():
        lengths = pyro.sample(
            "lengths", pyro.distributions.Exponential(torch.tensor(10.0, dtype=F64)).expand([5]).to_event(1)
        )
        pyro.sample("alignment", TreeLikelihood(tree, lengths), obs=value)

    trace = pyro.poutine.trace(model).get_trace()
    expected = TreeLikelihood(tree, trace.nodes["lengths"]["value"]).log_prob(value)
    torch.testing.assert_close(trace.log_prob_sum(lambda name, _: name == "alignment"), expected)


TREE, LENGTHS = torch.tensor([-1, 3, 3, 0]), torch.tensor([0.1, 0.1, 0.3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TreeLikelihood(TREE.float(), LENGTHS), "tree must be int64"),
        (lambda: TreeLikelihood(TREE, LENGTHS[:2]), r"branch_lengths must have shape batch_shape \+ \(3,\)"),
        (lambda: TreeLikelihood(TREE, -LENGTHS), "branch_lengths must be finite and not negative, got -0.1"),
        (lambda: TreeLikelihood(TREE, LENGTHS * math.inf), "branch_lengths must be finite and not negative, got inf"),
        (lambda: TreeLikelihood(TREE, LENGTHS, weights=torch.tensor([-1.0])), "weights must be"),
        (lambda: TreeLikelihood(TREE, LENGTHS, weights=torch.ones(2), num_sites=2), "not both"),
        (
            lambda: TreeLikelihood(TREE, LENGTHS).log_prob(torch.ones(4, 2, 4)),
            r"value must have shape \(..., 3, S, 4\)",
        ),
        (lambda: TreeLikelihood(TREE, LENGTHS).log_prob(-torch.ones(3, 2, 4)), "value must hold likelihoods of states"),
        (lambda: TreeLikelihood(TREE, LENGTHS, weights=torch.ones(3)).log_prob(torch.ones(3, 2, 4)), r"3, 3, 4\)"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.data
def test_published_value():
    folder = Path(os.environ["PYRO_EXT_DATA"]) / "phylo" / "reference"
    lines = (folder / "hello.fasta").read_text().split()
    sequences = dict(zip((name[1:] for name in lines[::2]), lines[1::2], strict=True))
    codes = dict(zip("ACGT-", [*EYE, torch.ones(4, dtype=F64)], strict=True))
    value = torch.stack([torch.stack([codes[c] for c in sequences[name]]) for name in sorted(sequences)])
    # jupiter .3, mars .1, saturn .1
    d = TreeLikelihood(TREE, LENGTHS.double())
    expected = json.loads((folder / "likelihood.json").read_text())["hello"]
    assert float(d.log_prob(value)) == pytest.approx(expected, abs=1e-6)


def phylo_data(name):
    return Path(os.environ["PYRO_EXT_DATA"]) / "phylo" / name


@pytest.mark.data
def test_published_values_of_ten_trees():
    """Ten trees of DS1, values of BEAGLE and physher."""
    trees = read_trees(phylo_data("reference/DS1.subsampled_10.nexus"))
    alignment = read_alignment(phylo_data("alignments/DS1.fasta"))
    result = TreeLikelihood(trees.parents, trees.branch_lengths, weights=alignment.weights).log_prob(alignment.patterns)
    expected = json.loads(phylo_data("reference/likelihood.json").read_text())["ds1_trees"]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-6)


def with_shape(x):
    return GammaRates(x.exp())


OPTIMA = {
    "JC69": (0, lambda x, pi: (JC69(pi), None), 0.01),
    "HKY+F": (1, lambda x, pi: (HKY85(x[0].exp(), pi), None), 0.05),
    "GTR+F+G4": (6, lambda x, pi: (GTR(torch.cat([x[:5], x.new_zeros(1)]).exp(), pi), with_shape(x[5])), 0.05),
    "JC+I+G4": (2, lambda x, pi: (JC69(pi), InvariantSites(x[0].sigmoid(), with_shape(x[1]))), 0.01),
}
# IQ-TREE 2.0.7 as it comes stops .08 short of the optimum, on a ridge along which the two shape parameters trade off;
# so does the published value. This is what it finds with -me 0.0001.
FOUND_BY_A_LONGER_SEARCH = {"JC+I+G4": -6562.60804658}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("case", OPTIMA)
def test_published_optima(case):
    """The joint optimum on one topology of DS1 is that of IQ-TREE, or as little above it as its branches of 1e-6."""
    num_free, models, tolerance = OPTIMA[case]
    tree = read_trees(phylo_data("credible/JC_no_gamma_credible_set_ds1")).parents[0]
    alignment = read_alignment(phylo_data("alignments/DS1.fasta"))
    frequencies = alignment.frequencies()
    x = torch.zeros(51 + num_free, dtype=F64)
    x[:51] = -3
    x.requires_grad_()
    optimiser = torch.optim.LBFGS([x], max_iter=400, history_size=50, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        d = TreeLikelihood(tree, x[:51].exp(), *models(x[51:], frequencies), weights=alignment.weights)
        value = -d.log_prob(alignment.patterns)
        value.backward()
        return value

    optimiser.step(loss)
    published = json.loads(phylo_data("reference/likelihood.json").read_text())
    published = published["ds1_credible_topology_1_optimised_branch_lengths"][case]
    expected = FOUND_BY_A_LONGER_SEARCH.get(case, published)
    result = -float(loss().detach())
    assert -0.001 < result - expected < tolerance
    assert result > published - 0.001


# Where IQ-TREE 2.0.7 stops on the first topology of DS1 under JC+I+G4: its lengths, edge by edge.
IQTREE_LENGTHS = """
.0051301072 .0255560824 .0180093690 .0155243639 .0260189455 .0054031176 .0300675771 .0000041012 .0110350550
.0029809030 .0196001395 .0057602258 .0165041711 .0296176429 .0038086601 .0223434695 .0079930691 .0086127485
.0094818449 .0048158684 .0085192754 .0092497617 .0072311405 .0188983436 .0072430814 .0025832116 .0024526823
.0032656079 .0044861129 .0146272019 .0171888766 .0124040413 .0142397924 .0124664011 .0021310971 .0063287185
.0055503220 .0071748891 .0038029396 .0044826069 .0033513715 .0082506123 .0042986355 .0028534341 .0077364819
.0067180624 .0330907878 .0042023880 .0033726902 .0257940956 .0055620019
"""


@pytest.mark.data
def test_published_value_with_gamma_rates_and_invariant_sites():
    """At the parameters where IQ-TREE stops the likelihood is the one it prints, to the digits it prints."""
    tree = read_trees(phylo_data("credible/JC_no_gamma_credible_set_ds1")).parents[0]
    alignment = read_alignment(phylo_data("alignments/DS1.fasta"))
    lengths = torch.tensor([float(x) for x in IQTREE_LENGTHS.split()], dtype=F64)
    site_model = InvariantSites(
        torch.tensor(0.6084151207, dtype=F64), GammaRates(torch.tensor(0.6716093488, dtype=F64))
    )
    d = TreeLikelihood(tree, lengths, JC69(lengths), site_model, alignment.weights)
    assert float(d.log_prob(alignment.patterns)) == pytest.approx(-6562.6872, abs=1e-4)
