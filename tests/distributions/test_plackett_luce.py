"""PlackettLuce: exact values, gradients, relation to sets, refusals."""

import math
from itertools import permutations

import pytest
import torch
from torch.distributions import kl_divergence

from pyro_ext.distributions import PlackettLuce, UnorderedSet
from tests.ops.references import ordered_prob

INF = math.inf


@pytest.mark.parametrize("k", [1, 2, 4])
def test_probabilities(k):
    d = PlackettLuce(torch.randn(4, dtype=torch.float64), k)
    orders = list(permutations(range(4), k))
    expected = torch.tensor([ordered_prob(d.probs.tolist(), order) for order in orders], dtype=torch.float64)
    torch.testing.assert_close(d.log_prob(torch.tensor(orders)).exp(), expected, rtol=1e-12, atol=1e-14)
    assert d.enumerate_support().tolist() == [list(order) for order in orders]


@pytest.mark.parametrize("k", [2, None])
def test_gradient(k):
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    value = PlackettLuce(logits, k).sample((3,))
    assert torch.autograd.gradcheck(lambda x: PlackettLuce(x, k).log_prob(value), (logits,))


def test_orders_of_a_set_sum_to_its_probability():
    logits = torch.randn(7, dtype=torch.float64)
    orders = torch.tensor(list(permutations([1, 3, 6])))
    log_prob = PlackettLuce(logits, 3).log_prob(orders).logsumexp(0)
    torch.testing.assert_close(log_prob, UnorderedSet(3, logits).log_prob(torch.tensor([1, 3, 6])), rtol=1e-13, atol=0)


def test_long_peaked_rankings_are_finite(dtype):
    logits = torch.linspace(0, -3000, 400, dtype=dtype, requires_grad=True)
    d = PlackettLuce(logits)
    order = torch.arange(400)
    log_prob = d.log_prob(torch.stack([order, order.flip(0)]))
    (grad,) = torch.autograd.grad(log_prob.sum(), logits)
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(grad).all()


def test_gradient_beside_categories_without_mass():
    logits = torch.tensor([0.0, -INF, 1.0], dtype=torch.float64, requires_grad=True)
    d = PlackettLuce(logits, 2)
    (grad,) = torch.autograd.grad(d.log_prob(torch.tensor([2, 0])), logits)
    assert grad[1] == 0
    assert torch.isfinite(grad).all()
    assert d.log_prob(torch.tensor([[1, 2], [0, 1]])).tolist() == [-INF, -INF]


def test_inferred_shapes():
    assert PlackettLuce.infer_shapes(logits=(3, 1, 4)) == PlackettLuce.infer_shapes(probs=(3, 1, 4)) == ((3, 1), (4,))
    with pytest.raises(NotImplementedError, match=r"with k the event shape is \(k,\)"):
        PlackettLuce.infer_shapes(logits=(4,), k=())


def test_entropy_and_divergence():
    p, q = (PlackettLuce(torch.randn(3, 4, dtype=torch.float64), 3) for _ in range(2))
    values = p.enumerate_support()
    log_p, log_q = p.log_prob(values), q.log_prob(values)
    torch.testing.assert_close(p.entropy(), -(log_p.exp() * log_p).sum(0))
    torch.testing.assert_close(kl_divergence(p, q), (log_p.exp() * (log_p - log_q)).sum(0))
    uniform = PlackettLuce(torch.zeros(4, dtype=torch.float64))
    assert float(uniform.entropy()) == pytest.approx(math.log(24), rel=1e-12)


def test_repr():
    assert repr(PlackettLuce(torch.zeros(2, 5))) == "PlackettLuce(k=5, logits: (2, 5))"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PlackettLuce(torch.zeros(3), 4), "k=4 exceeds the 3 categories: choose k at most 3"),
        (lambda: PlackettLuce(torch.zeros(3), -1), "k must be an integer of at least 1, got -1"),
        (lambda: PlackettLuce(), "give one of logits and probs, got neither"),
        (lambda: PlackettLuce(torch.tensor([0.0, -INF])), "k=2 exceeds the 1 categories of positive probability"),
        (lambda: PlackettLuce(torch.zeros(3)).log_prob(torch.tensor([0, 0, 1])), "within the support"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_replacement(dtype):
    """Masses, and distinct orders; impossible categories leave fewer values, whose first is repeated."""
    d = PlackettLuce(torch.randn(3, 6, dtype=dtype), k=4)
    draws = d.sample_without_replacement(20)
    assert draws.values.shape == (20, 3, 4)
    assert d.support.check(draws.values).all()
    torch.testing.assert_close(draws.log_prob.to(dtype), d.log_prob(draws.values))
    total = torch.cat([draws.log_prob, draws.log_rest.unsqueeze(0)]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert all(len({tuple(x) for x in draws.values[:, i].tolist()}) == 20 for i in range(3))
    scarce = PlackettLuce(probs=torch.tensor([0.5, 0.0, 0.5], dtype=dtype), k=2)
    values, log_prob, log_rest = scarce.sample_without_replacement(4)
    assert (log_prob > -torch.inf).tolist() == [True, True, False, False]
    assert torch.equal(values[2], values[0])
    assert log_rest == -torch.inf
