"""Relaxed one-hot and binary distributions: values, densities, shapes, refusals."""

import math

import pytest
import torch
from scipy.stats import beta, kstest
from torch.distributions import RelaxedBernoulli as TorchRelaxedBernoulli
from torch.distributions import RelaxedOneHotCategorical as TorchRelaxedOneHotCategorical
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli as TorchLogitRelaxedBernoulli
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

import pyro_ext.distributions as xd
from pyro_ext.distributions import (
    ExpRelaxedOneHotCategorical,
    GumbelRaoOneHotCategorical,
    LogitRelaxedBernoulli,
    RelaxedBernoulli,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
    RelaxedTopK,
)
from pyro_ext.distributions.relaxed import log_space

INF = math.inf
FALSE_ALARM = 1e-6
ONE_HOT = [
    RelaxedOneHotCategorical,
    ExpRelaxedOneHotCategorical,
    RelaxedOneHotCategoricalStraightThrough,
    lambda t, probs=None, logits=None: GumbelRaoOneHotCategorical(t, logits, probs=probs),
    lambda t, probs=None, logits=None: RelaxedTopK(1, t, logits, probs, straight_through=True),
]
BINARY = [RelaxedBernoulli, LogitRelaxedBernoulli, RelaxedBernoulliStraightThrough]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_densities_are_those_of_torch(temperature, dtype):
    logits, t = torch.randn(3, 5, dtype=dtype), torch.tensor(temperature, dtype=dtype)
    for ours, theirs in [
        (RelaxedOneHotCategorical, TorchRelaxedOneHotCategorical),
        (ExpRelaxedOneHotCategorical, ExpRelaxedCategorical),
        (RelaxedBernoulli, TorchRelaxedBernoulli),
        (LogitRelaxedBernoulli, TorchLogitRelaxedBernoulli),
    ]:
        x = ours(t, logits=logits).sample((100,))
        tolerance = max(1e3 * torch.finfo(dtype).eps, 5e-9)  # torch's softplus is linear beyond 20: off by exp(-20)
        torch.testing.assert_close(
            ours(t, logits=logits).log_prob(x), theirs(t, logits=logits).log_prob(x), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("num", [2, 3, 5, 7])
def test_density_is_the_jacobian_to_the_uniform_law_on_the_simplex(num):
    """softmax(log a - t log x) is uniform: the Gumbels left after the shift are the logs of a uniform point."""
    logits, t = torch.randn(num, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    d = RelaxedOneHotCategorical(t, logits=logits)
    x = d.sample()

    def to_uniform(free):
        full = torch.cat([free, 1 - free.sum(-1, keepdim=True)])
        return (d.logits - t * full.log()).softmax(-1)[:-1]

    log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(to_uniform, x[:-1]))[1]
    expected = math.lgamma(num) + log_det
    torch.testing.assert_close(d.log_prob(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
def test_samples_follow_the_density_in_unconstrained_coordinates(temperature):
    """Kolmogorov-Smirnov of each coordinate of the uniform point above, which is Beta(1, K - 1)."""
    d = ExpRelaxedOneHotCategorical(temperature, logits=torch.tensor([0.0, 3.0, -3.0, 1.0], dtype=torch.float64))
    uniform = (d.logits - temperature * d.sample((20_000,))).softmax(-1)
    for k in range(4):
        assert kstest(uniform[:, k].numpy(), beta(1, 3).cdf).pvalue > FALSE_ALARM / 12


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_binary_samples_follow_the_density(temperature):
    logit = torch.tensor(1.5, dtype=torch.float64)
    y = LogitRelaxedBernoulli(temperature, logits=logit).sample((20_000,))
    assert kstest((temperature * y - logit).sigmoid().numpy(), "uniform").pvalue > FALSE_ALARM / 2


@pytest.mark.parametrize("build", [RelaxedBernoulli, lambda t, logits: RelaxedOneHotCategorical(t, logits=logits)])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.4])
def test_density_integrates_to_one(build, temperature):
    z = torch.linspace(-80, 80, 160_001, dtype=torch.float64)
    if build is RelaxedBernoulli:
        x, d = z.sigmoid(), RelaxedBernoulli(temperature, logits=torch.tensor(0.8, dtype=torch.float64))
    else:
        x = torch.stack([z, -z], -1).mul(0.5).softmax(-1)
        d = build(temperature, torch.tensor([0.8, 0.0], dtype=torch.float64))
    inside = (z.sigmoid() > 0) & ((-z).sigmoid() > 1e-15)
    log_jacobian = torch.nn.functional.logsigmoid(z) + torch.nn.functional.logsigmoid(-z)
    integrand = torch.where(inside, (d.log_prob(x) + log_jacobian).exp(), 0)
    # what lies beyond 1 - 1e-15 is lost
    assert float(torch.trapezoid(integrand, z)) == pytest.approx(1, abs=1e-5 if temperature > 0.5 else 1e-4)


def test_largest_weight_has_the_categorical_law(dtype):
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=dtype)
    total = 100_000
    for temperature in (5.0, 0.5, 0.01):
        counts = RelaxedOneHotCategorical(temperature, probs).sample((total,)).argmax(-1).bincount(minlength=4)
        z = (counts - total * probs) / (total * probs * (1 - probs)).sqrt()
        assert z.abs().max() < 5.2  # a false alarm in 5e5


