"""Messages for models, methods and settings for which there is no estimate."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ext.inference.evidence import EvidenceSettings, EvidenceWarning, compare_evidence, estimate_evidence
from tests.inference.evidence.toys import copies, gamma_exponential, regression

ONE = torch.ones(())
X = torch.tensor([0.3, 1.0, 0.2])


def observed(loc, obs=ONE):
    pyro.sample("y", dist.Normal(loc, 1.0), obs=obs)


def discrete():
    z = pyro.sample("z", dist.Categorical(torch.ones(3)))
    observed(z.float())


def improper():
    observed(pyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ())))


def flat():
    observed(pyro.sample("a", dist.Normal(0.0, 1.0).mask(False)))


def flat_in_part():
    with pyro.plate("copies", 2), pyro.poutine.mask(mask=torch.tensor([True, False])):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    observed(a.sum(-1))


def tempered_prior():
    with pyro.poutine.scale(scale=0.5):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    observed(a)


def point_mass():
    observed(pyro.sample("a", dist.Delta(ONE)))


def nothing_latent():
    observed(ONE)


def nothing_observed():
    pyro.sample("a", dist.Normal(0.0, 1.0))


def undefined():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal((-(a**2) - 1).sqrt(), 1.0, validate_args=False), obs=ONE)


def subsampled():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 3, subsample_size=2) as i:
        pyro.sample("y", dist.Normal(a, 1.0), obs=X[i])


class Elsewhere(dist.Normal):
    support = dist.constraints.unit_interval


def wrong_support():
    observed(pyro.sample("b", Elsewhere(5.0, 1.0)))


def unbounded():
    observed(pyro.sample("a", dist.Normal(0.0, 1.0)))
    pyro.factor("bad", torch.tensor(torch.inf))


def noisy():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    observed(a + 10 * torch.randn(()))


def impossible():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.factor("never", torch.where(a > 100, 0.0, -torch.inf))


def half():
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.factor("positive", torch.where(a > 0, 0.0, -torch.inf))


TINY = EvidenceSettings(
    num_importance=100, num_elbo=20, num_posterior=160, num_power=40, num_powers=4, num_live=10, num_warmup=20
)


def normal():
    observed(pyro.sample("a", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)))


TABLE = [
    (discrete, {}, "site 'z' is discrete.*sum it out"),
    (improper, {}, "site 'a' has an improper prior"),
    (flat, {}, "site 'a' is masked, which leaves it an improper prior"),
    (flat_in_part, {}, "site 'a' is masked"),
    (tempered_prior, {}, "site 'a' is scaled, so that its prior does not integrate to 1"),
    (point_mass, {}, "site 'a' is a Delta"),
    (nothing_latent, {}, "no latent sites"),
    (nothing_observed, {}, "no observed sites"),
    (subsampled, {}, "plate 'data' subsamples 2 of 3"),
    (wrong_support, {}, "values of latent site 'b' are lost.*sample it within a fixed support"),
    (unbounded, {}, "log-likelihood of the model is inf"),
    (undefined, {}, "log-likelihood of the model is nan at a draw from its prior"),
    (noisy, {}, "remove randomness"),
    (impossible, {"method": "naive_monte_carlo"}, "density is zero at all"),
    (impossible, {"method": "nested_sampling"}, "found none of 10000 points to have a positive likelihood"),
    (impossible, {"method": "stepping_stone"}, "likelihood is zero at all of 20000 draws from the prior"),
    (gamma_exponential(), {"method": "guess"}, "method must be one of ml, map.*got 'guess'"),
    (gamma_exponential(), {"method": "map", "num_samples": 10}, "num_samples=10 has no meaning for map"),
    (gamma_exponential(), {"method": "vbis", "num_samples": 0}, "num_samples must be an integer of at least"),
    (gamma_exponential(), {"method": "bridge", "num_samples": 2.5}, "num_samples must be an integer"),
    (gamma_exponential(), {"method": "bridge", "posterior": {}}, "posterior lacks latent site 'rate'"),
    (
        gamma_exponential(),
        {"method": "bridge", "posterior": {"rate": torch.ones(4, 2, 3)}},
        r"posterior\['rate'\] must have shape",
    ),
    (gamma_exponential(), {"method": "bridge", "posterior": {"rate": -torch.ones(40).double()}}, "outside"),
    (gamma_exponential(), {"method": "bridge", "posterior": {"rate": torch.ones(2).double()}}, "at least 4"),
    (gamma_exponential(), {"method": "vbis", "guide": lambda: None}, "guide has no site 'rate'"),
    (regression(), {"method": "gamma_laplus"}, "needs positive latents, but site 'weights'"),
    (regression(), {"method": "gamma_laplus_is"}, "needs positive latents, but site 'weights'"),
]


@pytest.mark.parametrize(("model", "options", "message"), TABLE)
def test_calls(model, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        estimate_evidence(model, **{"method": "vbis", "seed": 0, **options})
    assert "\n" not in str(caught.value)


def test_observed_sites_may_be_masked_or_scaled():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0).mask(True))
        with pyro.plate("data", 3), pyro.poutine.mask(mask=torch.tensor([True, False, False])):
            pyro.sample("y", dist.Normal(a, 1.0), obs=X)
        with pyro.poutine.scale(scale=1e-12):
            pyro.sample("more", dist.Normal(a, 1.0), obs=ONE)

    exact = float(dist.Normal(0.0, 2**0.5).log_prob(X[0]))
    assert estimate_evidence(model, method="vbis", seed=0).log_evidence == pytest.approx(exact, abs=1e-4)


def test_live_points_that_collapse():
    toy, settings = copies(4), EvidenceSettings(num_live=4, nested_steps=1)

    def run_until_one_does():
        for seed in range(20):
            estimate_evidence(toy, method="nested_sampling", seed=seed, settings=settings)

    with pytest.raises(ValueError, match="only copies of one point left, of 4 that moved 1 steps"):
        run_until_one_does()


@pytest.mark.filterwarnings("error::pyro_ext.inference.evidence.EvidenceWarning")
def test_methods_that_do_not_apply_stop_a_comparison_before_it_begins():
    runs = [0]

    def counted():
        runs[0] += 1
        return regression()()

    with pytest.raises(ValueError, match="gamma_laplus needs positive latents"):
        compare_evidence(counted, methods=["naive_monte_carlo", "vbis", "gamma_laplus"], seed=0, settings=TINY)
    assert runs[0] < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains must be an integer of at least 1"),
        ({"num_powers": 1}, "num_powers must be an integer of at least 2"),
        ({"target_accept": 1.0}, r"target_accept must be a number in \(0, 1\)"),
        ({"stabilizer": 0.0}, "stabilizer must be a number in"),
        ({"powers": [0.0, 0.5]}, "powers must increase from 0 to 1"),
        ({"reference_powers": [0.0, 0.7, 0.5, 1.0]}, "reference_powers must increase"),
        ({"nested_steps": 0}, "nested_steps must be"),
    ],
)
def test_settings(options, message):
    with pytest.raises(ValueError, match=message):
        EvidenceSettings(**options)


@pytest.mark.filterwarnings("ignore:the variance of 1:pyro_ext.inference.evidence.EvidenceWarning")
def test_comparison_lists_or_raises_what_does_not_apply():
    comparison = compare_evidence(normal, methods=None, seed=0, settings=TINY)
    assert "gamma_laplus" in comparison.refused
    assert "needs positive latents" in comparison.to_markdown()
    with pytest.raises(ValueError, match="needs positive latents"):
        compare_evidence(normal, methods=["gamma_laplus"])
    with pytest.raises(ValueError, match="got 'nope'"):
        compare_evidence(normal, methods=["nope"])
    with pytest.raises(ValueError, match="at least one method"):
        compare_evidence(normal, methods=[])
    with pytest.raises(KeyError, match="no estimate by gamma_laplus: gamma_laplus needs positive latents"):
        comparison["gamma_laplus"]


def test_a_method_that_fails_does_not_stop_the_others():
    with pytest.warns(EvidenceWarning, match="path_sampling failed: path sampling needs a positive likelihood"):
        comparison = compare_evidence(half, methods=["path_sampling", "naive_monte_carlo"], seed=0, settings=TINY)
    assert list(comparison) == ["naive_monte_carlo"]
    assert "needs a positive likelihood" in comparison.to_markdown()
    with (
        pytest.warns(EvidenceWarning, match="path_sampling failed"),
        pytest.raises(ValueError, match="path sampling needs a positive"),
    ):
        compare_evidence(half, methods=["path_sampling"], seed=0, settings=TINY)
