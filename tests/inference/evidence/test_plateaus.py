"""Nested sampling where many points of the prior share one likelihood."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ext.inference.evidence import EvidenceSettings, EvidenceWarning, estimate_evidence
from pyro_ext.inference.evidence.shells import Shells, integrate_shells

F64 = torch.float64
ZERO, ONE = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)


def in_a_disc(inside, outside):
    """A likelihood that has one value in a disc of 8.7 % of the prior, and another one around it."""

    def model():
        x = pyro.sample("x", dist.Uniform(-3 * ONE, 3 * ONE).expand([2]).to_event(1))
        pyro.factor("D", torch.where(x.square().sum(-1) < 1, inside, outside))

    share = math.pi / 36
    return model, math.log(share * math.exp(inside) + (1 - share) * math.exp(outside))


def clamped():
    """A peak of 0.9 % of the prior, from a plateau around it."""

    def log_likelihood(x):
        return torch.clamp(-0.5 * (x - 3).square() / 0.01, min=-20.0)

    def model():
        pyro.factor("D", log_likelihood(pyro.sample("x", dist.Normal(ZERO, ONE))))

    x = torch.linspace(-8, 8, 1_000_001, dtype=F64)
    return model, float(torch.trapezoid((log_likelihood(x) - x.square() / 2).exp(), x).log() - 0.9189385332)


def of_radius(log_likelihood):
    """A likelihood of the distance from the center of a standard normal prior in the plane."""

    def model():
        x = pyro.sample("x", dist.Normal(ZERO, ONE).expand([2]).to_event(1))
        pyro.factor("D", log_likelihood(x.norm(dim=-1)))

    r = torch.linspace(0, 12, 1_000_001, dtype=F64)
    return model, float(torch.trapezoid(r * (log_likelihood(r) - r.square() / 2).exp(), r).log())


def ring(r):
    """Falls from the center, is level over a ring of 63 % of the prior, and falls again."""
    return torch.where(r > 1.5, -5 * (r - 1.5), torch.where(r > 0.3, 0.0, 2 - 20 * (r - 0.3)))


def hill(r):
    """Falls from a level top of 4 % of the prior."""
    return torch.clamp(-20 * (r - 0.3), max=0.0)


def stairs(r):
    """Levels everywhere."""
    return -torch.floor(4 * r)


PROBLEMS = {
    "bottom": in_a_disc(math.log(10.0), 0.0),
    "zero": in_a_disc(0.0, -math.inf),
    "narrow": clamped(),
    "middle": of_radius(ring),
    "top": of_radius(hill),
    "stairs": of_radius(stairs),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_plateaus(name):
    model, exact = PROBLEMS[name]
    estimate = estimate_evidence(model, method="nested_sampling", seed=0)
    assert abs(estimate.log_evidence - exact) < 3 * estimate.std_error  # a false alarm in 370 reseedings
    assert estimate.std_error < 0.45


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_plateaus_with_ten_seeds(name):
    model, exact = PROBLEMS[name]
    estimates = [estimate_evidence(model, method="nested_sampling", seed=seed) for seed in range(10)]
    z = torch.tensor([(e.log_evidence - exact) / e.std_error for e in estimates])
    assert z.abs().max() < 3  # each: some false alarm in 3 % of reseedings
    assert abs(z.mean()) < 3 / 10**0.5


def test_points_at_equal_likelihoods_are_one_shell():
    shells = Shells.of_round(torch.tensor([-math.inf, -math.inf, 1.0, 2.0, 2.0, 2.0, 3.0, 4.0]), 6)
    assert shells.likelihood.tolist() == [-math.inf, 1.0, 2.0]
    assert shells.counts.tolist() == [8, 6, 5]
    assert shells.deaths.tolist() == [2, 1, 3]
    steps = shells.log_shares().diff(prepend=torch.zeros(1, dtype=F64))
    torch.testing.assert_close(steps, torch.tensor([math.log(6 / 8), -1 / 6, math.log(2 / 5)], dtype=F64))


def test_share_of_a_plateau_and_its_error():
    # With n live points, of which a binomial number is not on the plateau of likelihood zero, Z is their share.
    share, count = 0.3, 200
    left = torch.distributions.Binomial(count, torch.tensor(share)).sample((400,)).long().tolist()
    results = []
    for survivors in left:
        dead = torch.tensor([count - survivors])
        shells = Shells(torch.tensor([-math.inf]), torch.tensor([count]), dead)
        results.append(integrate_shells(shells, torch.zeros(survivors)))
    values, errors = torch.tensor([r[0] for r in results]), torch.tensor([r[1] for r in results])
    assert abs(values.exp().mean() - share) < 4 * values.exp().std() / 20
    assert errors.mean() == pytest.approx(float(values.std()), rel=0.15)


def test_a_constant_likelihood():
    def model():
        pyro.sample("x", dist.Normal(ZERO, ONE))
        pyro.factor("D", torch.tensor(-2.0))

    with pytest.warns(EvidenceWarning, match="misses a narrow region of larger likelihood"):
        estimate = estimate_evidence(model, method="nested_sampling", seed=0)
    assert estimate.log_evidence == pytest.approx(-2.0)


def test_more_live_points_find_a_narrow_region():
    # Positive on 0.02 % of the prior: 4 live points draw 800 times from the prior, 200 points 40,000 times.
    def model():
        x = pyro.sample("x", dist.Uniform(ZERO, ONE))
        pyro.factor("D", torch.where(x < 2e-4, 0.0, -math.inf))

    with pytest.raises(ValueError, match=r"found none of 800 points to have a positive.*raise num_live \(now 4\)"):
        estimate_evidence(model, method="nested_sampling", seed=0, settings=EvidenceSettings(num_live=4))
    estimate = estimate_evidence(model, method="nested_sampling", seed=0, settings=EvidenceSettings(num_live=200))
    assert abs(estimate.log_evidence - math.log(2e-4)) < 3 * estimate.std_error < 1.5


@pytest.mark.filterwarnings("ignore:the log-likelihood is 0 at 800:pyro_ext.inference.evidence.EvidenceWarning")
def test_a_single_point_far_above_a_plateau_is_no_estimate():
    def model():
        x = pyro.sample("x", dist.Uniform(ZERO, ONE))
        pyro.factor("D", torch.where(x < 1e-3, 50.0, 0.0))

    def run_until_one_is_found():
        for seed in range(20):
            estimate_evidence(model, method="nested_sampling", seed=seed, settings=EvidenceSettings(num_live=4))

    with pytest.raises(ValueError, match=r"only one of 800 points to have a log-likelihood above 0.*raise num_live"):
        run_until_one_is_found()
