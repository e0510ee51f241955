"""Processes at the values that floating point leaves of a sampler's proposals: no crash, no density."""

import pytest
import torch

from pyro_ext.inference.evidence import EvidenceSettings, estimate_evidence
from pyro_ext.inference.evidence.problem import Problem
from pyro_ext.models.phylo import FixedTopology, Process
from pyro_ext.phylo import Alignment
from pyro_ext.phylo.rates import WeibullRates

TREE = torch.tensor([-1, 4, 5, 5, 0, 4])
FULL = (
    Process("K80", rates="weibull"),
    Process("HKY85", frequencies="estimated", rates="gamma", invariant=True),
    Process("GTR", frequencies="estimated", rates="gamma"),
)
FAR = (-1e4, -800.0, -120.0, 120.0, 800.0, 1e4, torch.inf, -torch.inf, torch.nan)


def alignment(dtype):
    return Alignment.from_sequences({"a": "ACGTTACA", "b": "ACGATGCA", "c": "AGGA-GCC", "d": "AGGTTRCC"}).to(
        dtype=dtype
    )


@pytest.mark.parametrize("process", FULL, ids=lambda p: p.substitution)
def test_impossible_proposals_have_no_density(process, dtype):
    """Each coordinate in turn is moved far out: an error would end a chain, a density above others' trap it."""
    problem = Problem(FixedTopology(alignment(dtype), TREE, process), vectorize=True)
    inner = torch.zeros(1, problem.dim, dtype=dtype)
    usual = problem.at(inner).log_joint
    for value in FAR:
        moved = inner.repeat(problem.dim, 1).fill_diagonal_(value)
        density, gradient, _ = problem.differentiate(torch.cat([inner, moved]), lambda d, *_: d.log_joint)
        torch.testing.assert_close(density[:1], usual)
        assert gradient[0].isfinite().all()
        assert not (density[1:] > usual - 20).any(), value


@pytest.mark.parametrize("name", ["kappa", "frequencies", "exchange", "shape", "invariant"])
def test_the_bounds_change_no_density(name, dtype):
    """At the bounds and beyond them the likelihood is the same, to as many digits as there are."""
    process = Process("GTR" if name == "exchange" else "HKY85", "estimated", "weibull", invariant=True)
    model = FixedTopology(alignment(dtype), TREE, process)
    problem = Problem(model, vectorize=True)
    values = {site: draw[:1].expand(2, *draw.shape[1:]).clone() for site, draw in problem.prior_draws(2).items()}
    if values[name].dim() == 1:
        values[name] = values[name].new_tensor([1e-6, 0.0])
    else:
        values[name][:, 0] = 0
        values[name] /= values[name].sum(-1, keepdim=True)
        values[name][0, 0] = 1e-12
    likelihood = problem.at_values(values).log_likelihood
    torch.testing.assert_close(likelihood[0], likelihood[1], rtol=1e-4, atol=1e-4)


def test_small_shapes_of_weibull_rates(dtype):
    rates = WeibullRates(torch.tensor([1e-6, 1e-3, 1e4], dtype=dtype)).mixture(torch.zeros((), dtype=dtype)).rates
    expected = torch.tensor([[0, 0, 0, 4.0], [0, 0, 0, 4], [1, 1, 1, 1]], dtype=dtype)
    torch.testing.assert_close(rates, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["stepping_stone", "nested_sampling", "map"])
def test_evidence_of_a_model_with_everything_estimated(method):
    process = Process("GTR", frequencies="estimated", rates="gamma", invariant=True)
    settings = EvidenceSettings(num_warmup=15, num_power=24, num_powers=4, num_chains=4, num_live=10, nested_steps=10)
    model = FixedTopology(alignment(torch.float64), TREE, process)
    estimate = estimate_evidence(model, method=method, seed=0, settings=settings)
    assert -70 < estimate.log_evidence < 0
