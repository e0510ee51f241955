"""The most probable categories, the masses left after them, and how many to sum."""

import math

import pytest
import torch

from pyro_ext.ops.sets import optimal_num_summed, topk_remainder


def test_order_and_tails(dtype):
    log_probs = torch.randn(3, 2, 9, dtype=dtype).log_softmax(-1)
    top = topk_remainder(log_probs, 4)
    assert top.index.shape == top.log_p.shape == (3, 2, 4)
    assert top.log_tail.shape == (3, 2, 5)
    assert top.log_p.dtype == top.log_tail.dtype == dtype
    ordered = log_probs.sort(descending=True).values
    assert torch.equal(top.log_p, ordered[..., :4])
    for j in range(5):
        torch.testing.assert_close(top.log_tail[..., j], ordered[..., j:].logsumexp(-1), atol=1e-6, rtol=1e-6)


def test_ties_are_broken_by_number():
    assert topk_remainder(torch.zeros(1000), 5).index.tolist() == [0, 1, 2, 3, 4]


def test_tiny_tails_keep_their_digits():
    log_probs = -20.0 * torch.arange(7, dtype=torch.float64)
    tail = topk_remainder(log_probs, 6).log_tail
    after = [math.log1p(sum(math.exp(-20 * i) for i in range(1, 7 - j))) for j in range(7)]
    exact = log_probs + torch.tensor(after, dtype=torch.float64)
    torch.testing.assert_close(tail, exact, rtol=1e-14, atol=1e-15)


def test_whole_domain_and_categories_without_mass():
    top = topk_remainder(torch.tensor([0.0, 0.5, 0.0, 0.5]).log(), 4)
    assert top.index.tolist() == [1, 3, 0, 2]
    assert top.log_tail.exp().tolist() == pytest.approx([1, 0.5, 0, 0, 0])
    assert top.log_tail[2:].tolist() == [-math.inf] * 3


def test_tails_are_differentiable_beside_zeros():
    logits = torch.tensor([0.3, -math.inf, 0.1, -0.5], dtype=torch.float64, requires_grad=True)
    topk_remainder(logits, 4).log_tail[..., :3].sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_optimal_number_is_the_minimum_of_the_criterion():
    log_probs = torch.randn(200, 12, dtype=torch.float64).mul(3).log_softmax(-1)
    for budget in (1, 2, 5, 12):
        tail = topk_remainder(log_probs, budget).log_tail
        ratio = tail[:, :budget].exp() / torch.arange(budget, 0, -1)
        expected = ratio.argmin(-1) if budget < 12 else torch.full((200,), 12)
        assert torch.equal(optimal_num_summed(tail, budget), expected)


def test_all_is_summed_where_the_budget_covers_the_mass():
    log_probs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1]]).log()
    assert optimal_num_summed(topk_remainder(log_probs, 4).log_tail, 4).tolist() == [2, 4]
    # at equal probabilities nothing is gained by summing
    assert optimal_num_summed(topk_remainder(torch.zeros(8).log_softmax(-1), 4).log_tail, 4).tolist() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: topk_remainder(torch.zeros(3), 4), "k=4 exceeds the 3 categories"),
        (lambda: topk_remainder(torch.zeros(3), -1), "k must be an integer of at least 1, got -1"),
        (lambda: topk_remainder(torch.zeros(()), 1), "got a scalar"),
        (lambda: optimal_num_summed(torch.zeros(4), 0), "budget must be an integer of at least 1, got 0"),
        (lambda: optimal_num_summed(torch.zeros(4), 4), r"a budget of 4 needs 5, as from topk_remainder"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("k", [1, 3, 7, 8])
def test_the_order_is_that_of_a_stable_sort(k, dtype):
    """Rows without ties, with ties inside of the set, across its border, and of probability zero."""
    rows = [
        [0.1, 0.2, 0.3, 0.15, 0.05, 0.12, 0.03, 0.05],
        [0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05],
        [0.125] * 8,
        [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    for log_probs in (torch.tensor(row, dtype=dtype).log() for row in rows):
        expected = log_probs.sort(descending=True, stable=True)
        top = topk_remainder(log_probs, k)
        assert torch.equal(top.index, expected.indices[:k])
        assert torch.equal(top.log_p, expected.values[:k])
        tails = torch.stack([expected.values[j:].exp().sum() for j in range(k + 1)])
        torch.testing.assert_close(top.log_tail.exp(), tails, atol=1e-6, rtol=1e-6)
