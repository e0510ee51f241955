"""Draws without replacement: their distribution, their order, and the mass they leave."""

import math
from itertools import permutations

import pytest
import torch

from pyro_ext.ops.sets import gumbel_like, gumbel_topk, log_remaining_mass, perturb
from tests.ops.references import ordered_prob, z_scores


def test_noise_is_a_standard_gumbel_in_float64(dtype):
    noise = gumbel_like(torch.zeros(200_000, dtype=dtype))
    assert noise.dtype == torch.float64
    # 4 standard errors of the mean and of the second moment
    assert noise.mean() == pytest.approx(0.5772156649, abs=4 * math.pi / math.sqrt(6 * 200_000))
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=4 * 2.1 * math.sqrt(4.4 / 200_000))


def test_a_million_equal_float32_categories_never_tie():
    """Gumbels made from float32 uniforms tie inside the top 4 in several percent of such draws."""
    values = torch.stack([perturb(torch.zeros(1_000_000)).topk(4).values for _ in range(20)])
    assert (values.diff(dim=-1) < 0).all()


def test_order_of_draws_is_plackett_luce():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    total = 60_000
    index = gumbel_topk(p.log().expand(total, 4), 2).index
    pairs = list(permutations(range(4), 2))
    counts = torch.tensor([((index == torch.tensor(pair)).all(-1)).sum() for pair in pairs])
    probs = torch.tensor([ordered_prob(p.tolist(), pair) for pair in pairs], dtype=torch.float64)
    assert z_scores(counts, probs, total).abs().max() < 4.5


def test_shapes_dtypes_and_masses(dtype):
    log_probs = torch.randn(3, 2, 7, dtype=dtype).log_softmax(-1)
    index, log_p, log_rest = gumbel_topk(log_probs, 4)
    assert index.shape == log_p.shape == (3, 2, 4)
    assert log_rest.shape == (3, 2)
    assert index.dtype == torch.int64
    assert log_p.dtype == log_rest.dtype == dtype
    assert torch.equal(log_p, log_probs.gather(-1, index))
    assert (index.sort().values.diff() > 0).all()
    tolerance = {"rtol": 0, "atol": 1e-14 if dtype == torch.float64 else 1e-6}
    torch.testing.assert_close(log_p.exp().sum(-1) + log_rest.exp(), torch.ones(3, 2, dtype=dtype), **tolerance)


def test_a_small_rest_keeps_its_digits():
    log_probs = torch.tensor([0.0, -300.0, -301.0], dtype=torch.float64)
    log_rest = log_remaining_mass(log_probs, torch.tensor([0]))
    assert float(log_rest) == pytest.approx(-300 + math.log1p(math.exp(-1)), rel=1e-15)


def test_impossible_categories_come_last():
    log_probs = torch.tensor([0.5, 0.0, 0.5, 0.0]).log().expand(1000, 4)
    index, log_p, log_rest = gumbel_topk(log_probs, 3)
    assert (index[:, :2] % 2 == 0).all()
    assert (index[:, 2] % 2 == 1).all()
    assert (log_p[:, 2] == -math.inf).all()
    assert (log_rest == -math.inf).all()
    assert (gumbel_topk(log_probs, 1).log_rest - math.log(0.5)).abs().max() < 1e-6


def test_all_categories():
    index, _, log_rest = gumbel_topk(torch.randn(5, 6), 6)
    assert torch.equal(index.sort().values, torch.arange(6).expand(5, 6))
    assert (log_rest == -math.inf).all()


@pytest.mark.parametrize("k", [2, 4])
def test_masses_are_differentiable(k):
    logits = torch.tensor([0.3, -1.0, 0.2, 0.0], dtype=torch.float64, requires_grad=True)
    index = gumbel_topk(logits, k).index
    log_p, log_rest = logits.gather(-1, index), log_remaining_mass(logits, index)
    log_rest.exp().backward()
    expected = logits.detach().exp().index_fill(-1, index, 0.0)
    torch.testing.assert_close(logits.grad, expected)
    assert log_p.requires_grad


def test_a_seed_repeats_a_draw():
    first = torch.manual_seed(3) and gumbel_topk(torch.zeros(50), 5).index
    assert torch.equal(first, torch.manual_seed(3) and gumbel_topk(torch.zeros(50), 5).index)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "k must be an integer of at least 1, got 0"),
        (2.0, "k must be an integer of at least 1, got 2.0"),
        (True, "k must be an integer of at least 1, got True"),
        (4, "k=4 exceeds the 3 categories of log_probs: choose k at most 3"),
    ],
)
def test_wrong_sizes_are_refused(k, message):
    with pytest.raises(ValueError, match=message):
        gumbel_topk(torch.zeros(3), k)


def test_a_scalar_is_refused():
    with pytest.raises(ValueError, match="got a scalar"):
        gumbel_topk(torch.zeros(()), 1)


@pytest.mark.gpu
def test_cuda(dtype):
    index, log_p, log_rest = gumbel_topk(torch.zeros(100, 50, dtype=dtype, device="cuda").log_softmax(-1), 5)
    assert index.is_cuda
    assert log_p.dtype == log_rest.dtype == dtype
    assert (index.sort().values.diff() > 0).all()
