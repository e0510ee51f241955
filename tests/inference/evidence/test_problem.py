"""A model as densities: batches against single runs, gradients, coordinates, data units."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_ext.distributions import TreeLikelihood
from pyro_ext.inference.evidence import EvidenceWarning
from pyro_ext.inference.evidence.problem import Problem
from tests.inference.evidence.toys import TOYS, copies

F64 = torch.float64
DATA = torch.tensor([0.5, -1.0, 2.0], dtype=F64)


def mixed():
    """Sites of several supports and shapes, in nested plates, scaled and masked."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3, dtype=F64)))
    scale = pyro.sample("scale", dist.HalfCauchy(torch.ones((), dtype=F64)))
    with pyro.plate("groups", 2, dim=-2):
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=F64), 2.0))
        bounded = pyro.sample("bounded", dist.Uniform(-torch.ones((), dtype=F64), 1.0))
        with pyro.plate("data", 3, dim=-1), pyro.poutine.scale(scale=0.5):
            pyro.sample("x", dist.Normal(loc + bounded, scale).mask(DATA > -1.5), obs=DATA)
    pyro.factor("extra", weights[..., 0].log())


def not_batched():
    """Fails on a batch: a matrix product over what would be a particle dim."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
    with pyro.plate("data", 3):
        pyro.sample("x", dist.Normal(torch.ones(3, 2, dtype=F64) @ w, 1.0), obs=DATA)


def wrong_on_batches():
    """Runs on a batch, and mixes its particles."""
    w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=F64), 1.0))
    pyro.sample("x", dist.Normal(w.mean(), 1.0), obs=DATA[0])


@pytest.mark.parametrize("model", [mixed, *(toy() for toy in TOYS.values())])
def test_batches_equal_single_runs(model):
    batched, single = Problem(model, vectorize=True, batch_size=4), Problem(model, vectorize=False)
    assert batched.vectorized
    z = batched.prior_points(9)
    assert z.shape == (9, batched.dim)
    for a, b in zip(batched.at(z), single.at(z), strict=True):
        torch.testing.assert_close(a, b)
    units, weights = batched.units(z)
    other, _ = single.units(z)
    torch.testing.assert_close(units, other)
    torch.testing.assert_close(units @ weights, batched.at(z).log_likelihood)


def test_densities_of_a_mixed_model():
    # By hand, at one point.
    problem = Problem(mixed)
    values = {
        "weights": torch.tensor([[0.2, 0.5, 0.3]], dtype=F64),
        "scale": torch.tensor([1.5], dtype=F64),
        "loc": torch.tensor([[[0.3], [-0.4]]], dtype=F64),
        "bounded": torch.tensor([[[0.1], [0.7]]], dtype=F64),
    }
    densities = problem.at_values(values)
    normal = torch.distributions.Normal
    mean = (values["loc"] + values["bounded"])[0]
    likelihood = 0.5 * normal(mean, 1.5).log_prob(DATA).sum() + values["weights"][0, 0].log()
    prior = torch.distributions.Dirichlet(torch.ones(3, dtype=F64)).log_prob(values["weights"][0])
    prior = prior + torch.distributions.HalfCauchy(1.0).log_prob(values["scale"][0])
    prior = prior + normal(0.0, 2.0).log_prob(values["loc"]).sum() + 2 * torch.tensor(0.5).log()
    torch.testing.assert_close(densities.log_likelihood[0], likelihood)
    torch.testing.assert_close(densities.log_prior[0], prior)
    z = problem.coordinates.unconstrain(values)
    assert z.shape == (1, 2 + 1 + 2 + 2)
    back, log_jacobian = problem.coordinates.constrain(z)
    for name, value in values.items():
        torch.testing.assert_close(back[name], value)

    # The Jacobian of the whole map, by autograd, with one weight left out.
    def coordinates(z):
        values, _ = problem.coordinates.constrain(z[None])
        x = problem.coordinates.flatten(values)[0]
        return torch.cat([x[:2], x[3:]])

    jacobian = torch.autograd.functional.jacobian(coordinates, z[0])
    torch.testing.assert_close(log_jacobian[0], jacobian.det().abs().log())


def test_gradient_against_differences():
    problem = Problem(mixed)
    z = problem.prior_points(3)
    _, gradient, _ = problem.differentiate(z, lambda d, *_: d.log_joint)
    step = 1e-6
    for i in range(problem.dim):
        shift = step * torch.eye(problem.dim, dtype=F64)[i]
        slope = (problem.at(z + shift).log_joint - problem.at(z - shift).log_joint) / (2 * step)
        torch.testing.assert_close(gradient[:, i], slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [not_batched, wrong_on_batches])
def test_models_that_cannot_be_batched_run_one_by_one(model):
    with pytest.warns(EvidenceWarning, match="one particle at a time"):
        problem = Problem(model)
    assert not problem.vectorized
    with pytest.raises(ValueError, match="vectorize=False"):
        Problem(model, vectorize=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = Problem(model, vectorize=False)
    z = single.prior_points(5)
    torch.testing.assert_close(problem.at(z).log_joint, single.at(z).log_joint)
    _, gradient, _ = problem.differentiate(z, lambda d, *_: d.log_joint)
    assert gradient.abs().sum(0).min() > 0


def test_evaluations_are_batched():
    toy, runs = copies(), [0]

    def counted():
        runs[0] += 1
        return toy()

    problem = Problem(counted, batch_size=100)
    before = runs[0]
    problem.at(torch.zeros(250, problem.dim, dtype=F64))
    assert runs[0] - before == 3


def test_positive_coordinates():
    def model():
        pyro.sample("a", dist.Gamma(torch.ones(2, dtype=F64), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        c = pyro.sample("c", dist.Pareto(torch.ones((), dtype=F64), 2.0))  # above 1
        pyro.sample("x", dist.Normal(b + c, 1.0), obs=DATA[0])

    coordinates = Problem(model).coordinates
    assert coordinates.positive().tolist() == [True, True, False, False]
    assert [coordinates.name_of(i) for i in range(4)] == ["a", "a", "b", "c"]
    assert isinstance(coordinates.sites[1].support, type(constraints.real))


def test_units_of_a_tree_likelihood_are_site_patterns():
    tree = torch.tensor([-1, 3, 3, 0])
    patterns = torch.eye(4, dtype=F64)[torch.tensor([[0, 0], [0, 1], [0, 1]])]
    weights = torch.tensor([5.0, 2.0], dtype=F64)

    def model():
        lengths = pyro.sample("lengths", dist.Exponential(torch.full((3,), 10.0, dtype=F64)).to_event(1))
        pyro.sample("D", TreeLikelihood(tree, lengths, weights=weights), obs=patterns)

    problem = Problem(model, vectorize=True)
    z = problem.prior_points(6)
    units, occurrences = problem.units(z)
    assert units.shape == (6, 2)
    assert occurrences.tolist() == [5.0, 2.0]
    torch.testing.assert_close(units @ occurrences, problem.at(z).log_likelihood)


def test_model_arguments():
    def model(x, *, scale):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    problem = Problem(model, (DATA,), {"scale": 2.0})
    densities = problem.at(torch.zeros(1, 1, dtype=F64))
    torch.testing.assert_close(densities.log_likelihood[0], torch.distributions.Normal(0.0, 2.0).log_prob(DATA).sum())