def test_extreme_logits_keep_their_gradients(dtype):
    """Clamping probabilities, as torch does, makes the gradient exactly zero beyond log-odds of 16."""
    for logit in (17.0, 20.0, -20.0, 60.0):
        logits = torch.tensor(logit, dtype=dtype, requires_grad=True)
        y = LogitRelaxedBernoulli(0.5, logits=logits).rsample((100,))
        assert torch.autograd.grad(y.sum(), logits)[0] == 200
        log_x = RelaxedBernoulli(0.5, logits=logits).log_prob(torch.tensor(0.3, dtype=dtype))
        assert torch.autograd.grad(log_x, logits)[0] != 0
        for family in (RelaxedBernoulli, RelaxedBernoulliStraightThrough):
            x = family(1.0, logits=logits).rsample((100,))
            assert torch.autograd.grad(x.sum(), logits)[0] > 0


def test_log_odds_far_from_their_centre(dtype):
    d = LogitRelaxedBernoulli(0.3, logits=torch.tensor(150.0, dtype=dtype))
    expected = math.log(0.3) - 150.0 - 0.3 * 50
    assert float(d.log_prob(torch.tensor(-50.0, dtype=dtype))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", range(len(ONE_HOT)))
@pytest.mark.parametrize(
    ("temperature", "logits", "batch"),
    [((), (4,), ()), ((1,), (4,), (1,)), ((5,), (5, 4), (5,)), ((5, 1), (5, 4), (5, 5)), ((2, 1), (3, 4), (2, 3))],
)
def test_temperature_has_the_shape_of_the_batch(kind, temperature, logits, batch):
    d = ONE_HOT[kind](0.5 + torch.rand(temperature), logits=torch.randn(logits))
    x = d.rsample((7,))
    assert d.batch_shape == d.temperature.shape == batch
    assert x.shape == (7, *batch, 4)
    assert d.log_prob(x).shape == (7, *batch)
    cls = type(d)
    assert cls.infer_shapes(temperature=temperature, logits=logits) == (batch, (4,))
    assert cls.infer_shapes(temperature=temperature, probs=logits) == (batch, (4,))


@pytest.mark.parametrize("build", BINARY)
def test_binary_shapes(build):
    d = build(0.5 + torch.rand(2, 1), logits=torch.randn(3))
    assert d.batch_shape == d.param_shape == (2, 3)
    assert d.log_prob(d.sample((7,))).shape == (7, 2, 3)
    assert build.infer_shapes(temperature=(2, 1), logits=(3,)) == ((2, 3), ())


def test_each_temperature_of_a_batch_is_used():
    t, logits = torch.tensor([0.2, 1.0, 3.0]), torch.randn(3, 4)
    x = RelaxedOneHotCategorical(1.0, logits=logits).sample()
    together = RelaxedOneHotCategorical(t, logits=logits).log_prob(x)
    one_by_one = [RelaxedOneHotCategorical(float(t[i]), logits=logits[i]).log_prob(x[i]) for i in range(3)]
    torch.testing.assert_close(together, torch.stack(one_by_one))


def test_impossible_categories_are_left_out(dtype):
    """The density is that of the distribution over the others, and gradients are finite."""
    t = torch.tensor(0.6, dtype=dtype, requires_grad=True)
    logits = torch.tensor([0.5, -INF, -1.0, 2.0], dtype=dtype, requires_grad=True)
    rest = torch.tensor([0, 2, 3])
    for family in (RelaxedOneHotCategorical, ExpRelaxedOneHotCategorical):
        d = family(t, logits=logits)
        x = d.rsample((50,))
        assert (x[:, 1] == (0 if family is RelaxedOneHotCategorical else -INF)).all()
        expected = family(t, logits=logits[rest]).log_prob(x[:, rest])
        torch.testing.assert_close(d.log_prob(x), expected)
        grads = torch.autograd.grad(d.log_prob(x).sum() + x[:, rest].square().sum(), [t, logits])
        assert all(torch.isfinite(grad).all() for grad in grads)
        assert grads[1][1] == 0
    outside = torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=dtype)
    assert RelaxedOneHotCategorical(t, logits=logits).log_prob(outside) == -INF
    from_probs = RelaxedOneHotCategorical(t, probs=torch.tensor([0.5, 0.0, 0.5], dtype=dtype))
    assert torch.isfinite(from_probs.log_prob(from_probs.sample()))


