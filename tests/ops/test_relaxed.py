"""Noise, densities and straight-through values of relaxed categories: closed forms, extreme inputs, derivatives."""

import math

import pytest
import torch
from scipy.stats import kstest, logistic
from torch.autograd import grad, gradcheck, gradgradcheck

from pyro_ext.ops.relaxed import (
    bernoulli_score,
    categorical_score,
    conditional_perturbed_logits,
    exp_concrete_log_prob,
    floored_log,
    gumbel_log_softmax,
    infinite,
    logistic_like,
    normalised_logits,
    one_hot_of_largest,
    rao_blackwell_softmax,
    relaxed_top_k,
    sigmoid,
    straight_through,
)
from pyro_ext.ops.sets import gumbel_like

INF = math.inf
FALSE_ALARM = 1e-6


def tensor(values, dtype=torch.float64, grad=False):
    return torch.tensor(values, dtype=dtype, requires_grad=grad)


def test_floored_log(dtype):
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps  # subnormal
    x = tensor([0.0, smallest, info.tiny, 0.3, 1.0, info.max], dtype, grad=True)
    y = floored_log(x)
    assert y[0] == math.log(info.tiny)
    assert torch.equal(y[1:], x[1:].log())
    (g,) = grad(y.sum(), x)
    assert torch.isfinite(g).all()
    assert g[0] == 0
    assert g[1] == info.max
    torch.testing.assert_close(g[2:], 1 / x.detach()[2:])


def test_floored_log_is_differentiable_twice_and_under_vmap():
    x = tensor([0.3, 1.0, 5.0], grad=True)
    assert gradcheck(floored_log, (x,))
    assert gradgradcheck(floored_log, (x,))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(floored_log))(x), 1 / x)


def test_straight_through_is_exact(dtype):
    """Also where ``hard + (soft - soft)`` in another order would round."""
    soft = torch.rand(1000, dtype=dtype).mul(1e6).requires_grad_()
    hard = torch.rand(1000, dtype=dtype)
    x = straight_through(hard, soft)
    assert torch.equal(x, hard)
    weight = torch.randn(1000, dtype=dtype)
    assert torch.equal(grad((weight * x).sum(), soft)[0], weight)


