"""Branch lengths on a known topology: sites, densities, every process, vectorised particles, bad input."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_ext.distributions import TreeLikelihood
from pyro_ext.models.phylo import FixedTopology, Process
from pyro_ext.phylo import Alignment

ALIGNMENT = Alignment.from_sequences({"a": "ACGTTACA", "b": "ACGATGCA", "c": "AGGA-GCC", "d": "AGGTTRCC"})
TREE = torch.tensor([-1, 4, 5, 5, 0, 4])
PROCESSES = {
    Process(): (),
    Process("K80"): ("kappa",),
    Process("HKY85"): ("kappa",),
    Process("HKY85", frequencies="estimated", rates="weibull"): ("kappa", "frequencies", "shape"),
    Process("GTR", frequencies="equal", rates="gamma", invariant=True): ("exchange", "shape", "invariant"),
}


@pytest.mark.parametrize("process", PROCESSES)
def test_sites_of_every_process(process):
    model = FixedTopology(ALIGNMENT, TREE, process)
    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    latent = set(trace.stochastic_nodes)
    assert latent == {"branch_lengths", *PROCESSES[process]} == {"branch_lengths", *process.free_parameters}
    assert trace.observation_nodes == ["alignment"]
    assert trace.log_prob_sum().isfinite()


@pytest.mark.parametrize("process", PROCESSES)
def test_vectorised_particles_are_independent_runs(process):
    model = FixedTopology(ALIGNMENT, TREE, process)

    def many():
        with pyro.plate("particles", 4, dim=-1):
            model()

    trace = poutine.trace(many).get_trace()
    trace.compute_log_prob()
    for i in range(4):
        values = {name: trace.nodes[name]["value"][i] for name in ("branch_lengths", *process.free_parameters)}
        one = poutine.trace(poutine.condition(model, values)).get_trace()
        one.compute_log_prob()
        for name in (*values, "alignment"):
            torch.testing.assert_close(trace.nodes[name]["log_prob"][i], one.nodes[name]["log_prob"])


def test_density_is_prior_times_likelihood():
    model = FixedTopology(ALIGNMENT, TREE, branch_rate=5.0)
    lengths = torch.rand(5, dtype=torch.float64)
    trace = poutine.trace(poutine.condition(model, {"branch_lengths": lengths})).get_trace()
    expected = dist.Exponential(torch.tensor(5.0, dtype=torch.float64)).log_prob(lengths).sum()
    expected = expected + TreeLikelihood(TREE, lengths, weights=ALIGNMENT.weights).log_prob(ALIGNMENT.patterns)
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_rooted_trees_and_float32():
    model = FixedTopology(ALIGNMENT.to(dtype=torch.float32), torch.tensor([5, 5, 6, 6, -1, 4, 4]))
    lengths = poutine.trace(model).get_trace().nodes["branch_lengths"]["value"]
    assert lengths.shape == (6,)
    assert lengths.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FixedTopology(ALIGNMENT, TREE[:-1]), r"tree must be int64 \(6,\) or \(7,\) for the 4 taxa"),
        (lambda: FixedTopology(ALIGNMENT, TREE.double()), "tree must be int64"),
        (lambda: FixedTopology(ALIGNMENT, TREE, branch_rate=0.0), "branch_rate must be a number in .*, got 0.0"),
        (lambda: FixedTopology(ALIGNMENT, TREE, branch_rate=1e-7), r"in \[1e-06, 1e\+09\], got 1e-07"),
        (lambda: Process("F81"), "substitution must be one of JC69, K80, HKY85, GTR; got 'F81'"),
        (lambda: Process("K80", frequencies="estimated"), "frequencies='estimated' does not go with K80"),
        (lambda: Process(rates="lognormal"), "rates must be one of constant, gamma, weibull; got 'lognormal'"),
        (lambda: Process(rates="gamma", num_categories=0), "num_categories must be an integer of at least 1, got 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
