"""The two public functions: shared parts, seeds, guides, given posterior draws, progress bars and tables."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from pyro_ext.inference.evidence import (
    EVIDENCE_METHODS,
    EvidenceEstimate,
    EvidenceSettings,
    EvidenceWarning,
    compare_evidence,
    estimate_evidence,
)
from tests.inference.evidence.toys import copies, gamma_exponential, lognormal_normal, regression

SMALL = EvidenceSettings(
    num_importance=500, num_elbo=50, num_posterior=160, num_power=48, num_powers=5, num_live=20, num_warmup=20
)


def test_nineteen_methods():
    names = (
        "ml map gamma_laplus lognormal_laplus beta_prime_laplus gamma_laplus_is elbo vbis naive_monte_carlo bridge "
        "harmonic_mean stabilized_harmonic_mean cpo ppd stepping_stone path_sampling modified_path_sampling "
        "generalized_stepping_stone nested_sampling"
    )
    assert tuple(names.split()) == EVIDENCE_METHODS


@pytest.mark.filterwarnings("ignore::pyro_ext.inference.evidence.EvidenceWarning")
def test_comparison_shares_and_repeats():
    toy, runs = gamma_exponential(), [0]

    def counted():
        runs[0] += 1
        return toy()

    comparison = compare_evidence(counted, seed=3, settings=SMALL)
    together = runs[0]
    assert list(comparison) == list(EVIDENCE_METHODS)
    assert len(comparison) == 19
    assert not comparison.refused
    runs[0] = 0
    for name in ("map", "gamma_laplus_is", "vbis", "bridge", "path_sampling", "generalized_stepping_stone"):
        alone = estimate_evidence(counted, method=name, seed=3, settings=SMALL)
        assert alone.log_evidence == pytest.approx(comparison[name].log_evidence, abs=1e-12), name
        assert alone.method == name
    assert together < 2 * runs[0]
    # The seconds of a method include those of the parts that it uses.
    assert comparison["cpo"].seconds > 0.5 * comparison["bridge"].seconds
    assert comparison["path_sampling"].seconds > 0.5 * comparison["stepping_stone"].seconds
    lines = comparison.to_markdown().splitlines()
    assert len(lines) == 2 + 19
    assert all(line.count("|") == 7 for line in lines)
    assert next(line for line in lines if line.startswith("| map ")).split("|")[-2].strip() == "score"


def test_seed_leaves_the_global_stream_alone():
    toy = lognormal_normal()
    before = torch.get_rng_state()
    first = estimate_evidence(toy, method="naive_monte_carlo", num_samples=200, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    other = estimate_evidence(toy, method="naive_monte_carlo", num_samples=200, seed=1)
    unseeded = [estimate_evidence(toy, method="naive_monte_carlo", num_samples=200) for _ in range(2)]
    assert len({e.log_evidence for e in (first, other, *unseeded)}) == 4


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trained_guides():
    # AutoMultivariateNormal is exact for a linear regression, AutoNormal is not.
    toy = regression()
    estimates = {}
    for kind in (AutoNormal, AutoMultivariateNormal):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        guide = kind(toy.model)
        svi = SVI(
            toy.model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=4, vectorize_particles=True)
        )
        for _ in range(200):
            svi.step()
        estimates[kind] = compare_evidence(toy, methods=["elbo", "vbis"], guide=guide, seed=0, settings=SMALL)
    exact = estimates[AutoMultivariateNormal]
    assert exact["elbo"].log_evidence > estimates[AutoNormal]["elbo"].log_evidence + 0.2
    assert abs(exact["vbis"].log_evidence - toy.exact) < min(4 * exact["vbis"].std_error, 0.2)
    assert exact["elbo"].log_evidence < toy.exact + 3 * exact["elbo"].std_error


def test_a_guide_in_plates_by_loop_and_batch():
    toy = copies(3)

    def guide():
        with pyro.plate("copies", 3, dim=-1):
            pyro.sample("rate", dist.Gamma(torch.full((3,), 8.0, dtype=torch.float64), 6.0))

    for vectorize in (True, False):
        settings = EvidenceSettings(num_importance=400, vectorize=vectorize)
        estimate = estimate_evidence(toy, method="vbis", guide=guide, seed=0, settings=settings)
        assert abs(estimate.log_evidence - toy.exact) < 4 * estimate.std_error
        assert estimate.std_error < 0.2


@pytest.mark.filterwarnings("ignore::pyro_ext.inference.evidence.EvidenceWarning")
def test_posterior_draws_of_nuts():
    toy = lognormal_normal()
    mcmc = MCMC(NUTS(toy.model, jit_compile=False), num_samples=120, warmup_steps=40, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()
    comparison = compare_evidence(toy, methods=["bridge", "ppd", "cpo", "harmonic_mean"], posterior=draws, seed=0)
    assert abs(comparison["bridge"].log_evidence - toy.exact) < min(3 * comparison["bridge"].std_error, 0.1)
    assert "divergences" not in comparison["bridge"].diagnostics
    assert comparison["cpo"].log_evidence < comparison["ppd"].log_evidence
    chained = {name: value.reshape(2, 60, *value.shape[1:]) for name, value in draws.items()}
    other = estimate_evidence(toy, method="ppd", posterior=chained, seed=0)
    assert other.log_evidence == pytest.approx(comparison["ppd"].log_evidence)


def test_scores_against_conjugate_formulas():
    # Predictive densities of a Gamma-Exponential model are Lomax.
    toy = gamma_exponential()
    from tests.inference.evidence.toys import RATE, SHAPE, X

    def lomax(shape, rate):
        return math.log(shape) + shape * math.log(rate) - (shape + 1) * torch.log(rate + X)

    shape, rate = SHAPE + len(X), RATE + X.sum()
    draws = torch.distributions.Gamma(torch.tensor(shape).double(), rate).sample((8000,))
    comparison = compare_evidence(toy, methods=["cpo", "ppd", "ml", "map"], posterior={"rate": draws}, seed=0)
    assert comparison["ppd"].log_evidence == pytest.approx(float(lomax(shape, rate).sum()), abs=0.02)
    left_out = math.log(shape - 1) + (shape - 1) * torch.log(rate - X) - shape * torch.log(rate)
    assert comparison["cpo"].log_evidence == pytest.approx(float(left_out.sum()), abs=0.05)
    best = len(X) / X.sum()
    assert comparison["ml"].log_evidence == pytest.approx(float((best.log() - best * X).sum()), abs=1e-6)
    mode = (shape - 1) / rate
    prior = torch.distributions.Gamma(torch.tensor(SHAPE).double(), RATE).log_prob(mode)
    assert comparison["map"].log_evidence == pytest.approx(float((mode.log() - mode * X).sum() + prior), abs=1e-6)
    assert all(math.isnan(estimate.std_error) for estimate in comparison.values())


def test_progress_bars(capsys):
    estimate = estimate_evidence(gamma_exponential(), method="stepping_stone", seed=0, settings=SMALL, progress=True)
    assert "powers" in capsys.readouterr().err
    quiet = estimate_evidence(gamma_exponential(), method="stepping_stone", seed=0, settings=SMALL)
    assert capsys.readouterr().err == ""
    assert quiet.log_evidence == estimate.log_evidence


def test_powers_can_be_chosen():
    settings = EvidenceSettings(powers=[0.0, 0.1, 0.5, 1.0], num_power=400, num_warmup=40, num_chains=16)
    estimate = estimate_evidence(gamma_exponential(), method="stepping_stone", seed=0, settings=settings)
    assert estimate.diagnostics["powers"] == pytest.approx([0.0, 0.1, 0.5, 1.0])
    assert len(estimate.diagnostics["steps"]) == 3
    assert abs(estimate.log_evidence - gamma_exponential().exact) < 3 * estimate.std_error < 0.3


def test_model_in_single_runs_gives_the_same():
    toy = gamma_exponential()
    loop = EvidenceSettings(vectorize=False, num_importance=50)
    batch = EvidenceSettings(vectorize=True, num_importance=50)
    a, b = (estimate_evidence(toy, method="gamma_laplus_is", seed=0, settings=s) for s in (loop, batch))
    assert not a.diagnostics["vectorized"]
    assert b.diagnostics["vectorized"]
    assert a.log_evidence == pytest.approx(b.log_evidence, abs=1e-9)


def test_unreliable_importance_weights_are_warned_about():
    with pytest.warns(EvidenceWarning, match="are effective"):
        estimate_evidence(regression(), method="naive_monte_carlo", num_samples=500, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate_evidence(gamma_exponential(), method="naive_monte_carlo", num_samples=2000, seed=0)


def test_chains_that_disagree_are_warned_about():
    draws = torch.distributions.Gamma(torch.tensor(16.0).double(), 10.0).sample((2, 200))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate_evidence(gamma_exponential(), method="ppd", posterior={"rate": draws}, seed=0)
    draws[1] += 1
    with pytest.warns(EvidenceWarning, match=r"chains of the posterior disagree \(R-hat [1-9]\.\d+ > 1\.1"):
        estimate_evidence(gamma_exponential(), method="ppd", posterior={"rate": draws}, seed=0)


def test_repr():
    assert repr(EvidenceEstimate(-1.0, method="map", is_score=True)) == "EvidenceEstimate(map, a score: -1.000)"


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_positive_latents_are_known_whatever_the_default_dtype(default, monkeypatch):
    def model():
        rates = pyro.sample("rates", dist.Exponential(torch.ones(2)).to_event(1))
        pyro.sample("counts", dist.Poisson(rates).to_event(1), obs=torch.tensor([2.0, 3.0]))

    torch.set_default_dtype(default)
    try:
        estimate = estimate_evidence(model, method="gamma_laplus", seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    exact = sum(-(k + 1) * math.log(2) for k in (2, 3))  # of Poisson counts with exponential rates
    assert estimate.log_evidence == pytest.approx(exact, abs=0.05)
