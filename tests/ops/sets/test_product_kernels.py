"""Compiled draws from product distributions and what they leave: the same as PyTorch's from the same seed."""

import math

import pytest
import torch

from pyro_ext.ops.kernels import kernels
from pyro_ext.ops.sets import ProductRest, product, product_gumbel_topk, product_topk

pytest.importorskip("numba")

SHAPES = [((60, 20, 10), 4), ((2, 3, 40, 2), 7), ((5, 1, 4), 3), ((4, 3), 5), ((5, 3, 2), 20), ((7, 9, 3), 50)]


def both_ways(log_probs, k):
    results = []
    for choice in ("numba", "torch"):
        with kernels(choice):
            torch.manual_seed(7)
            drawn = product_gumbel_topk(log_probs, k)
            results.append((drawn.index, drawn.log_prob, ProductRest(log_probs, drawn).log_mass))
    return results


def assert_equal(results):
    (index, log_prob, log_rest), (other_index, other_log_prob, other_log_rest) = results
    possible = other_log_prob > -math.inf  # those of probability zero come last, in any order
    assert torch.equal(index[possible], other_index[possible])
    torch.testing.assert_close(log_prob, other_log_prob, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_rest, other_log_rest, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "k"), SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0, 300.0])
def test_equal_to_torch(shape, k, scale, dtype):
    log_probs = (scale * torch.randn(shape, dtype=dtype)).log_softmax(-1)
    assert_equal(both_ways(log_probs, k))


@pytest.mark.parametrize(("shape", "k"), [((50, 4, 3), 6), ((50, 4, 3), 40), ((20, 12, 5), 9)])
def test_categories_of_probability_zero(shape, k):
    """They come after all others, and every configuration once."""
    logits = torch.randn(shape, dtype=torch.float64)
    logits[..., 0, 1:], logits[..., 1, 0] = -math.inf, -math.inf
    results = both_ways(logits.log_softmax(-1), k)
    assert_equal(results)
    possible = results[0][1] > -math.inf
    assert (possible[..., :-1] >= possible[..., 1:]).all()
    for members in results[0][0]:
        assert len(members.unique(dim=0)) == len(members)


@pytest.mark.parametrize(("shape", "k"), SHAPES)
@pytest.mark.parametrize("values", ["any", "ties", "zeros"])
def test_most_probable_configurations(shape, k, values, dtype):
    """The same bits in the same order, equal ones by position."""
    log_probs = torch.randn(shape, dtype=dtype)
    if values == "ties":
        log_probs = log_probs.round()
    if values == "zeros":
        log_probs[..., 0] = -math.inf
    results = []
    for choice in ("numba", "torch"):
        with kernels(choice):
            results.append(product_topk(log_probs, k))
    assert torch.equal(results[0].index, results[1].index)
    assert torch.equal(results[0].log_prob, results[1].log_prob)


@pytest.mark.parametrize(("shape", "k"), SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("excluded", ["none", "some", "all"])
def test_draws_from_the_rest(shape, k, scale, excluded, dtype):
    """As PyTorch draws them, where anything is left."""
    log_probs = (scale * torch.randn(shape, dtype=dtype)).log_softmax(-1)
    members = product_topk(log_probs, k)
    size = members.index.shape[-2]
    numbers = torch.randint(0, size + 1, shape[:-2]) if excluded == "some" else torch.tensor(size * (excluded == "all"))
    if ProductRest(log_probs, members).log_mass.amin() == -math.inf:  # all configurations are members
        numbers = torch.zeros(shape[:-2], dtype=torch.long)
    results = []
    for choice in ("numba", "torch"):
        with kernels(choice):
            torch.manual_seed(3)
            results.append(ProductRest(log_probs, members).sample(numbers, 9))
    assert results[0].shape == (*shape[:-2], 9, shape[-2])
    assert torch.equal(*results)


def test_draws_from_the_rest_keep_to_categories_of_positive_probability():
    logits = torch.randn(300, 5, 4, dtype=torch.float64)
    logits[..., 1, 2], logits[..., 3, :3] = -math.inf, -math.inf
    log_probs = logits.log_softmax(-1)
    members = product_topk(log_probs, 3)
    with kernels("numba"):
        drawn = ProductRest(log_probs, members).sample(torch.tensor(3), 50)
    assert (log_probs.gather(-1, drawn.mT).sum(-2) > -math.inf).all()
    assert not (drawn.unsqueeze(-2) == members.index.unsqueeze(-3)).all(-1).any()


def test_a_block_of_levels_after_the_other(monkeypatch):
    log_probs = torch.randn(6, 11, 4, dtype=torch.float64).log_softmax(-1)
    monkeypatch.setattr(product, "_CHUNK", 3 * 6 * 5 * 4)
    assert_equal(both_ways(log_probs, 5))


def test_times_are_scaled_where_all_configurations_are_improbable():
    """Two thousand coordinates of eight categories: probabilities near e^-3000."""
    log_probs = (0.5 * torch.randn(3, 2000, 8, dtype=torch.float64)).log_softmax(-1)
    results = both_ways(log_probs, 6)
    assert_equal(results)
    assert results[0][1].max() < -2500


def test_masses_below_the_range_of_float64():
    """A set that leaves less than e^-900, whose sum is taken in logs; and one that leaves nothing."""
    log_probs = torch.tensor([[0.0, -1000.0], [0.0, -900.0]], dtype=torch.float64)
    for choice in ("numba", "torch"):
        with kernels(choice):
            rest = ProductRest(log_probs, product_topk(log_probs, 1))
            assert rest.log_mass.item() == pytest.approx(-900, rel=1e-12)
            assert rest.sample(torch.tensor(1), 20).tolist() == [[0, 1]] * 20
            assert ProductRest(log_probs[:1], product_topk(log_probs[:1], 2)).log_mass == -math.inf


def test_improbable_categories_are_left_to_torch():
    """Where inverse probabilities of the k members may overflow."""
    assert product._has_times(torch.tensor([[-1e30, -149.0, 0.0]], dtype=torch.float64), 4)
    assert not product._has_times(torch.tensor([[-151.0, 0.0]], dtype=torch.float64), 4)
    log_probs = torch.tensor([[0.0, -500.0]] * 3, dtype=torch.float64)
    assert_equal(both_ways(log_probs.expand(50, 3, 2), 6))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(threads, monkeypatch):
    log_probs = torch.randn(30, 6, 4, dtype=torch.float64).log_softmax(-1)
    before = torch.get_num_threads()
    monkeypatch.setattr("pyro_ext.ops.sets._product_kernels._WORTH_A_THREAD", 1)
    torch.set_num_threads(threads)
    try:
        assert_equal(both_ways(log_probs, 4))
    finally:
        torch.set_num_threads(before)


def test_no_elements():
    log_probs = torch.zeros(0, 3, 4)
    assert product_gumbel_topk(log_probs, 2).index.shape == (0, 2, 3)
    members = product_topk(log_probs, 2)
    assert members.index.shape == (0, 2, 3)
    assert ProductRest(log_probs, members).log_mass.shape == (0,)
    assert ProductRest(log_probs, members).sample(torch.zeros(0, dtype=torch.long), 4).shape == (0, 4, 3)
