"""Topologies and branch lengths together: densities, shared effects, training towards the evidence, bad input."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ext.distributions import SubsplitBayesianNetwork, TreeLikelihood
from pyro_ext.inference import TraceUnorderedSet_ELBO, TraceVIMCO_ELBO
from pyro_ext.models.phylo import SplitBranchLengths, VariationalPhylogeny
from pyro_ext.phylo import Alignment, SubsplitSupport, all_trees

F64 = torch.float64
SEQUENCES = {"a": "ACGTTACAAC", "b": "ACGATGCAAC", "c": "AGGA-GCCTC", "d": "AGGTTRCCTT", "e": "AGCTTGCCTA"}
ALIGNMENT = Alignment.from_sequences(SEQUENCES)
TREES = all_trees(5)


@pytest.fixture
def support():
    return SubsplitSupport.from_trees(TREES, taxa=ALIGNMENT.taxa)


@pytest.fixture(scope="module")
def evidence():
    """The log-evidence of the alignment, from 2,000 prior draws for each of the 15 topologies."""
    pyro.set_rng_seed(0)
    prior = dist.Exponential(torch.tensor(10.0, dtype=F64)).sample((15, 2000, 7))
    likelihood = TreeLikelihood(TREES.unsqueeze(1).expand(-1, 2000, -1), prior, weights=ALIGNMENT.weights)
    log_likelihood = likelihood.log_prob(ALIGNMENT.patterns).flatten()
    return float(log_likelihood.logsumexp(0)) - math.log(len(log_likelihood))


def test_log_weights_are_the_densities_of_model_and_guide(support):
    phylogeny = VariationalPhylogeny(ALIGNMENT, support)
    trace = poutine.trace(phylogeny.guide).get_trace()
    tree, lengths = trace.nodes["topology"]["value"], trace.nodes["branch_lengths"]["value"]
    model = poutine.trace(poutine.replay(phylogeny.model, trace)).get_trace()
    expected = -torch.tensor(15.0, dtype=F64).log() + dist.Exponential(10.0).log_prob(lengths).sum()
    expected = expected + TreeLikelihood(tree, lengths, weights=ALIGNMENT.weights).log_prob(ALIGNMENT.patterns)
    torch.testing.assert_close(model.log_prob_sum(), expected)
    log_q = SubsplitBayesianNetwork(support, phylogeny.guide.logits).log_prob(tree)
    log_q = log_q + phylogeny.guide.lengths(tree).log_prob(lengths)
    torch.testing.assert_close(trace.log_prob_sum(), log_q)


def test_topologies_share_what_they_have_in_common():
    """The length of an edge with the same split and neighbours has one distribution in both trees; others differ."""
    trees = torch.tensor([[-1, 5, 6, 7, 7, 0, 5, 6], [-1, 6, 6, 7, 7, 0, 5, 5]])  # cd|abe etc.
    lengths = SplitBranchLengths(SubsplitSupport.from_trees(trees), F64)
    with torch.no_grad():
        lengths.effects.normal_()
    loc = lengths(trees).base_dist.base_dist.loc
    rows = lengths._neighbours(lengths.support.index(trees).position)
    for i in range(7):
        for j in range(7):
            same = set(rows[0, i].tolist()) == set(rows[1, j].tolist())
            assert bool(loc[0, i] == loc[1, j]) == same


def test_neighbours_of_an_edge():
    """A leaf's edge has its split and one pair, an internal one its split and two; each pair is the edge's own."""
    tree = torch.tensor([[-1, 4, 5, 5, 0, 4]])  # 01|23
    lengths = SplitBranchLengths(SubsplitSupport.from_trees(tree))
    rows = lengths._neighbours(lengths.support.index(tree).position)[0]
    num = lengths.support.num_parameters
    assert (rows < num).sum(-1).tolist() == [2, 2, 2, 2, 3]
    used = rows[rows < num].tolist()
    assert len(set(used)) == len(used) == 11
    assert (rows[:, 0] < lengths.support.num_rootsplits).all()


@pytest.mark.parametrize(
    "elbo",
    [
        TraceVIMCO_ELBO(10, max_plate_nesting=0, vectorize_particles=True),
        TraceUnorderedSet_ELBO(8, max_plate_nesting=0),
    ],
    ids=["vimco", "unordered_set"],
)
def test_training_reaches_the_evidence(support, evidence, elbo):
    """The bound comes near the evidence, many particles reach it."""
    pyro.set_rng_seed(0)
    phylogeny = VariationalPhylogeny(ALIGNMENT, support)
    optimiser = torch.optim.Adam(phylogeny.parameters(), lr=0.02)
    before = float(phylogeny.lower_bound(10, 200).mean())
    for _ in range(100):
        optimiser.zero_grad()
        elbo.differentiable_loss(phylogeny.model, phylogeny.guide).backward()
        optimiser.step()
    after = float(phylogeny.lower_bound(10, 200).mean())
    assert before < evidence - 3
    assert evidence - 0.8 < after < evidence + 0.1
    assert float(phylogeny.lower_bound(1000, 4).mean()) == pytest.approx(evidence, abs=0.4)


def test_refusals(support):
    other = Alignment.from_sequences({name.upper(): sequence for name, sequence in SEQUENCES.items()})
    with pytest.raises(ValueError, match="must have the same taxa; only one of them has A, B, C, D, E"):
        VariationalPhylogeny(other, support)
    rooted = SubsplitSupport.from_trees(all_trees(5, rooted=True), taxa=ALIGNMENT.taxa)
    with pytest.raises(ValueError, match="support must be of unrooted trees"):
        VariationalPhylogeny(ALIGNMENT, rooted)
    with pytest.raises(ValueError, match=r"branch_rate must be a number in .*, got -1"):
        VariationalPhylogeny(ALIGNMENT, support, branch_rate=-1.0)


def test_inverse_temperature_scales_the_likelihood_alone(support):
    phylogeny = VariationalPhylogeny(ALIGNMENT, support)
    trace = poutine.trace(phylogeny.guide).get_trace()

    def terms():
        model = poutine.trace(poutine.replay(phylogeny.model, trace)).get_trace()
        model.compute_log_prob()
        return {name: model.nodes[name]["log_prob"] for name in ("topology", "branch_lengths", "alignment")}

    whole = terms()
    phylogeny.model.inverse_temperature.fill_(0.25)
    for name, log_prob in terms().items():
        torch.testing.assert_close(log_prob, whole[name] * (0.25 if name == "alignment" else 1))


def test_the_support_follows_the_parameters_to_their_device(support):
    lengths = SplitBranchLengths(support).to("meta")
    assert lengths.support.device.type == lengths.effects.device.type == "meta"
    assert support.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize(
    "elbo", [TraceVIMCO_ELBO(10, max_plate_nesting=0, vectorize_particles=True), TraceUnorderedSet_ELBO(8)]
)
def test_training_on_cuda(support, elbo):
    phylogeny = VariationalPhylogeny(ALIGNMENT, support).to("cuda")
    elbo.differentiable_loss(phylogeny.model, phylogeny.guide).backward()
    assert phylogeny.guide.logits.grad.device.type == "cuda"
    assert phylogeny.guide.logits.grad.abs().sum() > 0
    assert phylogeny.lower_bound(10, 2).device.type == "cuda"
