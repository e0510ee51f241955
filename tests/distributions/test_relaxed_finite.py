"""Float32 draws at low temperatures: every log-probability and gradient is finite, and agrees with torch's."""

import io

import pytest
import torch
from torch.distributions import RelaxedBernoulli as TorchRelaxedBernoulli
from torch.distributions import RelaxedOneHotCategorical as TorchRelaxedOneHotCategorical
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli as TorchLogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from pyro_ext.distributions import (
    ExpRelaxedOneHotCategorical,
    GumbelRaoOneHotCategorical,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
)

K = 10
ONE_HOT = {
    "RelaxedOneHotCategorical": (RelaxedOneHotCategorical, TorchRelaxedOneHotCategorical),
    "ExpRelaxedOneHotCategorical": (ExpRelaxedOneHotCategorical, ExpRelaxedCategorical),
    "RelaxedOneHotCategoricalStraightThrough": (RelaxedOneHotCategoricalStraightThrough, None),
    "GumbelRaoOneHotCategorical": (lambda t, logits: GumbelRaoOneHotCategorical(t, logits, num_inner=2), None),
}
BINARY = {
    "RelaxedBernoulli": (RelaxedBernoulli, TorchRelaxedBernoulli),
    "LogitRelaxedBernoulli": (LogitRelaxedBernoulli, TorchLogitRelaxedBernoulli),
    "RelaxedBernoulliStraightThrough": (RelaxedBernoulliStraightThrough, None),
}
TEMPERATURES = [1.0, 0.1, 0.05, 0.01]


def saved_and_loaded(x):
    buffer = io.BytesIO()
    torch.save(x, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def check_finite(build, theirs, temperature, num_draws, shape):
    logits = (60 * torch.rand(num_draws, *shape) - 30).requires_grad_()
    t = torch.tensor(temperature, requires_grad=True)
    d = build(t, logits=logits)
    x = d.rsample()
    assert x.dtype == torch.float32
    log_prob = d.log_prob(x)
    assert torch.isfinite(log_prob).all()
    for grad in torch.autograd.grad(log_prob.sum(), [logits, t], retain_graph=True):
        assert torch.isfinite(grad).all()
    _check_honest(d, x.detach(), log_prob.detach())
    value = x.detach().requires_grad_()
    for grad in torch.autograd.grad(1000 * d.log_prob(value).sum() + 0 * t, [value, logits, t], retain_graph=True):
        assert torch.isfinite(grad).all()
    if theirs is not None:
        _check_agreement(theirs(t, logits=logits), d, x.detach(), logits)


def _check_honest(d, x, log_prob):
    """A copied, indexed, stored sample is the same number."""
    for copy in (x.clone(), x * 1, saved_and_loaded(x)):
        assert torch.equal(d.log_prob(copy), log_prob)
    half = len(x) // 2
    upper = type(d)(d.temperature[half:], logits=d.logits[half:])
    torch.testing.assert_close(upper.log_prob(x[half:]), log_prob[half:], rtol=1e-5, atol=1e-3)


def _check_agreement(theirs, ours, x, logits):
    """Values and gradients agree wherever torch's are finite."""
    theirs._validate_args = False
    their_log_prob, our_log_prob = theirs.log_prob(x), ours.log_prob(x)
    finite = torch.isfinite(their_log_prob)
    # float32 sums of K terms of up to a few hundred
    torch.testing.assert_close(our_log_prob[finite], their_log_prob[finite], rtol=1e-5, atol=2e-3)
    their_grad = torch.autograd.grad(their_log_prob[finite].sum(), logits, retain_graph=True)[0]
    our_grad = torch.autograd.grad(our_log_prob[finite].sum(), logits, retain_graph=True)[0]
    good = torch.isfinite(their_grad)
    torch.testing.assert_close(our_grad[good], their_grad[good], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", ONE_HOT)
def test_one_hot(name, temperature):
    check_finite(*ONE_HOT[name], temperature, 20_000, (K,))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, temperature):
    check_finite(*BINARY[name], temperature, 20_000, ())


@pytest.mark.slow
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", ONE_HOT)
def test_a_million_one_hot_draws(name, temperature):
    for _ in range(5):
        check_finite(*ONE_HOT[name], temperature, 200_000, (K,))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", BINARY)
def test_a_million_binary_draws(name, temperature):
    check_finite(*BINARY[name], temperature, 1_000_000, ())


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.01])
def test_weights_beside_the_smallest_number(temperature):
    """Zero, subnormal and tiny weights, upstream gradients of a large data set: no overflow."""
    tiny = torch.finfo(torch.float32).tiny
    rows = [[0.0, 1.0, 0.0], [1e-44, 1.0, 0.0], [1e-40, 0.5, 0.5], [tiny, 1.0, tiny], [2e-38, 1e-38, 1.0]]
    x = torch.tensor(rows, requires_grad=True)
    logits = torch.tensor([30.0, 0.0, -30.0], requires_grad=True)
    log_prob = RelaxedOneHotCategorical(temperature, logits=logits).log_prob(x)
    assert torch.isfinite(log_prob).all()
    for grad in torch.autograd.grad(1e6 * log_prob.sum(), [x, logits]):
        assert torch.isfinite(grad).all()


def test_pathwise_gradient_is_that_of_float64():
    """Where no weight underflows the float32 gradient through the sample is right, for tiny weights too."""
    x = torch.tensor([3e-38, 1e-20, 0.3, 0.7])
    for temperature in (1.0, 0.1):
        grads = []
        for dtype in (torch.float32, torch.float64):
            y = x.to(dtype).log().requires_grad_()
            d = RelaxedOneHotCategorical(temperature, logits=torch.tensor([-3.0, 0.0, 1.0, 2.0], dtype=dtype))
            grads.append(torch.autograd.grad(d.log_prob(y.log_softmax(-1).exp()), y)[0])
        torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-5, atol=1e-6)


def test_zero_is_taken_as_the_smallest_normal_number():
    tiny = torch.finfo(torch.float32).tiny
    d = RelaxedOneHotCategorical(0.1, logits=torch.tensor([0.0, 1.0]))
    assert torch.equal(d.log_prob(torch.tensor([0.0, 1.0])), d.log_prob(torch.tensor([tiny, 1.0])))
