"""What a network learns on 4 x 4 matrices, beside the least cost over all 65,536 of them."""

import pyro
import pytest
import torch

from pyro_ext.datasets import IndexedDataset, Splits
from pyro_ext.inference import FitSettings, OptimizerSettings, TraceUnorderedBeam_ELBO, fit
from pyro_ext.models.tumour.elimination import build, denoise, greedy_search, matrix_cost, observe
from pyro_ext.ops.mutations import gamete_product

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
    print({name: (r.cost.mean() / least.mean()).item() for name, r in zip("1sg", (best, several, greedy), strict=True)})
    for found in (best, several):
        assert (found.cost >= least - 1e-4).all()
    assert best.cost.mean() <= 1.05 * least.mean()
    assert several.cost.mean() <= 1.02 * least.mean()
    assert (several.conflicts == 0).all()
