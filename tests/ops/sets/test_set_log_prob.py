"""Set probabilities: sums over orders, the two methods against each other, gradients."""

import math

import pytest
import torch

from pyro_ext.ops._log_space import floored
from pyro_ext.ops.sets import _set_sums, gumbel_topk, log_remaining_mass, set_log_prob
from pyro_ext.ops.sets._set_sums import INTEGRAL, SUBSETS
from tests.ops.references import all_sets


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_sum_over_all_orders(k):
    log_probs = torch.randn(5, dtype=torch.float64).log_softmax(-1)
    sets, expected = all_sets(log_probs.exp(), k)
    index = torch.tensor(sets)
    table = log_probs.expand(len(sets), -1)
    result = set_log_prob(table.gather(-1, index), log_remaining_mass(table, index)).exp()
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=0)
    assert result.sum() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("k", [12, 14, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sharpness", [1.0, 10.0])
def test_the_two_methods_agree(k, sharpness):
    log_probs = torch.randn(3, 40, dtype=torch.float64).mul(sharpness).log_softmax(-1)
    _, log_p, log_rest = gumbel_topk(log_probs, k)
    torch.testing.assert_close(
        INTEGRAL.log_set_prob(log_p, log_rest), SUBSETS.log_set_prob(log_p, log_rest), rtol=1e-13, atol=1e-12
    )
    for a, b in zip(INTEGRAL.log_ratios(log_p, log_rest), SUBSETS.log_ratios(log_p, log_rest), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 13, 50])
@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (5, -5), (20, -60), (0.1, -100), (10, 3), (200, -1000)])
def test_only_the_points_that_count(k, scale, shift, monkeypatch):
    """Integrals over a part of the grid are those over all of it, whatever lies in a batch; the part is small."""
    log_p, log_rest = torch.randn(40, k).double() * scale + shift, torch.randn(40).double() * 2
    log_p[::3, 0] = floored(torch.tensor(-math.inf).double())
    part = *INTEGRAL.log_ratios(log_p, log_rest), INTEGRAL.log_set_prob(log_p, log_rest)
    u, step = _set_sums._grid(k, log_p)
    number = len(_set_sums._where_it_counts(u, step, log_p, log_rest))
    monkeypatch.setattr(_set_sums, "are_at_hand", lambda *_: False)
    whole = *INTEGRAL.log_ratios(log_p, log_rest), INTEGRAL.log_set_prob(log_p, log_rest)
    for ours, theirs in zip(part, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-13)
    if k == 50 and scale == 0.1:
        assert number < len(u) / 5


@pytest.mark.parametrize("k", [3, 12, 40, 300])
@pytest.mark.parametrize("log_rest", [-60.0, -2.0, 0.0, 9.0])
def test_equal_members_have_a_closed_form(k, log_rest):
    """With k equal masses p and rest r the probability is the product of j p / (j p + r)."""
    log_p = torch.zeros(k, dtype=torch.float64)
    rest = torch.tensor(log_rest, dtype=torch.float64)
    left = torch.arange(1, k + 1, dtype=torch.float64).log()
    expected = (left - torch.logaddexp(left, rest)).sum()
    torch.testing.assert_close(set_log_prob(log_p, rest), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("k", [3, 12])
def test_gradient(k):
    def value(logits):
        log_probs = logits.log_softmax(-1)
        return set_log_prob(log_probs[..., :k], log_probs[..., k:].logsumexp(-1))

    logits = torch.randn(2, k + 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (logits,))
    assert torch.autograd.gradcheck(value, (logits.detach().mul(8).requires_grad_(),))


@pytest.mark.parametrize("k", [3, 12])
def test_gradient_is_finite_beside_members_without_mass(k):
    logits = torch.full((2, k), -math.inf, dtype=torch.float64)
    logits[:, 0] = 0.0
    logits[1, 1] = 1.0
    logits.requires_grad_()
    log_probs = logits.log_softmax(-1)
    value = set_log_prob(log_probs, log_remaining_mass(log_probs, torch.arange(k).expand(2, k)))
    assert value.abs().max() < 1e-14
    value.sum().backward()
    assert logits.grad.abs().max() < 1e-14


@pytest.mark.parametrize("k", [2, 12])
def test_a_member_without_mass_is_impossible_while_others_are_left(k):
    log_p = torch.full((k,), -3.0)
    log_p[0] = -math.inf
    assert set_log_prob(log_p, torch.tensor(-1.0)) == -math.inf


@pytest.mark.parametrize("k", [3, 12])
def test_no_sets_give_no_probabilities(k):
    assert set_log_prob(torch.zeros(4, 0, k), torch.zeros(4, 0)).shape == (4, 0)


def test_tables_built_under_inference_mode_serve_training():
    with torch.inference_mode():
        set_log_prob(torch.zeros(9), torch.tensor(0.0))
    log_p = torch.zeros(9, requires_grad=True)
    set_log_prob(log_p, torch.tensor(0.0)).backward()
    assert torch.isfinite(log_p.grad).all()