@pytest.mark.parametrize("build", BINARY)
def test_certain_binary_values(build, dtype):
    probs = torch.tensor([0.0, 1.0, 0.4], dtype=dtype, requires_grad=True)
    d = build(0.5, probs)
    x = d.rsample((20,))
    assert (x[:, 1] == (INF if build is LogitRelaxedBernoulli else 1)).all()
    log_prob = d.log_prob(x)
    assert (log_prob[:, :2] == 0).all()
    (grad,) = torch.autograd.grad(log_prob.sum() + x[:, 2].sum(), probs)
    assert torch.isfinite(grad).all()
    wrong = torch.tensor([1.0, 0.0, 1.0], dtype=dtype)
    assert (d.log_prob(wrong)[:2] == -INF).all()


def test_single_category():
    logits = torch.zeros(3, 1)
    for build in ONE_HOT:
        d = build(0.5, logits=logits)
        assert (d.log_prob(d.sample()) == 0).all()


def test_entropy_of_log_weights():
    d = ExpRelaxedOneHotCategorical(torch.tensor([0.1, 1.0]), logits=torch.tensor([0.3, -INF, 2.0, 0.1, 0.0]))
    log_prob = d.log_prob(d.sample((50_000,)))
    assert ((log_prob.mean(0) + d.entropy()) / (log_prob.std(0) / 50_000**0.5)).abs().max() < 4.5
    binary = LogitRelaxedBernoulli(torch.tensor([0.1, 1.0]), logits=torch.tensor(2.0))
    y = binary.sample((50_000,))
    assert ((binary.log_prob(y).mean(0) + binary.entropy()) / (binary.log_prob(y).std(0) / 50_000**0.5)).abs().max() < 4
    torch.testing.assert_close(y.mean(0), binary.mean, rtol=0.05, atol=0.05)
    torch.testing.assert_close(y.var(0), binary.variance.expand(2), rtol=0.05, atol=0)


