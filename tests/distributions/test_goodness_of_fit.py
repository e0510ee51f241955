"""Pyro's own goodness-of-fit test of every continuous distribution, in unconstrained coordinates.

On the values themselves it fails for right densities, since these pile up at the bounds of their supports.
"""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.testing import gof
from scipy.stats import chi2

from pyro_ext.distributions import (
    ExpRelaxedOneHotCategorical,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    RelaxedRoundingPermutation,
    RelaxedStickBreakingPermutation,
    constraints,
)
from pyro_ext.distributions.goodness_of_fit import free_coordinates
from pyro_ext.distributions.transforms import BirkhoffStickBreaking

# Pyro's; its statistic, of distances that depend on each other, alarms more often than that in several dimensions, so
# the seed is fixed and there are at most four.
TEST_FAILURE_RATE = 2e-5
NUM_SAMPLES = 50_000
LOGITS = torch.tensor([0.3, -1.0, 0.7, 0.0], dtype=torch.float64)
TWO_TEMPERATURES = torch.tensor([0.5, 1.2], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _exact_tail(monkeypatch):
    """Pyro's own series for the tail of chi-square comes out as 1 for large values: hopeless fits would pass."""
    monkeypatch.setattr(gof, "chi2sf", lambda x, dof: float(chi2.sf(x, dof)))


def support_coordinates(d, x):
    return free_coordinates(d.support, x)


def psi(d, x):
    """The Gaussian cells before rounding, without the gaps that it leaves between permutations."""
    return d.unrounded(x).flatten(-2), (d.event_shape.numel() * d.temperature.log()).expand(x.shape[:-2])


DISTRIBUTIONS = {
    "relaxed one-hot, 3": (RelaxedOneHotCategorical(TWO_TEMPERATURES, logits=LOGITS[:3]), support_coordinates),
    "relaxed one-hot, 4": (RelaxedOneHotCategorical(0.7, logits=LOGITS), support_coordinates),
    "its logarithm": (ExpRelaxedOneHotCategorical(torch.tensor(0.1), logits=LOGITS), support_coordinates),
    "relaxed Bernoulli": (RelaxedBernoulli(TWO_TEMPERATURES, logits=LOGITS[:2]), support_coordinates),
    "its log-odds": (LogitRelaxedBernoulli(TWO_TEMPERATURES / 10, logits=LOGITS[:2]), support_coordinates),
    "stick-breaking, 2": (
        RelaxedStickBreakingPermutation(LOGITS.reshape(4, 1, 1), 1.0, torch.tensor(0.4)),
        support_coordinates,
    ),
    "stick-breaking, 3": (RelaxedStickBreakingPermutation(LOGITS.reshape(2, 2), 1.0, 0.7), support_coordinates),
    "rounding": (RelaxedRoundingPermutation(LOGITS.reshape(2, 2), 0.4, torch.tensor(0.3)), psi),
}


def p_values(name, factor=1.0):
    """One for each distribution of the batch, the density multiplied by ``factor``."""
    d, coordinates = DISTRIBUTIONS[name]
    x = d.sample((NUM_SAMPLES,))
    y, log_volume = coordinates(d, x)
    density = (d.log_prob(x) + log_volume).exp().reshape(NUM_SAMPLES, -1) * factor
    y = y.reshape(*density.shape, -1)
    varies = (y != y[:1]).any(0).any(0)
    return [gof.auto_goodness_of_fit(y[:, b, varies], density[:, b]) for b in range(density.shape[1])]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_samples_follow_the_density(name):
    assert min(p_values(name)) > TEST_FAILURE_RATE


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_density_off_by_a_tenth_would_be_found(name):
    assert max(p_values(name, 1.1)) < TEST_FAILURE_RATE


@pytest.mark.parametrize("support", [constraints.log_simplex, dist.constraints.simplex])
def test_log_ratios_leave_out_the_impossible(support):
    weights = torch.tensor([[[0.2, 0.0, 0.8], [0.5, 0.5, 0.0]]], dtype=torch.float64)
    value = weights if support is dist.constraints.simplex else weights.log()
    y, log_volume = free_coordinates(support, value)
    expected = torch.tensor([[[0.25, 1.0, 1.0], [1.0, 1.0, 1.0]]], dtype=torch.float64).log()
    torch.testing.assert_close(y, expected)
    volume = torch.tensor([[0.16, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(log_volume.exp(), volume if support is dist.constraints.simplex else volume**0)


def test_volumes_are_jacobians():
    """Of the map from coordinates to the entries that are free."""
    for support, value, free in [
        (dist.constraints.simplex, torch.tensor([0.2, 0.5, 0.3]), lambda y: torch.cat([y, y.new_zeros(1)]).softmax(-1)),
        (dist.constraints.unit_interval, torch.tensor(0.3), lambda y: y.sigmoid()),
        (dist.constraints.positive, torch.tensor(0.3), lambda y: y.exp()),
    ]:
        y, log_volume = free_coordinates(support, value.double().unsqueeze(0))
        y = y[0, : max(1, value.numel() - 1)]
        jacobian = torch.autograd.functional.jacobian(free, y)[: len(y)]
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_volume[0])


def test_volumes_of_doubly_stochastic_matrices_are_the_transforms_own():
    z = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    transform = BirkhoffStickBreaking()
    x = transform(z)
    y, log_volume = free_coordinates(constraints.doubly_stochastic, x)
    torch.testing.assert_close(y, z.flatten(-2), rtol=0, atol=1e-8)
    torch.testing.assert_close(log_volume, transform.log_abs_det_jacobian(z, x), rtol=0, atol=1e-8)


def test_a_support_without_coordinates_says_so():
    with pytest.raises(AssertionError, match=r"no coordinates are known .*: give coordinates, or skip"):
        free_coordinates(constraints.relaxed_subset(2), torch.ones(1, 3))
