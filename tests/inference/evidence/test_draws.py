"""The draws of evidence estimates: their moments, weights and shapes, copies, and the way to ArviZ."""

import copy
import math
import pickle
import sys
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_ext.inference import EVIDENCE_METHODS, EvidenceDraws, EvidenceEstimate, compare_evidence, estimate_evidence
from pyro_ext.inference.evidence import EvidenceSettings, EvidenceWarning
from pyro_ext.inference.evidence.problem import Densities
from tests.inference.evidence.toys import X, copies, gamma_exponential

WITHOUT = ("ml", "map", "gamma_laplus", "lognormal_laplus", "beta_prime_laplus")
WEIGHTED = ("gamma_laplus_is", "elbo", "vbis", "naive_monte_carlo", "nested_sampling")
SETTINGS = EvidenceSettings(num_importance=4000, num_elbo=4000, num_posterior=2000, num_power=500, num_powers=8)


@pytest.fixture(scope="module")
def comparison():
    with pytest.warns(EvidenceWarning, match="harmonic"):
        return compare_evidence(gamma_exponential(), seed=0, settings=SETTINGS)


@pytest.mark.parametrize("method", [name for name in EVIDENCE_METHODS if name not in WITHOUT])
def test_moments_of_the_posterior(comparison, method):
    """Means and variances within 4.5 standard errors of those of the Gamma posterior."""
    draws = comparison[method].draws
    assert (draws.log_weights is not None) == (method in WEIGHTED)
    rate = draws.sites["rate"]
    assert rate.shape == draws.shape == draws.log_likelihood.shape == draws.log_prior.shape
    shape, scale = 3 + len(X), 2 + float(X.sum())
    size = rate.numel()
    if draws.log_weights is not None:
        weights = draws.log_weights.exp()
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        size = float(1 / weights.square().sum())
    else:
        size /= 4  # of chains
    mean = draws.mean()["rate"]
    error = 4.5 / math.sqrt(size)
    assert float(mean) == pytest.approx(shape / scale, rel=error / math.sqrt(shape))
    again = draws.resample(4000, seed=1)["rate"]
    assert again.shape == (4000,)
    variance = shape / scale**2
    assert float(again.var()) == pytest.approx(variance, rel=error * math.sqrt(2 + 6 / shape) + 0.1)


@pytest.mark.parametrize("method", ["bridge", "vbis", "nested_sampling", "stepping_stone"])
def test_densities_belong_to_the_values(comparison, method):
    draws = comparison[method].draws
    rate = draws.sites["rate"]
    likelihood = dist.Exponential(rate.unsqueeze(-1)).log_prob(X).sum(-1)
    torch.testing.assert_close(draws.log_likelihood, likelihood)
    torch.testing.assert_close(draws.log_prior, dist.Gamma(rate.new_tensor(3.0), 2.0).log_prob(rate))


@pytest.mark.parametrize("method", WITHOUT)
def test_methods_without_draws(comparison, method):
    assert comparison[method].draws is None
    with pytest.raises(ValueError, match=f"{method} has no draws: use a method that draws, such as bridge"):
        comparison[method].to_arviz()


def test_nested_sampling_weights_add_up_to_the_evidence():
    """On a plateau, points share its mass: weights times values give a mean that is known."""

    def model():
        x = pyro.sample("x", dist.Uniform(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.factor("step", torch.where(x[..., 0] < 0.25, 0.0, -torch.inf))

    draws = estimate_evidence(model, method="nested_sampling", seed=1, num_samples=400).draws
    x = draws.sites["x"]
    assert x.shape == (*draws.shape, 2)
    assert draws.log_weights.exp()[x[..., 0] >= 0.25].sum() == 0
    mean = draws.mean()["x"]
    assert float(mean[0]) == pytest.approx(0.125, abs=4 * 0.25 / math.sqrt(12 * 100))
    assert float(mean[1]) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 100))


def test_sites_of_all_shapes():
    draws = estimate_evidence(copies(), method="bridge", seed=0, num_samples=80).draws
    chains, number = draws.shape
    assert draws.sites["rate"].shape[:2] == (chains, number)
    assert draws.sites["rate"].shape[-1] == 4
    assert (draws.sites["rate"] > 0).all()


