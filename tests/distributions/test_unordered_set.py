"""UnorderedSet: exact values, gradients, ratios, entropy and divergence, refusals."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.distributions import kl_divergence

from pyro_ext.distributions import UnorderedSet
from tests.ops.references import all_sets, reference_ratios

INF = math.inf


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_probabilities_are_sums_over_orders(k):
    d = UnorderedSet(k, torch.randn(5, dtype=torch.float64))
    sets, probs = all_sets(d.probs, k)
    torch.testing.assert_close(d.log_prob(torch.tensor(sets)).exp(), probs, rtol=1e-12, atol=1e-14)
    assert d.enumerate_support().tolist() == [list(s) for s in sets]


@pytest.mark.parametrize("k", [1, 3, 12])
def test_gradient(k):
    logits = torch.randn(2, 14, dtype=torch.float64, requires_grad=True)
    value = UnorderedSet(k, logits).sample((2,))
    assert torch.autograd.gradcheck(lambda x: UnorderedSet(k, x).log_prob(value), (logits,))
    probs = torch.rand(14, dtype=torch.float64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: UnorderedSet(k, probs=x).log_prob(value), (probs,))


def test_second_derivative():
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    value = torch.tensor([1, 2, 4])
    assert torch.autograd.gradgradcheck(lambda x: UnorderedSet(3, x).log_prob(value), (logits,))


def test_float32_keeps_float32_precision_on_peaked_distributions():
    logits = -20.0 * torch.arange(8)
    d32, d64 = UnorderedSet(6, logits), UnorderedSet(6, logits.double())
    value = d64.enumerate_support()
    torch.testing.assert_close(d32.log_prob(value).double(), d64.log_prob(value), rtol=1e-6, atol=1e-6)


def test_gradient_beside_categories_without_mass(dtype):
    logits = torch.tensor([0.0, -INF, 1.0, -INF, 0.5], dtype=dtype, requires_grad=True)
    log_prob = UnorderedSet(2, logits).log_prob(torch.tensor([0, 2]))
    (grad,) = torch.autograd.grad(log_prob, logits)
    positive = torch.tensor([0.0, 1.0, 0.5], dtype=dtype, requires_grad=True)
    (expected,) = torch.autograd.grad(UnorderedSet(2, positive).log_prob(torch.tensor([0, 1])), positive)
    torch.testing.assert_close(grad[[0, 2, 4]], expected)
    assert grad[[1, 3]].tolist() == [0, 0]


def test_sets_with_an_impossible_member_have_no_mass():
    d = UnorderedSet(2, torch.tensor([0.0, -INF, 1.0, 0.5]))
    assert d.log_prob(torch.tensor([1, 2])) == -INF
    assert (d.sample((1000,)) != 1).all()


@pytest.mark.parametrize("k", [2, 4])
def test_ratios(k, dtype):
    d = UnorderedSet(k, torch.randn(6, dtype=dtype))
    value = d.sample()
    rest = d.logits.double().log_softmax(-1).index_fill(0, value, -INF).logsumexp(-1)
    _, first, second = reference_ratios(d.logits.double().log_softmax(-1)[value], rest)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(d.log_leave_one_out_ratio(value).double(), first, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(d.log_second_order_ratio(value).double(), second, rtol=tolerance, atol=tolerance)


def test_ratio_shapes():
    d = UnorderedSet(3, torch.randn(2, 6, requires_grad=True))
    value = d.sample((5,))
    assert d.log_leave_one_out_ratio(value).shape == (5, 2, 3)
    assert d.log_second_order_ratio(value).shape == (5, 2, 3, 3)
    assert not d.log_leave_one_out_ratio(value).requires_grad


def test_a_set_of_everything_is_certain():
    d = UnorderedSet(4, torch.randn(3, 4, dtype=torch.float64))
    value = torch.arange(4)
    assert torch.equal(d.sample(), value.expand(3, 4))
    assert d.log_prob(value).abs().max() < 1e-14
    assert d.log_leave_one_out_ratio(value).abs().max() < 1e-14
    assert d.entropy().abs().max() < 1e-13


def test_logits_and_probs_are_normalised():
    by_logits = UnorderedSet(2, torch.tensor([1.0, 2.0, 3.0]))
    by_probs = UnorderedSet(2, probs=torch.tensor([1.0, 2.0, 3.0]).exp())
    torch.testing.assert_close(by_logits.logits, by_probs.logits)
    torch.testing.assert_close(by_logits.probs, by_probs.probs)
    assert by_logits.param_shape == (3,)


def test_shapes_are_not_inferred():
    with pytest.raises(NotImplementedError, match=r"the event shape of an UnorderedSet is \(k,\)"):
        UnorderedSet.infer_shapes(logits=(4,), k=())


def test_entropy_and_divergence():
    p = UnorderedSet(2, torch.randn(3, 1, 5, dtype=torch.float64, requires_grad=True))
    q = UnorderedSet(2, torch.randn(4, 5, dtype=torch.float64))
    values = p.enumerate_support()
    log_p = p.log_prob(values)
    torch.testing.assert_close(p.entropy(), -(log_p.exp() * log_p).sum(0))
    log_q = q.log_prob(values)
    torch.testing.assert_close(kl_divergence(p, q), (log_p.exp() * (log_p - log_q)).sum(0))
    assert kl_divergence(p, p).abs().max() < 1e-14
    assert kl_divergence(p, q).requires_grad


def test_divergence_from_a_smaller_support():
    p = UnorderedSet(2, torch.tensor([0.0, 0.0, 0.0]))
    q = UnorderedSet(2, torch.tensor([0.0, 0.0, -INF]))
    assert kl_divergence(p, q) == INF
    assert float(kl_divergence(q, p)) == pytest.approx(math.log(3), rel=1e-6)


def test_enumerated_in_a_model():
    """The exact ELBO of an enumerated site with guide = prior is the expected log-likelihood."""
    logits = torch.tensor([0.2, -0.4, 1.0, 0.0])
    weight = torch.tensor([1.0, -1.0, 0.5, 2.0])

    def guide():
        return pyro.sample("s", UnorderedSet(2, logits), infer={"enumerate": "parallel"})

    def model():
        s = guide()
        pyro.factor("f", weight[s].sum(-1))

    d = UnorderedSet(2, logits)
    values = d.enumerate_support()
    expected = (d.log_prob(values).exp() * weight[values].sum(-1)).sum()
    assert -TraceEnum_ELBO(max_plate_nesting=0).loss(model, guide) == pytest.approx(float(expected), rel=1e-5)


def test_repr_and_expand_do_not_touch_values():
    d = UnorderedSet(2, torch.zeros(3, 5))
    assert repr(d) == "UnorderedSet(k=2, logits: (3, 5))"
    assert repr(UnorderedSet(1, probs=torch.ones(2))) == "UnorderedSet(k=1, probs: (2,))"
    assert d.expand((4, 3)).logits.shape == (4, 3, 5)
    assert isinstance(d.to_event(1), dist.Independent)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UnorderedSet(0, torch.zeros(3)), "k must be an integer of at least 1, got 0"),
        (lambda: UnorderedSet(2.0, torch.zeros(3)), "k must be an integer of at least 1, got 2.0"),
        (lambda: UnorderedSet(4, torch.zeros(3)), "k=4 exceeds the 3 categories: choose k at most 3"),
        (lambda: UnorderedSet(2), "give one of logits and probs, got neither"),
        (lambda: UnorderedSet(2, torch.zeros(3), torch.ones(3)), "give one of logits and probs, got both"),
        (lambda: UnorderedSet(2, [0.0, 1.0, 2.0]), "logits must be a floating point tensor"),
        (lambda: UnorderedSet(2, torch.tensor([1, 2, 3])), "logits must be a floating point tensor"),
        (lambda: UnorderedSet(1, torch.tensor(0.0)), r"logits must have shape batch_shape \+ \(K,\), got \(\)"),
        (lambda: UnorderedSet(1, torch.tensor([0.0, math.nan])), "logits must not hold NaN"),
        (lambda: UnorderedSet(1, torch.tensor([0.0, INF])), "logits must not hold NaN, inf"),
        (lambda: UnorderedSet(1, probs=torch.tensor([0.5, -0.5])), "negative probabilities, got -0.5"),
        (lambda: UnorderedSet(1, torch.full((3,), -INF)), "k=1 exceeds the 0 categories of positive probability"),
        (lambda: UnorderedSet(2, torch.tensor([[0.0, 0.0], [0.0, -INF]])), "k=2 exceeds the 1 categories of positive"),
        (lambda: UnorderedSet(2, torch.zeros(4)).log_prob(torch.tensor([2, 1])), "within the support"),
        (lambda: UnorderedSet(2, torch.zeros(4)).log_prob(torch.tensor([2, 4])), "within the support"),
        (lambda: UnorderedSet(2, torch.zeros(4)).log_prob(torch.tensor([0, 1, 2])), "right-most size"),
        (
            lambda: kl_divergence(UnorderedSet(2, torch.zeros(4)), UnorderedSet(2, torch.zeros(5))),
            "q draws 2 of 4 categories but p draws 2 of 5",
        ),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_support_too_large_to_list():
    d = UnorderedSet(10, torch.zeros(60))
    assert not d.has_enumerate_support
    with pytest.raises(NotImplementedError, match="75394027566 values, too many to list"):
        d.enumerate_support()
    assert math.isfinite(d.log_prob(d.sample()))


def test_validation_can_be_off():
    d = UnorderedSet(3, torch.tensor([0.0, -INF, 0.0, -INF]), validate_args=False)
    assert d.sample().shape == (3,)
    assert d.log_prob(torch.tensor([0, 1, 2])).abs() < 1e-6
