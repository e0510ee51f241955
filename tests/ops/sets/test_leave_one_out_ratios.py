"""Leave-one-out ratios against 60-digit arithmetic, on distributions from flat to extremely peaked."""

import math
from itertools import product

import pytest
import torch

from pyro_ext.ops.sets import (
    first_and_second_log_ratios,
    gumbel_topk,
    leave_one_out_log_ratios,
    log_remaining_mass,
    set_log_prob,
)
from tests.ops.references import reference_ratios


def bernoulli_cube(eta):
    """Log-probabilities of three Bernoulli(sigmoid(eta)) variables jointly, most probable first."""
    one = torch.tensor(eta, dtype=torch.float64)
    log_sigmoid = torch.nn.functional.logsigmoid
    rows = [sum(log_sigmoid(one if bit else -one) for bit in bits) for bits in product((0, 1), repeat=3)]
    return torch.stack(rows).sort(descending=True).values


def uniform():
    return torch.full((8,), 1 / 8, dtype=torch.float64).log()


def decaying(rate):
    return (-rate * torch.arange(10, dtype=torch.float64)).log_softmax(-1)


def random_log_probs(size):
    return torch.randn(size, dtype=torch.float64).log_softmax(-1)


def leading(log_probs, k):
    """The first k categories and the mass of the others."""
    index = torch.arange(k)
    return log_probs[:k], log_remaining_mass(log_probs, index)


def drawn(log_probs, k):
    _, log_p, log_rest = gumbel_topk(log_probs, k)
    return log_p, log_rest


# name: (the set's members and the mass outside, the log of that mass as printed)
CASES = {
    "uniform C=8, k=4": (lambda: leading(uniform(), 4), -0.69),
    "Bernoulli cube eta=-4, k=2": (lambda: leading(bernoulli_cube(-4.0), 2), -3.3),
    "Bernoulli cube eta=-4, k=4": (lambda: leading(bernoulli_cube(-4.0), 4), -6.9),
    "Bernoulli cube eta=-4, k=7": (lambda: leading(bernoulli_cube(-4.0), 7), -12.1),
    "Bernoulli cube eta=-4, k=8, all of it": (lambda: leading(bernoulli_cube(-4.0), 8), -math.inf),
    "logits -8 i, k=4": (lambda: leading(decaying(8.0), 4), -32.0),
    "logits -20 i, k=6": (lambda: leading(decaying(20.0), 6), -120.0),
    "a million random categories, k=8": (lambda: drawn(random_log_probs(1_000_000), 8), None),
    "C=30, k=12": (lambda: drawn(random_log_probs(30), 12), None),
    "C=30, k=14": (lambda: drawn(random_log_probs(30), 14), None),
    "least probable of logits -8 i, k=4": (lambda: leading(decaying(8.0).flip(-1), 4), None),
    "C=40 peaked, k=12": (lambda: drawn((8 * random_log_probs(40)).log_softmax(-1), 12), None),
}


@pytest.mark.parametrize("name", CASES)
def test_ratios_agree_with_60_digits(name):
    make, printed = CASES[name]
    log_p, log_rest = make()
    if printed is not None:
        assert float(log_rest) == pytest.approx(printed, abs=0.1)
    value, first, second = reference_ratios(log_p, log_rest)
    result_first, result_second = first_and_second_log_ratios(log_p, log_rest)
    torch.testing.assert_close(result_first, first, rtol=0, atol=1e-12)
    torch.testing.assert_close(result_second, second, rtol=0, atol=1e-12)
    torch.testing.assert_close(set_log_prob(log_p, log_rest), value, rtol=1e-14, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 11, 12, 15])