def test_a_guide():
    def guide():
        pyro.sample("rate", dist.Gamma(X.new_tensor(9.0), 2 + X.sum()))

    toy = gamma_exponential()
    estimate = estimate_evidence(toy, method="vbis", guide=guide, seed=0, num_samples=500)
    assert estimate.draws.log_weights.exp().max() == pytest.approx(1 / 500)  # the guide is the posterior
    assert float(estimate.draws.mean()["rate"]) == pytest.approx(9 / (2 + float(X.sum())), rel=4 / math.sqrt(500 * 9))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_need_no_model(comparison, copied):
    before = comparison["vbis"]
    after = copied(before)
    assert after.log_evidence == before.log_evidence
    assert torch.equal(after.draws.sites["rate"], before.draws.sites["rate"])
    assert torch.equal(after.draws.log_weights, before.draws.log_weights)


def test_resampling_is_systematic():
    """The number of times that a draw comes differs by less than 1 from its expectation; impossible ones never come."""
    log_weights = torch.tensor([[0.1, 0.0, 0.55, 0.35, 0.0]]).log()
    zeros = torch.zeros(1, 5)
    points = torch.arange(5.0).view(1, 5, 1)
    draws = EvidenceDraws(points, lambda x: {"x": x[..., 0]}, Densities(zeros, zeros, zeros), log_weights)
    for seed in range(20):
        counts = torch.bincount(draws.resample(10, seed)["x"].long(), minlength=5)
        assert (counts - torch.tensor([1.0, 0.0, 5.5, 3.5, 0.0])).abs().max() < 1
    assert torch.equal(draws.resample(7, 3)["x"], draws.resample(7, 3)["x"])
    mean = torch.stack([draws.resample(1, seed)["x"] for seed in range(400)]).mean()
    assert float(mean) == pytest.approx(0.55 * 2 + 0.35 * 3, abs=4 * 0.9 / 20)
    with pytest.raises(ValueError, match="num_draws must be an integer of at least 1, got 0"):
        draws.resample(0)


def test_repr_and_equality(comparison):
    assert repr(comparison["bridge"].draws) == "EvidenceDraws(8 x 250)"
    assert "draws" not in repr(comparison["bridge"])
    assert EvidenceEstimate(1.0, 0.1, draws=comparison["bridge"].draws) == EvidenceEstimate(1.0, 0.1)


def test_to_arviz(comparison):
    arviz = pytest.importorskip("arviz")
    estimate = comparison["bridge"]
    data = estimate.to_arviz()
    assert data.posterior["rate"].shape == estimate.draws.shape
    torch.testing.assert_close(
        torch.as_tensor(data.sample_stats["total_log_likelihood"].values), estimate.draws.log_likelihood
    )
    lp = estimate.draws.log_likelihood + estimate.draws.log_prior
    torch.testing.assert_close(torch.as_tensor(data.sample_stats["lp"].values), lp)
    assert data.attrs["method"] == "bridge"
    assert data.attrs["log_evidence"] == estimate.log_evidence
    summary = arviz.summary(data, round_to="none")
    assert summary.loc["rate", "mean"] == pytest.approx(float(estimate.draws.mean()["rate"]))
    assert summary.loc["rate", "r_hat"] < 1.05
    weighted = comparison["vbis"].to_arviz(seed=2)
    assert weighted.posterior["rate"].shape == (1, 4000)
    again = comparison["vbis"].draws.resample(4000, seed=2)["rate"]
    torch.testing.assert_close(torch.as_tensor(weighted.posterior["rate"].values[0]), again)
    assert float(weighted.posterior["rate"].mean()) == pytest.approx(
        float(comparison["vbis"].draws.mean()["rate"]), rel=0.01
    )


def test_later_versions_of_arviz(comparison, monkeypatch):
    """From version 1 on there is no InferenceData, and ``from_dict`` takes one dictionary of all groups."""
    later = SimpleNamespace(from_dict=lambda groups: SimpleNamespace(groups=groups, attrs={}))
    monkeypatch.setitem(sys.modules, "arviz", later)
    data = comparison["bridge"].to_arviz()
    assert data.groups.keys() == {"posterior", "sample_stats"}
    assert data.groups["posterior"]["rate"].shape == comparison["bridge"].draws.shape
    assert data.attrs["inference_library"] == "pyro_ext"


def test_without_arviz(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"to_arviz needs ArviZ: pip install 'pyro-ext\[arviz\]'"):
        comparison["bridge"].to_arviz()