def test_sigmoid_keeps_its_derivative(dtype):
    y = tensor([-700.0 if dtype == torch.float64 else -80.0, -20.0, -0.0, 0.0, 3.0, 20.0, 60.0], dtype, grad=True)
    x = sigmoid(y)
    torch.testing.assert_close(x, y.sigmoid())
    (g,) = grad(x.sum(), y)
    small = (-y.detach().abs()).exp()
    torch.testing.assert_close(g, small / (1 + small).square(), atol=0, rtol=1e-5)
    assert (g > 0).all()
    assert sigmoid(tensor([-INF, INF], dtype)).tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore:`torch.jit")  # of rules that PyTorch loads for forward mode
def test_sigmoid_in_nested_forward_mode():
    """Second derivatives by forward over forward mode, where operations without rules of their own give zeros."""
    y = torch.linspace(-3, 3, 7).double()
    expected = torch.autograd.functional.hessian(lambda x: torch.sigmoid(x).sum(), y)
    torch.testing.assert_close(torch.func.jacfwd(torch.func.jacfwd(lambda x: sigmoid(x).sum()))(y), expected)


def test_infinite_numbers():
    """A look at plain numbers says that there is none; sums that overflow, nan and hidden values give the mask."""
    assert infinite(torch.randn(3)) is None
    for values in ([1.0, math.inf], [-math.inf, math.inf], [math.nan, 1.0], [3e38, 3e38]):
        x = torch.tensor(values)
        assert torch.equal(infinite(x), x.isinf())
    assert not torch.func.vmap(lambda x: infinite(x))(torch.randn(2, 3)).any()


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_bernoulli_score_with_and_without_certain_values(x, dtype):
    """The same values and gradients whether or not some other number is certain, at log-odds of 0 too."""
    logits = torch.tensor([-40.0, -1.0, 0.0, 2.0, 40.0], dtype=dtype, requires_grad=True)
    weight = torch.full_like(logits, x).requires_grad_()
    mixed = torch.cat([logits, logits.new_tensor([math.inf])]), torch.cat([weight, weight.new_ones(1)])
    alone, beside = bernoulli_score(weight, logits), bernoulli_score(mixed[1], mixed[0])[:-1]
    torch.testing.assert_close(alone, beside)
    for ours, theirs in zip(*(grad(score.sum(), (logits, weight)) for score in (alone, beside)), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(grad(bernoulli_score(weight, logits).sum(), logits)[0], x - logits.sigmoid())


def test_one_hot_of_largest(dtype):
    x = tensor([[0.1, 5.0, -INF], [-INF, -INF, -3.0], [2.0, 2.0, 2.0]], dtype)
    hot = one_hot_of_largest(x)
    assert hot.dtype == dtype
    assert hot[:2].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert hot[2].sum() == 1


def test_normalised_logits(dtype):
    tiny = torch.finfo(dtype).tiny
    probs = tensor([0.0, tiny, 0.25, 1.0], dtype, grad=True)
    logits = normalised_logits(probs)
    assert logits[0] == -INF
    assert torch.equal(logits[1:], probs[1:].log())
    (g,) = grad(logits[1:].sum(), probs)
    assert g.tolist() == [0, 1 / probs[1].item(), 4, 1]


def test_logistic_noise():
    """Of 50,000 draws, Kolmogorov-Smirnov at a false-alarm rate of 1e-6; always finite, and float64."""
    noise = logistic_like(torch.zeros(50_000))
    assert noise.dtype == torch.float64
    assert torch.isfinite(noise).all()
    assert kstest(noise.numpy(), logistic.cdf).pvalue > FALSE_ALARM


def test_extreme_uniforms_give_finite_noise(monkeypatch):
    ends = [torch.zeros(1, dtype=torch.float64), torch.full((1,), 1 - 2.0**-53, dtype=torch.float64)]
    for end in ends:
        monkeypatch.setattr(torch, "rand", lambda *args, end=end, **kwargs: end.clone())
        assert torch.isfinite(logistic_like(torch.zeros(1))).all()


class TestGumbelLogSoftmax:
    def test_is_a_point_of_the_simplex(self, dtype):
        logits = tensor([[30.0, -30.0, 0.0, -INF], [0.0, -INF, -INF, -INF]], dtype)
        for temperature in (100.0, 1.0, 0.01, 1e-4):
            y = gumbel_log_softmax(logits, tensor(temperature, dtype), (100,))
            assert y.shape == (100, 2, 4)
            assert y.dtype == dtype
            assert ((y == -INF) == (logits == -INF)).all()
            assert not y.isnan().any()
            torch.testing.assert_close(y.logsumexp(-1), torch.zeros(100, 2, dtype=dtype), rtol=0, atol=1e-6)

    def test_temperature_of_the_batch(self):
        temperature = tensor([[0.1], [1.0]])
        torch.manual_seed(0)
        y = gumbel_log_softmax(torch.zeros(2, 3, 4, dtype=torch.float64), temperature)
        torch.manual_seed(0)
        noise = gumbel_like(torch.zeros(2, 3, 4, dtype=torch.float64))
        torch.testing.assert_close(y, (noise / temperature.unsqueeze(-1)).log_softmax(-1))

    def test_gradients(self):
        def draw(logits, temperature):
            torch.manual_seed(0)
            y = gumbel_log_softmax(logits, temperature, (2,))
            return y.masked_fill(y == -INF, 0)

        logits = tensor([[0.3, -1.0, 2.0], [0.0, 1.0, -INF]], grad=True)
        finite = tensor([[0.3, -1.0, 2.0], [0.0, 1.0, 0.5]], grad=True)
        temperature = tensor([0.4, 1.2], grad=True)
        assert gradcheck(draw, (finite, temperature))
        grads = grad(draw(logits, temperature).sum(), (logits, temperature))
        assert all(torch.isfinite(g).all() for g in grads)
        assert grads[0][1, 2] == 0


class TestExpConcrete:
    def test_uniform_law(self):
        """Two equal weights at temperature 1 are uniform on the simplex; their logarithms have its volume element."""
        x = torch.rand(10, dtype=torch.float64)
        x = torch.stack([x, 1 - x], -1)
        result = exp_concrete_log_prob(x.log(), torch.zeros(2, dtype=torch.float64), tensor(1.0))
        torch.testing.assert_close(result, x.log().sum(-1))

    def test_formula(self):
        y = torch.randn(7, 3, 4, dtype=torch.float64).log_softmax(-1)
        logits, t = torch.randn(3, 4, dtype=torch.float64), tensor([0.3, 1.0, 2.0])
        a, powers = logits.exp(), (-t[:, None] * y).exp()
        expected = (math.factorial(3) * t**3 * (a * powers).prod(-1) / (a * powers).sum(-1) ** 4).log()
        torch.testing.assert_close(exp_concrete_log_prob(y, logits, t), expected)
        torch.testing.assert_close(exp_concrete_log_prob(y + 3, logits + 2, t), expected)  # both shifts are free

    def test_extremes_are_finite(self, dtype):
        largest = 1e37 if dtype == torch.float32 else 1e300
        logits = tensor([30.0, -30.0, 0.0, -INF], dtype, grad=True)
        y = tensor([[0.0, -largest, -5.0, -INF], [-largest, 0.0, -largest, -INF]], dtype, grad=True)
        for temperature in (1e-3, 1.0):
            t = tensor(temperature, dtype, grad=True)
            log_prob = exp_concrete_log_prob(y, logits, t)
            assert torch.isfinite(log_prob).all()
            assert all(torch.isfinite(g).all() for g in grad(log_prob.sum(), (y, logits, t)))

    def test_impossible_categories_must_agree(self):
        logits = tensor([0.0, 1.0, -INF])
        y = tensor([[-1.0, -1.0, -INF], [-1.0, -1.0, -1.0], [0.0, -INF, -INF]])
        result = exp_concrete_log_prob(y, logits, tensor(0.5))
        assert result.isfinite().tolist() == [True, False, False]
        torch.testing.assert_close(result[0], exp_concrete_log_prob(y[0, :2], logits[:2], tensor(0.5)))

    def test_gradients(self):
        y = torch.randn(2, 3, dtype=torch.float64).log_softmax(-1).requires_grad_()
        inputs = (y, tensor([0.3, -1.0, 2.0], grad=True), tensor([0.4, 1.2], grad=True))
        assert gradcheck(exp_concrete_log_prob, inputs)
        assert gradgradcheck(exp_concrete_log_prob, inputs)


def test_categorical_score(dtype):
    logits = tensor([0.2, 0.3, 0.5, 0.0], dtype).log()
    x = tensor([[0.0, 1.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype, grad=True)
    score = categorical_score(x, logits)
    assert score[0] == logits[1]
    assert score[2] == -INF
    torch.testing.assert_close(score[1], 0.5 * logits[0] + 0.25 * logits[1] + 0.25 * logits[2])
    (g,) = grad(score[:2].sum(), x)
    torch.testing.assert_close(g[:2], logits.masked_fill(logits == -INF, 0).expand(2, 4))
    assert gradcheck(
        categorical_score, (x.detach().double()[:2].requires_grad_(), tensor([0.1, -2.0, 0.3, 1.0], grad=True))
    )


def test_bernoulli_score(dtype):
    logits = tensor([-200.0, -1.0, 0.0, 30.0, 200.0], dtype, grad=True)
    for x in (0.0, 0.25, 1.0):
        result = bernoulli_score(tensor(x, dtype), logits)
        expected = x * torch.nn.functional.logsigmoid(logits) + (1 - x) * torch.nn.functional.logsigmoid(-logits)
        torch.testing.assert_close(result, expected)
        assert torch.isfinite(grad(result.sum(), logits)[0]).all()


def test_bernoulli_score_of_certain_values(dtype):
    logits = tensor([-INF, INF, 0.5], dtype, grad=True)
    assert bernoulli_score(tensor([0.0, 1.0, 1.0], dtype), logits)[:2].tolist() == [0, 0]
    assert bernoulli_score(tensor([1.0, 0.0, 1.0], dtype), logits)[:2].tolist() == [-INF, -INF]
    x = tensor([0.0, 1.0, 0.3], dtype, grad=True)
    assert all(torch.isfinite(g).all() for g in grad(bernoulli_score(x, logits).sum(), (x, logits)))


class TestConditionalPerturbedLogits:
    LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64).log()

    @pytest.mark.parametrize("largest", [0, 3])
    def test_law(self, largest):
        """That of perturbed logits among those draws whose largest is the given one: two-sample KS of each entry."""
        hard = torch.nn.functional.one_hot(torch.tensor(largest), 5).double()
        drawn = conditional_perturbed_logits(self.LOGITS, hard, 20_000)
        assert (drawn.argmax(-1) == largest).all()
        assert (drawn[:, 4] == -INF).all()
        free = self.LOGITS + gumbel_like(self.LOGITS.expand(400_000, 5))
        free = free[free.argmax(-1) == largest]
        for k in range(4):
            assert kstest(drawn[:, k].numpy(), free[:20_000, k].numpy()).pvalue > FALSE_ALARM / 8

    def test_shapes_and_extremes(self, dtype):
        logits = tensor([[0.0, -80.0, -INF], [-1e-30, -1e4, -80.0]], dtype)
        hard = torch.eye(3, dtype=dtype)[[1, 1]].expand(4, 2, 3)  # categories that are hardly ever the largest
        drawn = conditional_perturbed_logits(logits, hard, 6)
        assert drawn.shape == (6, 4, 2, 3)
        assert drawn.dtype == dtype
        assert (drawn.argmax(-1) == 1).all()
        assert ((drawn == -INF) == (logits == -INF)).all()
        assert not drawn.isnan().any()


class TestRaoBlackwell:
    def test_derivative_is_that_of_the_mean_of_softmaxes(self):
        logits = torch.randn(2, 4, dtype=torch.float64).log_softmax(-1).requires_grad_()
        hard, t = one_hot_of_largest(torch.randn(2, 4, dtype=torch.float64)), tensor(0.7)
        torch.manual_seed(0)
        soft = rao_blackwell_softmax(logits, hard, t, 30)
        torch.manual_seed(0)
        noise = conditional_perturbed_logits(logits, hard, 30) - logits.detach()
        expected = ((logits + noise) / t).softmax(-1).mean(0)
        torch.testing.assert_close(soft, expected)
        weight = torch.randn(2, 4, dtype=torch.float64)
        torch.testing.assert_close(grad((weight * soft).sum(), logits)[0], grad((weight * expected).sum(), logits)[0])

    @pytest.mark.parametrize("temperature", [1.0, 1e-4])
    def test_extremes(self, temperature, dtype):
        logits = tensor([-80.0, 0.0, -INF], dtype, grad=True)
        soft = rao_blackwell_softmax(logits, tensor([1.0, 0.0, 0.0], dtype), tensor(temperature, dtype), 50)
        assert (soft >= 0).all()
        assert soft[2] == 0
        assert float(soft.detach().sum()) == pytest.approx(1, abs=1e-5)
        assert torch.isfinite(grad(soft[0], logits)[0]).all()


class TestRelaxedTopK:
    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_sums_to_k(self, k, dtype):
        keys = torch.randn(100, 6, dtype=dtype).requires_grad_()
        for temperature in (10.0, 1.0, 0.01, 1e-4):
            x = relaxed_top_k(keys, k, tensor(temperature, dtype))
            assert (x >= 0).all()
            torch.testing.assert_close(x.sum(-1), torch.full((100,), float(k), dtype=dtype))
            assert torch.isfinite(grad(x.square().sum(), keys)[0]).all()

    def test_one_is_a_softmax_and_cold_is_hard(self):
        keys = torch.randn(20, 6, dtype=torch.float64)
        torch.testing.assert_close(relaxed_top_k(keys, 1, tensor(0.5)), (keys / 0.5).softmax(-1))
        hot = torch.zeros_like(keys).scatter(-1, keys.topk(3).indices, 1)
        torch.testing.assert_close(relaxed_top_k(keys, 3, tensor(1e-4)), hot)

    def test_what_is_never_chosen(self, dtype):
        keys = tensor([1.0, -INF, 0.0, 3.0], dtype, grad=True)
        x = relaxed_top_k(keys, 3, tensor(0.1, dtype))
        torch.testing.assert_close(x, tensor([1.0, 0.0, 1.0, 1.0], dtype), atol=0.01, rtol=0)
        assert torch.isfinite(grad(x[0], keys)[0]).all()

    def test_gradients(self):
        keys = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
        assert gradcheck(lambda keys, t: relaxed_top_k(keys, 2, t), (keys, tensor([0.5, 1.0], grad=True)))