def test_weights_sum_to_one(k):
    log_p, log_rest = drawn(torch.randn(5, 4, 40, dtype=torch.float64).mul(4).log_softmax(-1), k)
    first, second = first_and_second_log_ratios(log_p, log_rest)
    assert first.shape == (5, 4, k)
    assert second.shape == (5, 4, k, k)
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close((log_p + first).exp().sum(-1), one.expand(5, 4), rtol=0, atol=1e-12)
    if k > 1:
        sums = (log_p.unsqueeze(-2) + second).exp().sum(-1)
        torch.testing.assert_close(sums, one.expand(5, 4, k), rtol=0, atol=1e-12)
    assert (second.diagonal(dim1=-2, dim2=-1) == 0).all()


@pytest.mark.parametrize("k", [1, 4, 8, 13])
def test_a_set_that_holds_all_mass_has_ratios_of_one(k):
    log_p = random_log_probs(k)
    first, second = first_and_second_log_ratios(log_p, torch.tensor(-math.inf, dtype=torch.float64))
    assert first.abs().max() < 1e-13
    assert second.abs().max() < 1e-13


@pytest.mark.parametrize("k", [4, 13])
def test_members_without_mass_count_for_nothing(k):
    """A set that holds every positive category and some without mass is exact enumeration."""
    log_p = torch.full((k,), -math.inf, dtype=torch.float64)
    log_p[1], log_p[3] = math.log(0.25), math.log(0.75)
    nothing = torch.tensor(-math.inf, dtype=torch.float64)
    first, second = first_and_second_log_ratios(log_p, nothing)
    assert first.abs().max() < 1e-13
    assert second.abs().max() < 1e-13
    assert set_log_prob(log_p, nothing).abs() < 1e-13


def test_all_but_one_member_underflowing():
    log_p = torch.tensor([0.0, -40.0, -800.0, -2000.0], dtype=torch.float64)
    first, second = first_and_second_log_ratios(log_p, torch.tensor(-5000.0, dtype=torch.float64))
    assert (log_p + first).exp().sum() == pytest.approx(1, abs=1e-12)
    # without its one large member the distribution is no longer normalised: only rows that keep it sum to one
    sums = (log_p + second).exp().sum(-1)
    assert sums[1:].tolist() == pytest.approx([1, 1, 1], abs=1e-12)
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("k", [4, 12])
def test_float32_in_and_out(k):
    log_p, log_rest = drawn(random_log_probs(30), k)
    first, second = first_and_second_log_ratios(log_p.float(), log_rest.float())
    assert first.dtype == second.dtype == torch.float32
    exact_first, exact_second = first_and_second_log_ratios(log_p, log_rest)
    torch.testing.assert_close(first.double(), exact_first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second.double(), exact_second, rtol=1e-5, atol=1e-5)


def test_ratios_are_constants_of_the_gradient():
    log_p = random_log_probs(5).requires_grad_()
    assert not leave_one_out_log_ratios(log_p[:3], log_p[3:].logsumexp(-1)).requires_grad


def test_both_orders_are_those_computed_together():
    log_p, log_rest = drawn(random_log_probs(10), 4)
    first, second = first_and_second_log_ratios(log_p, log_rest)
    assert torch.equal(leave_one_out_log_ratios(log_p, log_rest), first)
    assert torch.equal(leave_one_out_log_ratios(log_p, log_rest, order=2), second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: leave_one_out_log_ratios(torch.zeros(3), torch.zeros(()), order=3),
            "order must be one of 1, 2; got 3",
        ),
        (lambda: leave_one_out_log_ratios(torch.zeros(2, 3), torch.zeros(3)), "one remaining mass per set"),
        (lambda: set_log_prob(torch.zeros(()), torch.zeros(())), r"log_p must have shape batch_shape \+ \(k,\)"),
        (lambda: set_log_prob(torch.zeros(4, 0), torch.zeros(4)), "k at least 1"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.parametrize("k", [4, 12])
def test_cuda_agrees_with_cpu(k):
    log_p, log_rest = drawn(torch.randn(7, 40, dtype=torch.float64).log_softmax(-1), k)
    expected = first_and_second_log_ratios(log_p, log_rest)
    result = first_and_second_log_ratios(log_p.cuda(), log_rest.cuda())
    for a, b in zip(result, expected, strict=True):
        assert a.is_cuda
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-12)