@pytest.mark.parametrize("family", [RelaxedBernoulli, LogitRelaxedBernoulli])
def test_distribution_functions(family):
    """Their derivative is the density, their inverse the quantiles, and half the samples lie below the median."""
    d = family(torch.tensor([[0.3], [2.0]], dtype=torch.float64), logits=torch.tensor([-1.0, 0.0, 3.0]).double())
    u = torch.rand(50, 2, 3, dtype=torch.float64)
    x = d.icdf(u).requires_grad_()
    torch.testing.assert_close(d.cdf(x), u, rtol=0, atol=1e-7)
    (density,) = torch.autograd.grad(d.cdf(x).sum(), x)
    torch.testing.assert_close(density.log(), d.log_prob(x), rtol=0, atol=1e-5)
    below = (d.sample((40_000,)) < d.icdf(torch.tensor(0.5, dtype=torch.float64))).double().mean(0)
    assert (below - 0.5).abs().max() < 5 * 0.5 / 200  # standard errors; a false alarm in 3e5


@pytest.mark.parametrize("family", [RelaxedBernoulli, LogitRelaxedBernoulli])
def test_distribution_functions_of_certain_values(family):
    d = family(0.5, logits=torch.tensor([-INF, INF]))
    low, high = (0.0, 1.0) if family is RelaxedBernoulli else (-50.0, INF)
    assert d.icdf(torch.tensor(0.3)).tolist() == ([0, 1] if family is RelaxedBernoulli else [-INF, INF])
    assert d.cdf(torch.tensor(low)).tolist() == [1, 0]
    assert d.cdf(torch.tensor(high)).tolist() == [1, 1]


@pytest.mark.parametrize("build", [*ONE_HOT, *BINARY])
def test_plain_numbers_and_double_backward(build):
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    d = build(1, logits=logits)
    assert d.temperature.dtype == torch.float64
    x = d.rsample()
    (grad,) = torch.autograd.grad(x[0].square(), logits, create_graph=True)
    assert torch.isfinite(torch.autograd.grad(grad.square().sum(), logits)[0]).all()


def test_density_is_differentiable_twice_and_under_vmap():
    x = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    d = RelaxedOneHotCategorical(0.7, logits=torch.randn(3, dtype=torch.float64))
    d._validate_args = False  # finite differences leave the simplex
    assert torch.autograd.gradcheck(d.log_prob, (x,))
    assert torch.autograd.gradgradcheck(d.log_prob, (x,))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(d.log_prob))(x), _gradient(d, x))


def _gradient(d, x):
    return torch.autograd.grad(d.log_prob(x).sum(), x)[0]


@pytest.mark.parametrize("build", ONE_HOT)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 0.0}, "temperature must be positive and finite, got 0"),
        ({"t": -1.0}, "temperature must be positive and finite, got -1"),
        ({"t": torch.tensor([1.0, -2.0])}, "temperature must be positive and finite, got -2"),
        ({"t": torch.tensor(math.nan)}, "temperature must be positive and finite, got nan"),
        ({"t": math.inf}, "temperature must be positive and finite, got inf"),
        ({"t": "cold"}, "temperature must be a number or a tensor of shape batch_shape, got 'cold'"),
        ({"t": torch.ones(5)}, r"temperature of shape \(5,\) does not broadcast with the batch shape \(2,\) of logits"),
        ({"logits": None}, "give one of logits and probs, got neither"),
        ({"probs": torch.ones(2, 3)}, "give one of logits and probs, got both"),
        ({"logits": torch.tensor([[0.0, math.nan]] * 2)}, "logits must not hold NaN, inf or negative .*, got nan"),
        ({"logits": torch.tensor([[0.0, INF]] * 2)}, "logits must not hold NaN, inf or negative .*, got inf"),
        ({"logits": torch.full((2, 3), -INF)}, "logits gives no category a positive probability"),
        ({"logits": None, "probs": torch.tensor([0.5, -0.5])}, "probs must not hold NaN, inf or negative .*, got -0.5"),
        ({"logits": torch.zeros(2, 0)}, r"logits must have shape batch_shape \+ \(K,\)"),
        ({"logits": torch.tensor(0.0)}, r"logits must have shape batch_shape \+ \(K,\)"),
        ({"logits": torch.ones(2, dtype=torch.int64)}, "logits must be a floating point tensor"),
    ],
)
def test_wrong_arguments_are_refused(build, arguments, message):
    given = {"t": 0.5, "probs": None, "logits": torch.zeros(2, 3)} | arguments
    with pytest.raises(ValueError, match=message):
        build(given["t"], probs=given["probs"], logits=given["logits"])


