"""Relaxed sites as functions of uniform noise: the same distribution before and after."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.infer.reparam import AutoReparam
from pyro.infer.reparam import GumbelSoftmaxReparam as PyroGumbelSoftmaxReparam
from scipy.stats import ks_2samp

from pyro_ext import distributions as xd
from pyro_ext.inference import GumbelSoftmaxReparam

N = 20_000
LOGITS = torch.tensor([[0.5, -1.0, 0.2], [2.0, 0.0, -0.5], [-1.0, -1.0, 1.0]])
TEMPERATURE = torch.tensor([0.3, 1.0, 2.5])  # as many as categories: a wrong dim would broadcast
SITES = {
    "weights": lambda t, logits: xd.RelaxedOneHotCategorical(t, logits=logits),
    "log-weights": lambda t, logits: xd.ExpRelaxedOneHotCategorical(t, logits=logits),
    "binary": lambda t, logits: xd.RelaxedBernoulli(t, logits=logits[..., 0]),
    "log-odds": lambda t, logits: xd.LogitRelaxedBernoulli(t, logits=logits[..., 0]),
    "weights, to_event": lambda t, logits: xd.RelaxedOneHotCategorical(t, logits=logits).to_event(1),
    "binary, to_event": lambda t, logits: xd.RelaxedBernoulli(t, logits=logits[..., 0]).to_event(1),
    "impossible": lambda t, logits: xd.RelaxedOneHotCategorical(
        t, logits=logits.masked_fill(logits == 0.5, -torch.inf)
    ),
}


def program(kind, dtype, temperature=TEMPERATURE):
    fn = SITES[kind](temperature.to(dtype), LOGITS.to(dtype))

    def model():
        with pyro.plate("draws", N, dim=-2), pyro.plate_stack("batch", fn.batch_shape):
            return pyro.sample("x", fn)

    return fn, model


def rewritten(model, **kwargs):
    return poutine.reparam(model, config={"x": GumbelSoftmaxReparam()}, **kwargs)


@pytest.mark.parametrize("kind", SITES)
def test_same_distribution(kind, dtype):
    """Each coordinate by Kolmogorov and Smirnov's test, the log-density by its mean, within 4.5 standard errors."""
    fn, model = program(kind, dtype)
    x, y = model(), rewritten(model)()
    assert (y.shape, y.dtype) == (x.shape, dtype)
    a, b = x.reshape(N, -1), y.reshape(N, -1)
    for i in range(a.shape[1]):
        assert ks_2samp(a[:, i].numpy(), b[:, i].numpy()).pvalue > 1e-5
    log_probs = [fn.log_prob(value).double().reshape(N, -1) for value in (x, y)]
    error = (sum(lp.var(0) for lp in log_probs) / N).sqrt()
    assert ((log_probs[0].mean(0) - log_probs[1].mean(0)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("kind", ["binary", "log-odds"])
def test_density_of_a_binary_value_is_that_of_its_noise(kind):
    """The noise is uniform, so the density is the derivative of the noise in the value."""
    fn, _ = program(kind, torch.float64)
    value = fn.sample((50,)).requires_grad_()
    reparam = GumbelSoftmaxReparam()
    msg = {"name": "x", "fn": fn.expand((50, 3)), "value": value, "is_observed": False}
    with poutine.trace() as trace:
        reparam.apply(msg)
    u = trace.trace.nodes["x_uniform"]["value"]
    derivative = torch.autograd.grad(u.sum(), value)[0]
    torch.testing.assert_close(derivative.log(), fn.log_prob(value), rtol=1e-8, atol=1e-8)


def test_density_of_weights_is_that_of_their_noise():
    """The noise of one draw lies on a line of Gumbels, ``temperature * log x - logits + c``; integrated over c."""
    fn = xd.RelaxedOneHotCategorical(torch.tensor(0.7, dtype=torch.float64), logits=LOGITS[0].double())
    x = fn.sample((20,))
    with poutine.trace() as trace:
        GumbelSoftmaxReparam().apply({"name": "x", "fn": fn.expand((20,)), "value": x, "is_observed": False})
    gumbel = -(-trace.trace.nodes["x_uniform"]["value"].log()).log()
    c = torch.linspace(-30, 60, 20_001, dtype=torch.float64)
    on_line = gumbel.unsqueeze(-2) + c.unsqueeze(-1)
    density = torch.exp((-on_line - (-on_line).exp()).sum(-1)).sum(-1) * (c[1] - c[0])
    expected = density.log() + 2 * fn.temperature.log() - x.log().sum(-1)
    torch.testing.assert_close(fn.log_prob(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", SITES)
def test_initial_values_are_kept_and_their_noise_gives_them_back(kind, dtype):
    fn, _ = program(kind, dtype)
    value = fn.sample((N,)) if "to_event" not in kind else fn.sample((N, 1))
    initial = poutine.reparam(
        lambda: pyro.sample("x", fn.expand(value.shape[: value.dim() - fn.event_dim])), {"x": GumbelSoftmaxReparam()}
    )
    start = pyro.infer.autoguide.initialization.InitMessenger(init_to_value(values={"x": value}))
    with start:
        trace = poutine.trace(initial).get_trace()
    assert torch.equal(trace.nodes["x"]["value"], value)
    assert not trace.nodes["x_uniform"]["is_observed"]
    again = poutine.trace(poutine.condition(initial, {"x_uniform": trace.nodes["x_uniform"]["value"]})).get_trace()
    if "log" not in kind:  # in the tails float32 noise tells values apart to four digits only
        torch.testing.assert_close(
            again.nodes["x"]["value"], value, rtol=0, atol=2e-3 if dtype == torch.float32 else 1e-8
        )


def test_gradients_reach_temperature_and_logits(dtype):
    t, logits = TEMPERATURE.to(dtype).requires_grad_(), LOGITS.to(dtype).requires_grad_()
    for kind in ("weights", "log-weights", "binary", "log-odds"):
        fn = SITES[kind](t, logits)
        x = rewritten(lambda fn=fn: pyro.sample("x", fn))()
        for gradient in torch.autograd.grad((x.square() * torch.arange(1, 1 + x.shape[-1])).sum(), (t, logits)):
            assert gradient.isfinite().all()
            assert gradient.abs().max() > 0


def test_mask_stays_on_the_noise():
    mask = torch.tensor([True, False, True])
    fn = SITES["weights"](TEMPERATURE, LOGITS).mask(mask)
    trace = poutine.trace(rewritten(lambda: pyro.sample("x", fn))).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].abs().sum() == 0
    assert torch.equal(trace.nodes["x_uniform"]["fn"]._mask, mask)


def test_automatic_guide_trains():
    def model():
        with pyro.plate("batch", 3):
            x = pyro.sample("x", xd.RelaxedOneHotCategorical(TEMPERATURE, logits=LOGITS))
            pyro.sample("y", dist.Normal(x[..., 0], 0.1), obs=torch.ones(3))

    model = rewritten(model)
    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=10, vectorize_particles=True))
    losses = [svi.step() for _ in range(200)]
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


def test_distributions_of_pyro_are_treated_as_pyro_does():
    def model():
        return pyro.sample("x", dist.RelaxedOneHotCategorical(torch.tensor(0.5), logits=LOGITS[0]))

    pyro.set_rng_seed(1)
    ours = rewritten(model)()
    pyro.set_rng_seed(1)
    torch.testing.assert_close(ours, poutine.reparam(model, {"x": PyroGumbelSoftmaxReparam()})())


def test_reparams_of_pyro_refuse_or_leave_alone():
    _, model = program("weights", torch.float32)
    with pytest.raises(AssertionError):
        poutine.reparam(model, {"x": PyroGumbelSoftmaxReparam()})()
    assert "x_uniform" not in poutine.trace(AutoReparam()(model)).get_trace().nodes


@pytest.mark.parametrize(
    ("fn", "obs", "match"),
    [
        (dist.Normal(0.0, 1.0), None, "site 'x' is Normal, which GumbelSoftmaxReparam cannot rewrite; leave it out"),
        (
            xd.RelaxedOneHotCategoricalStraightThrough(0.5, logits=LOGITS[0]),
            None,
            "site 'x' is RelaxedOneHot.*leave it",
        ),
        (dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), logits=LOGITS[0]), None, "cannot rewrite"),
        (SITES["weights"](TEMPERATURE, LOGITS), torch.full((3, 3), 1 / 3), "site 'x' is observed.*leave it out"),
    ],
)
def test_refusals(fn, obs, match):
    with pytest.raises(ValueError, match=match):
        poutine.trace(rewritten(lambda: pyro.sample("x", fn, obs=obs))).get_trace()
