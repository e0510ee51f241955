"""Hamiltonian Monte Carlo: exact moments for distributions of very different scales, tuning, failures."""

import pytest
import torch

from pyro_ext.inference.evidence.hmc import HMCSettings, run_chains
from pyro_ext.inference.evidence.normal_fit import fitted_normal, shrunk_correlation
from pyro_ext.inference.evidence.tuning import DualAveraging, Metric
from pyro_ext.inference.evidence.weights import chain_ess


def normal_target(factors):
    """Normal distributions with covariances F F^T, one for each group."""
    precision = torch.cholesky_inverse(factors)

    def target(z, group):
        force = -(precision[group] @ z.unsqueeze(-1)).squeeze(-1)
        return (force * z).sum(-1) / 2, force, z.square()

    return target


def test_moments_of_correlated_distributions(dtype):
    factors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.01, 0.0], [3.0, 0.5]], [[100.0, 0.0], [-99.0, 10.0]]]).to(
        dtype
    )
    chains = run_chains(
        normal_target(factors), torch.zeros(3, 16, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype), HMCSettings(120, 150)
    )
    assert chains.z.shape == (150, 3, 16, 2)
    assert chains.z.dtype == dtype
    assert chains.divergences.tolist() == [0, 0, 0]
    assert (chains.acceptance > 0.6).all()
    pooled = chains.z.transpose(1, 2).flatten(0, 1)
    scaled = torch.linalg.solve_triangular(factors, pooled.unsqueeze(-1), upper=False).squeeze(-1)
    # Means and variances of six coordinates within 4.5 standard errors each: a false alarm in 10,000 runs.
    series = torch.linalg.solve_triangular(factors[:, None], chains.z.unsqueeze(-1), upper=False).squeeze(-1)
    for power, expected, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0**0.5)):
        ess = chain_ess(series.pow(power).transpose(2, 3))
        z = (scaled.pow(power).mean(0) - expected) * ess.sqrt() / spread
        assert z.abs().max() < 4.5
    torch.testing.assert_close(chains.extras, chains.z.square())


def test_a_distribution_that_is_not_normal():
    # log of a Gamma(3, 1) variable: mean digamma(3), variance trigamma(3).
    shape = torch.tensor(3.0, dtype=torch.float64)

    def target(z, group):
        return (shape * z - z.exp()).sum(-1), shape - z.exp(), z

    start = torch.randn(1, 16, 1, dtype=torch.float64)
    z = run_chains(target, start, torch.ones(1, 1, dtype=torch.float64), HMCSettings(60, 250)).z
    ess = chain_ess(z.transpose(2, 3))[0, 0]
    error = (z.mean() - torch.digamma(shape)) * ess.sqrt() / torch.polygamma(1, shape).sqrt()
    assert error.abs() < 4
    assert ess > 500


def test_points_without_density_are_rejected():
    def target(z, group):
        inside = (z.abs() < 1).all(-1)
        value = torch.where(inside, 0.0, torch.nan)
        return value, torch.where(inside[:, None], torch.zeros_like(z), torch.nan), z

    chains = run_chains(target, torch.zeros(1, 8, 2), torch.ones(1, 2), HMCSettings(30, 100))
    assert (chains.z.abs() < 1).all()
    assert chains.divergences.sum() > 0
    assert 0.25 < chains.z.var() < 0.42  # 1/3 for a uniform distribution
    with pytest.raises(ValueError, match="where 8 of 8 chains start"):
        run_chains(target, torch.full((1, 8, 2), 2.0), torch.ones(1, 2), HMCSettings(10, 10))


def test_groups_use_their_own_number_of_gradients():
    calls = []

    def target(z, group):
        calls.append(group.bincount(minlength=2))
        return -z.square().sum(-1) / 2, -z, z

    start = torch.zeros(2, 4, 30)
    run_chains(target, start, torch.tensor([[1.0], [0.01]]).expand(2, 30), HMCSettings(10, 20))
    counts = torch.stack(calls)
    assert counts.max() == 4
    assert (counts[:, 0] != counts[:, 1]).any()


def test_dual_averaging_finds_the_target():
    averaging = DualAveraging(torch.tensor([1.0, 1e-3]), 0.8)
    for _ in range(400):
        averaging.update((-averaging.step).exp())  # acceptance exp(-step)
    torch.testing.assert_close(averaging.averaged(), torch.full((2,), 0.2231), rtol=0.05, atol=0)


def test_metric_maps():
    factor = torch.tensor([[[2.0, 0.0], [1.0, 3.0]]])
    metric = Metric(factor).rows(torch.tensor([0, 0]))
    x = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    torch.testing.assert_close(metric.push(x), x @ factor[0].T)
    torch.testing.assert_close(metric.pull(x), x @ factor[0])
    torch.testing.assert_close(metric.variance()[0], torch.tensor([4.0, 10.0]))


def test_shrinkage_depends_on_the_number_of_draws():
    factor = torch.linalg.cholesky(0.7 + 0.3 * torch.eye(5, dtype=torch.float64))
    draws = torch.randn(20_000, 5, dtype=torch.float64) @ factor.T
    many = shrunk_correlation(draws)
    assert (many[0, 1] - 0.7).abs() < 0.03
    noise = shrunk_correlation(torch.randn(20, 30, dtype=torch.float64))
    assert noise.triu(1).abs().max() < 0.25
    few = shrunk_correlation(torch.randn(5, 30, dtype=torch.float64))  # fewer draws than coordinates
    assert torch.linalg.eigvalsh(few).min() > 0
    normal = fitted_normal(draws * 3 + 1)
    torch.testing.assert_close(normal.loc, torch.ones(5, dtype=torch.float64), rtol=0, atol=0.1)
    torch.testing.assert_close(normal.variance, torch.full((5,), 9.0, dtype=torch.float64), rtol=0.05, atol=0)