@pytest.mark.parametrize("build", BINARY)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 0}, "temperature must be positive and finite, got 0"),
        ({"t": torch.ones(3)}, r"temperature of shape \(3,\) does not broadcast with the batch shape \(2,\) of logits"),
        ({"logits": None}, "give one of logits and probs, got neither"),
        ({"logits": math.nan}, "logits must not hold NaN, got nan"),
        ({"logits": None, "probs": 1.5}, r"probs must lie in \[0, 1\], got 1.5"),
        ({"logits": torch.ones(2, dtype=torch.int64)}, "logits must be a number or a floating point tensor"),
    ],
)
def test_wrong_binary_arguments_are_refused(build, arguments, message):
    given = {"t": 0.5, "probs": None, "logits": torch.zeros(2)} | arguments
    with pytest.raises(ValueError, match=message):
        build(given["t"], given["probs"], given["logits"])


def test_values_outside_the_support_are_refused():
    d = RelaxedOneHotCategorical(0.5, logits=torch.zeros(3))
    with pytest.raises(ValueError, match="within the support"):
        d.log_prob(torch.tensor([0.5, 0.5, 0.5]))
    with pytest.raises(ValueError, match="num_inner must be an integer of at least 1, got 0"):
        GumbelRaoOneHotCategorical(0.5, torch.zeros(3), num_inner=0)


def test_repr():
    assert repr(RelaxedTopK(2, 0.5, torch.zeros(3))) == (
        "RelaxedTopK(k=2, straight_through=False, temperature: (), logits: (3,))"
    )
    assert repr(RelaxedBernoulli(0.5, torch.full((3,), 0.5))) == "RelaxedBernoulli(temperature: (3,), probs: (3,))"


@pytest.mark.parametrize("family", [RelaxedOneHotCategorical, RelaxedBernoulli])
def test_what_has_no_closed_form_says_what_to_take(family):
    d = family(0.5, probs=torch.tensor([0.3, 0.7]))
    for what in ("mean", "variance", "stddev"):
        with pytest.raises(NotImplementedError, match=f"{family.__name__} has no .* in closed form: .*samples"):
            getattr(d, what)
    with pytest.raises(NotImplementedError, match=r"entropy in closed form: .*log_space\(d\).entropy\(\)"):
        d.entropy()
    assert log_space(d).entropy().isfinite().all()


def test_modes_where_there_are_some():
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    inner = xd.ExpRelaxedOneHotCategorical(0.7, logits=logits)
    assert (inner.log_prob(inner.mode) >= inner.log_prob(inner.sample((1000,)))).all()
    assert xd.RelaxedOneHotCategoricalStraightThrough(0.7, logits=logits).mode.tolist() == [0, 0, 1]
    binary = LogitRelaxedBernoulli(0.7, logits=logits)
    assert (binary.log_prob(binary.mode) >= binary.log_prob(binary.sample((1000,)))).all()
    assert xd.RelaxedBernoulliStraightThrough(0.7, logits=logits).mode.tolist() == [1, 0, 1]
    for d in (xd.RelaxedOneHotCategorical(0.7, logits=logits), xd.RelaxedBernoulli(0.7, logits=logits)):
        with pytest.raises(NotImplementedError, match="has no mode in closed form: take the most probable"):
            _ = d.mode
