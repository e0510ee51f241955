"""Sets of configurations of a product distribution, against their enumeration."""

import itertools

import pytest
import torch

from pyro_ext.ops.sets import (
    ProductSet,
    product_gumbel_topk,
    product_remainder,
    product_topk,
    sample_product_remainder,
)
from pyro_ext.ops.sets.product_rest import sample_remainder

N, C = 3, 3
CONFIGURATIONS = torch.tensor(list(itertools.product(range(C), repeat=N)))


def random_log_probs(scale=1.5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(N, C, generator=generator, dtype=torch.float64)).log_softmax(-1).to(dtype)


def joint(log_probs):
    """Log-probabilities of all configurations, in the order of ``CONFIGURATIONS``."""
    return log_probs[torch.arange(N), CONFIGURATIONS].sum(-1)


def code(index):
    """Position of configurations in ``CONFIGURATIONS``."""
    return (index * torch.tensor([C**2, C, 1])).sum(-1)


def rest_mass(log_probs, index):
    return product_remainder(log_probs, index).flatten(-3).logsumexp(-1)


def test_ordered_draws_follow_their_distribution():
    """Frequencies of the ordered pairs expected at least 20 times; |z| < 5 for all has a false-alarm rate of 4e-4."""
    log_probs, draws = random_log_probs(), 400_000
    p = joint(log_probs).exp()
    drawn = product_gumbel_topk(log_probs.expand(draws, N, C), 2)
    first, second = code(drawn.index).unbind(-1)
    counts = torch.bincount(first * len(p) + second, minlength=len(p) ** 2).reshape(len(p), len(p))
    expected = p.unsqueeze(-1) * p / (1 - p.unsqueeze(-1))
    expected.fill_diagonal_(0.0)
    assert counts.diagonal().sum() == 0
    z = (counts - draws * expected) / (draws * expected * (1 - expected)).sqrt().clamp_min(1e-12)
    common = draws * expected >= 20
    assert common.sum() > 150
    assert z[common].abs().max() < 5
    rare = expected[~common].sum()
    assert abs(counts[~common].sum() - draws * rare) < 5 * (draws * rare).sqrt()


@pytest.mark.parametrize("k", [1, 2, 4, 9, 13, 27, 40])
@pytest.mark.parametrize("find", [product_gumbel_topk, product_topk])
def test_distinct_members_and_their_mass(k, find, dtype):
    log_probs = random_log_probs(dtype=dtype).expand(50, N, C)
    result = find(log_probs, k)
    assert result.index.shape == (50, min(k, 27), N)
    for members in code(result.index):
        assert members.unique().numel() == min(k, 27)
    torch.testing.assert_close(result.log_prob, joint(log_probs[0].double())[code(result.index)])
    total = result.log_prob.exp().sum(-1) + rest_mass(log_probs, result.index).exp()
    atol = 1e-14 if dtype == torch.float64 else 1e-6  # float32 log-probabilities are normalised to that
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=atol)


def test_most_probable_first():
    log_probs = random_log_probs()
    result = product_topk(log_probs, 10)
    torch.testing.assert_close(result.log_prob, joint(log_probs).sort(descending=True).values[:10])


def test_ties_are_broken_by_position():
    result = product_topk(torch.full((2, 5, 2), 0.5).log(), 6)
    assert result.index[0].equal(result.index[1])
    binary = (result.index[0] * 2 ** torch.arange(4, -1, -1)).sum(-1)
    assert binary.unique().numel() == 6
    assert binary[0] == 0


@pytest.mark.parametrize("scale", [1.0, 20.0, 300.0])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_rest_mass_without_cancellation(scale, k):
    """Down to rest masses of exp(-300), where one minus the mass of the set is zero."""
    log_probs = random_log_probs(scale)
    members = product_topk(log_probs, k)
    outside = torch.ones(27, dtype=torch.bool).scatter(0, code(members.index), False)
    torch.testing.assert_close(
        rest_mass(log_probs, members.index), joint(log_probs)[outside].logsumexp(-1), rtol=1e-13, atol=1e-12
    )


def test_rest_mass_of_the_whole_domain_is_nothing():
    assert rest_mass(random_log_probs(), CONFIGURATIONS).item() == -float("inf")


