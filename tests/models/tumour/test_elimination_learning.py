"""What networks learn: on 4 x 4 matrices beside the least cost over all 65,536, on 10 x 10 ones beside exact optima."""

import pyro
import pytest
import torch

from pyro_ext.datasets import IndexedDataset, Splits, simulated_tumours
from pyro_ext.inference import FitSettings, OptimizerSettings, TraceLeaveOneOut_ELBO, TraceUnorderedBeam_ELBO, fit
from pyro_ext.models.tumour.elimination import build, denoise, greedy_search, matrix_cost, observe
from pyro_ext.ops.mutations import gamete_product
from pyro_ext.phylo import MutationMatrix, maximum_likelihood_phylogeny

ALPHA, BETA, GAMMA = 0.002, 0.1, 0.04


def random_matrices(number, seed):
    return torch.randint(2, (number, 4, 4), generator=torch.Generator().manual_seed(seed)).to(torch.int8)


def oracle(x):
    """Return the least cost of each matrix over all matrices."""
    every = ((torch.arange(2**16).unsqueeze(-1) >> torch.arange(16)) & 1).float()
    conflicts = 2 * gamete_product(every.view(-1, 4, 4))
    seen = observe(x, torch.tensor(ALPHA), torch.tensor(BETA))
    ones, changes = seen.matrix.flatten(1), seen.changes.flatten(1)
    likelihood = (seen.start + (ones * changes).sum(-1)).unsqueeze(-1) + ((1 - 2 * ones) * changes) @ every.mT
    return (GAMMA * likelihood + conflicts).amin(-1)


def test_the_oracle_is_the_least_of_all_costs():
    x = random_matrices(3, 0)
    every = ((torch.arange(2**16).unsqueeze(-1) >> torch.arange(16)) & 1).float().view(-1, 1, 4, 4)
    costs = matrix_cost(every, observe(x, torch.tensor(ALPHA), torch.tensor(BETA)), GAMMA)
    torch.testing.assert_close(oracle(x), costs.amin(0), atol=1e-5, rtol=1e-4)
    found = greedy_search(random_matrices(300, 2), ALPHA, BETA, GAMMA)
    assert (found.cost >= oracle(random_matrices(300, 2)) - 1e-4).all()


@pytest.mark.slow
def test_a_network_comes_close_to_the_oracle():
    """150 steps: most probable flips within 5 % of the oracle, the best of 128 sequences within 2 %, none below it."""
    pyro.set_rng_seed(0)
    data = Splits("matrices", IndexedDataset(random_matrices(9600, 1)))
    plan = build(data, num_flips=6, width=16, false_positive=ALPHA, false_negative=BETA)
    plan = plan.with_elbo(TraceUnorderedBeam_ELBO(4, max_plate_nesting=1))
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=3e-3))
    settings = FitSettings(max_epochs=1, batch_size=64, seed=0)
    fit(plan, data, settings, gradient_clip_val=1.0, enable_progress_bar=False, accelerator="cpu")
    policy = plan.elbo_objectives[0].guide.policy
    x = random_matrices(500, 2)
    least = oracle(x)
    best = denoise(policy, x, num_samples=1, max_flips=6)
    several = denoise(policy, x, num_samples=128)
    greedy = greedy_search(x, ALPHA, BETA, GAMMA)
    for name, found in {"most probable": best, "best of 128": several, "greedy": greedy}.items():
        print(f"{name}: {100 * (found.cost.mean() / least.mean() - 1):.3f} % above the oracle")
    for found in (best, several):
        assert (found.cost >= least - 1e-4).all()
    assert best.cost.mean() <= 1.05 * least.mean()
    assert several.cost.mean() <= 1.02 * least.mean()
    assert (several.conflicts == 0).all()


@pytest.mark.slow
def test_conflicts_of_simulated_matrices_are_removed():
    """1,000 matrices after 150 steps with others: 95 % without conflicts, more probable than by greedy search."""
    pytest.importorskip("pysat")
    pyro.set_rng_seed(0)
    sizes = {"labels": "matrix", "cells": 10, "mutations": 10, "false_positive": ALPHA, "false_negative": BETA}
    data = simulated_tumours(num_train=1200, num_valid=1000, **sizes)
    test, data.valid = data.valid, None
    plan = build(data, num_flips=6, width=16)
    plan.evaluate, plan.headline = None, ""
    plan = plan.with_elbo(TraceLeaveOneOut_ELBO(4, vectorize_samples=False, max_plate_nesting=1))
    plan = plan.with_optimizer(OptimizerSettings("Adam", lr=3e-3))
    settings = FitSettings(max_epochs=2, batch_size=16, seed=0)
    fit(plan, data, settings, gradient_clip_val=1.0, enable_progress_bar=False, accelerator="cpu")
    policy = plan.elbo_objectives[0].guide.policy
    several = [denoise(policy, x, num_samples=16, temperature=1.0) for x in test.x.split(100)]
    nll, conflicts, matrices = (
        torch.cat([getattr(found, name) for found in several]) for name in ("neg_log_likelihood", "conflicts", "matrix")
    )
    greedy = greedy_search(test.x, ALPHA, BETA, GAMMA)
    optima = torch.tensor(
        [maximum_likelihood_phylogeny(MutationMatrix.of(x), ALPHA, BETA).negative_log_likelihood for x in test.x]
    )
    clean = conflicts == 0
    print(f"\nwithout conflicts: {clean.float().mean():.3f}, optimal: {(nll <= optima + 0.01).float().mean():.3f}")
    print(f"nats: optimum {optima.mean():.3f}, network {nll.mean():.3f}, greedy {greedy.neg_log_likelihood.mean():.3f}")
    print(f"wrong entries: {(matrices != test.y).float().mean():.4f}, observed {(test.x != test.y).float().mean():.4f}")
    assert clean.float().mean() >= 0.95
    assert (nll >= optima - 0.01)[clean].all()
    assert nll.mean() < greedy.neg_log_likelihood.mean()
