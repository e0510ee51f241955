"""Models of known evidence, and their estimates by Pyro's NUTS, dynesty and ArviZ."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import arviz
import dynesty
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from scipy.special import gammaincinv, gammaln, ndtri
from torch import Tensor

from pyro_ext.inference.evidence.powers import PowerDraws
from pyro_ext.inference.evidence.problem import Problem

__all__ = [
    "PROBLEMS",
    "KnownEvidence",
    "arviz_ess",
    "arviz_pareto_k",
    "dynesty_run",
    "nuts_draws",
    "nuts_powers",
    "processor_seconds",
]

F64 = torch.float64


def processor_seconds() -> float:
    """Return the processor time of this process and its children; other work on the machine hardly changes it."""
    return sum(os.times()[:4])


@dataclass(frozen=True)
class KnownEvidence:
    """A model whose evidence is known in closed form, written in PyTorch and in NumPy.

    Args:
        name: the name of the model in tables.
        model: the Pyro model; ``model(power)`` raises its likelihood to a power.
        site: the name of its only latent site, a vector.
        dim: the number of elements of the latent vector.
        exact: the logarithm of the evidence.
        prior_quantile: the map from the unit cube to the prior that dynesty needs.
        log_likelihood: the log-likelihood of one latent vector, in NumPy.
    """

    name: str
    model: Callable[..., None]
    site: str
    dim: int
    exact: float
    prior_quantile: Callable[[np.ndarray], np.ndarray]
    log_likelihood: Callable[[np.ndarray], float]


def _regression(n: int = 40, dim: int = 8, noise: float = 0.5) -> KnownEvidence:
    """Return linear regression on correlated columns: a normal posterior."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(n, dim, generator=generator, dtype=F64)
    features = features + features[:, :1]
    weights = torch.linspace(-1, 1, dim, dtype=F64)
    y = features @ weights + noise * torch.randn(n, generator=generator, dtype=F64)

    def model(power: float = 1.0) -> None:
        w = pyro.sample("weights", dist.Normal(y.new_zeros(dim), 1.0).to_event(1))
        with poutine.scale(scale=power), pyro.plate("data", n):
            pyro.sample("y", dist.Normal((w * features).sum(-1), noise), obs=y)

    covariance = features @ features.T + noise**2 * torch.eye(n, dtype=F64)
    exact = torch.distributions.MultivariateNormal(y.new_zeros(n), covariance).log_prob(y)
    x, target, constant = features.numpy(), y.numpy(), -n * math.log(noise * math.sqrt(2 * math.pi))

    def log_likelihood(w: np.ndarray) -> float:
        residual = target - x @ w
        return float(constant - residual @ residual / (2 * noise**2))

    return KnownEvidence("regression", model, "weights", dim, float(exact), ndtri, log_likelihood)


def _rates(n: int = 6, dim: int = 8, shape: float = 3.0, rate: float = 2.0) -> KnownEvidence:
    """Return independent Gamma rates of exponential data: a skewed posterior of positive latents."""
    generator = torch.Generator().manual_seed(4)
    x = torch.empty(n, dim, dtype=F64).exponential_(generator=generator) * torch.linspace(0.5, 2.0, dim, dtype=F64)

    def model(power: float = 1.0) -> None:
        r = pyro.sample("rate", dist.Gamma(x.new_full((dim,), shape), rate).to_event(1))
        with poutine.scale(scale=power), pyro.plate("data", n):
            pyro.sample("x", dist.Exponential(r).to_event(1), obs=x)

    total = x.sum(0).numpy()
    exact = shape * math.log(rate) - gammaln(shape) + gammaln(shape + n) - (shape + n) * np.log(rate + total)

    def log_likelihood(r: np.ndarray) -> float:
        return float((n * np.log(r) - total * r).sum())

    return KnownEvidence(
        "rates", model, "rate", dim, float(exact.sum()), lambda u: gammaincinv(shape, u) / rate, log_likelihood
    )


PROBLEMS = (_regression(), _rates())


def nuts_draws(
    known: KnownEvidence, warmup: int, draws: int, chains: int = 1, power: float = 1.0, jit: bool = False
) -> tuple[Tensor, float]:
    """Return draws of Pyro's NUTS, ``(chains, draws, dim)``, and the processor seconds they took."""
    kernel = NUTS(known.model, jit_compile=jit, ignore_jit_warnings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro warns that chains are run one after another
        sampler = MCMC(kernel, draws, warmup_steps=warmup, num_chains=chains, disable_progbar=True)
        begin = processor_seconds()
        sampler.run(power)
    return sampler.get_samples(group_by_chain=True)[known.site], processor_seconds() - begin


def nuts_powers(known: KnownEvidence, powers: list[float], warmup: int, draws: int) -> tuple[PowerDraws, float]:
    """Return draws of compiled NUTS at every power, one run after another, and the processor seconds they took."""
    problem = Problem(known.model, vectorize=True)
    columns, seconds = [problem.prior_draws(draws)[known.site]], 0.0
    for power in powers[1:]:
        samples, took = nuts_draws(known, warmup, draws, power=power, jit=True)
        columns.append(samples[0])
        seconds += took
    log_likelihood = [problem.at_values({known.site: column}).log_likelihood for column in columns]
    return PowerDraws(torch.tensor(powers, dtype=F64), torch.stack(log_likelihood, 1)[..., None], {}), seconds


def dynesty_run(known: KnownEvidence, num_live: int, seed: int, pyro_model: bool) -> tuple[float, float, int, float]:
    """Return log-evidence, standard error, likelihood evaluations and processor seconds of dynesty's random walks.

    Args:
        known: the model, whose evidence is known.
        num_live: the number of live points of the sampler.
        seed: the seed of dynesty's random generator.
        pyro_model: whether the likelihood is that of the Pyro model, evaluated at one point at a time as dynesty calls
            it; otherwise it is the function written in NumPy.
    """
    problem = Problem(known.model, vectorize=True)

    def from_model(x: np.ndarray) -> float:
        return problem.at_values({known.site: torch.from_numpy(x)[None]}).log_likelihood.item()

    sampler = dynesty.NestedSampler(
        from_model if pyro_model else known.log_likelihood,
        known.prior_quantile,
        known.dim,
        nlive=num_live,
        sample="rwalk",
        rstate=np.random.default_rng(seed),
    )
    begin = processor_seconds()
    sampler.run_nested(print_progress=False, dlogz=1e-3)
    seconds = processor_seconds() - begin
    results = sampler.results
    return float(results.logz[-1]), float(results.logzerr[-1]), int(np.sum(results.ncall)), seconds


def arviz_ess(series: Tensor) -> Tensor:
    """Return ArviZ's effective sample sizes of means, for ``series`` of shape ``(draws, series, chains)``."""
    values = arviz.convert_to_dataset({"x": series.permute(2, 0, 1).numpy()})
    return torch.from_numpy(arviz.ess(values, method="mean")["x"].values)


def arviz_pareto_k(log_weights: Tensor) -> float:
    """Return ArviZ's tail index of importance weights."""
    return float(arviz.psislw(log_weights.numpy())[1])