@pytest.mark.parametrize("excluded", [0, 2, 4])
def test_remainder_draws_follow_their_distribution(excluded):
    """Frequencies of 27 configurations; |z| < 4.5 has a false-alarm rate of 2e-4."""
    log_probs, draws = random_log_probs(), 200_000
    members = product_topk(log_probs, 4)
    branches = product_remainder(log_probs, members.index)
    drawn = sample_product_remainder(log_probs, members, branches, torch.tensor(excluded), draws)
    expected = joint(log_probs).exp()
    expected[code(members.index)[:excluded]] = 0
    expected /= expected.sum()
    counts = torch.bincount(code(drawn), minlength=27)
    assert counts[expected == 0].sum() == 0
    z = (counts - draws * expected) / (draws * expected * (1 - expected)).sqrt().clamp_min(1e-12)
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("excluded", [0, 1, 3])
def test_categories_outside_of_a_set(excluded):
    log_probs, draws = random_log_probs()[0].expand(2, C).clone(), 100_000
    log_probs[1] = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    index = log_probs.argsort(-1, descending=True)
    drawn = sample_remainder(log_probs, index, torch.tensor([excluded, min(excluded, 2)]), draws)
    assert drawn.shape == (2, draws)
    for row, number in enumerate((excluded, min(excluded, 2))):
        if number == C:  # nothing is left: any category will do
            assert ((drawn[row] >= 0) & (drawn[row] < C)).all()
            continue
        expected = log_probs[row].exp()
        expected[index[row, :number]] = 0
        expected /= expected.sum()
        counts = torch.bincount(drawn[row], minlength=C)
        assert counts[expected == 0].sum() == 0
        z = (counts - draws * expected) / (draws * expected * (1 - expected)).sqrt().clamp_min(1e-12)
        assert z.abs().max() < 4.5


def test_remainder_draws_differ_by_batch_element():
    log_probs = random_log_probs().expand(2, N, C)
    members = product_topk(log_probs, 4)
    branches = product_remainder(log_probs, members.index)
    drawn = sample_product_remainder(log_probs, members, branches, torch.tensor([0, 4]), 5_000)
    best = code(members.index)[0, 0]
    assert (code(drawn[0]) == best).any()
    assert not (code(drawn[1]) == best).any()


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_impossible_categories_come_last(k):
    """Two coordinates of four categories, two of them impossible: four configurations are possible."""
    log_probs = torch.tensor([[0.7, 0.0, 0.3, 0.0], [0.0, 0.4, 0.0, 0.6]], dtype=torch.float64).log().expand(500, 2, 4)
    for result in (product_gumbel_topk(log_probs, k), product_topk(log_probs, k)):
        assert not result.log_prob.isnan().any()
        assert (result.log_prob[:, :4] > -torch.inf).all()
        assert (result.log_prob[:, 4:] == -torch.inf).all()
        rest = rest_mass(log_probs, result.index)
        torch.testing.assert_close(
            result.log_prob.exp().sum(-1) + rest.exp(), torch.ones(500, dtype=torch.float64), rtol=0, atol=1e-14
        )
        assert ((rest == -torch.inf) == (k >= 4)).all()


def test_joint_space_of_ten_to_the_twenty():
    log_probs = torch.randn(200, 20, 10, dtype=torch.float64).log_softmax(-1)
    drawn = product_gumbel_topk(log_probs, 8)
    assert (drawn.index.unsqueeze(1) == drawn.index.unsqueeze(2)).all(-1).sum() == 200 * 8
    total = drawn.log_prob.exp().sum(-1) + rest_mass(log_probs, drawn.index).exp()
    torch.testing.assert_close(total, torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-13)


def test_noise_is_drawn_in_blocks(monkeypatch):
    """The distribution of the draws does not depend on how many levels of noise are in memory at once."""
    from pyro_ext.ops.sets import product

    monkeypatch.setattr(product, "_CHUNK", 1)
    log_probs = random_log_probs().expand(100_000, N, C)
    p = joint(random_log_probs()).exp()
    drawn = product_gumbel_topk(log_probs, 3)
    assert drawn.index.shape == (100_000, 3, N)
    counts = torch.bincount(code(drawn.index[:, 0]), minlength=27)
    z = (counts - 100_000 * p) / (100_000 * p * (1 - p)).sqrt()
    assert z.abs().max() < 4.5


@pytest.mark.gpu
def test_on_cuda():
    log_probs = random_log_probs().cuda().expand(1_000, N, C)
    drawn = product_gumbel_topk(log_probs, 5)
    assert drawn.index.is_cuda
    assert product_topk(log_probs, 5).index.cpu().equal(product_topk(log_probs.cpu(), 5).index)
    members = ProductSet(*product_topk(log_probs, 5))
    branches = product_remainder(log_probs, members.index)
    excluded = torch.full((1_000,), 5, device="cuda")
    assert sample_product_remainder(log_probs, members, branches, excluded, 3).shape == (1_000, 3, N)
