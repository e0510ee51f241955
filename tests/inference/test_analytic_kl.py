"""Closed divergences under any linear ELBO: equal to TraceMeanField_ELBO draw by draw, or refused by name."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroSample

from pyro_ext.distributions import LogUniform
from pyro_ext.inference import AnalyticKL, KLWarmUp, TraceLeaveOneOut_ELBO, TraceSumAndSample_ELBO

X = torch.linspace(-1, 1, 6, dtype=torch.float64)
MASK = torch.tensor([True, False, True, True, False, True])


def model(x):
    w = pyro.sample("w", LogUniform(torch.tensor(1e-3, dtype=x.dtype)).expand([3]).to_event(1))
    with poutine.scale(scale=0.3):
        s = pyro.sample("s", dist.Gamma(torch.ones((), dtype=x.dtype), 2.0))
    with pyro.plate("data", 12, subsample=torch.arange(6)), poutine.mask(mask=MASK):
        z = pyro.sample("z", dist.Normal(torch.zeros(6, 2, dtype=x.dtype), 1.0).to_event(1))
        t = pyro.sample("t", dist.Normal(torch.zeros((), dtype=x.dtype), 2.0).mask(MASK.flip(0)))
        pyro.sample("y", dist.Normal(w.sum(-1) * x + z.sum(-1) * t, s), obs=x)


class Guide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64))
        self.local = torch.nn.Parameter(torch.zeros(6, 2, dtype=torch.float64))

    def forward(self, x):
        pyro.sample("w", dist.Normal(self.loc, 0.4).to_event(1))
        with poutine.scale(scale=0.3):
            pyro.sample("s", dist.LogNormal(self.loc.mean(), 0.2))
        with pyro.plate("data", 12, subsample=torch.arange(6)), poutine.mask(mask=MASK):
            pyro.sample("z", dist.Normal(self.local, 0.7).to_event(1))
            pyro.sample("t", dist.Normal(self.local.sum(-1) + 0.5, 0.1).mask(MASK.flip(0)))


def closed(elbo, model, guide, seed=0):
    pyro.set_rng_seed(seed)
    parameters = [p for p in guide.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = None
    loss = elbo.differentiable_loss(model, guide, X)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in parameters]


def masked_mean_field(model, guide):
    """TraceMeanField_ELBO, whose own sums know of no masks inside of distributions of guide and model."""
    return closed(TraceMeanField_ELBO(), model, guide)


@pytest.mark.parametrize("pair", [False, True], ids=["model", "pair"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO, TraceLeaveOneOut_ELBO])
def test_equals_mean_field_draw_by_draw(elbo, pair):
    guide = Guide()
    expected = masked_mean_field(model, guide)
    kl = AnalyticKL(strict=True)
    programs = kl.pair(model, guide) if pair else (kl(model), guide)
    pyro.set_rng_seed(0)
    arguments = (elbo(max_plate_nesting=1), *programs)
    if elbo is TraceGraph_ELBO:
        value, grads = arguments[0].loss(*programs, X), None
    else:
        value, grads = closed(arguments[0], programs[0], programs[1])
    assert value == pytest.approx(expected[0], rel=1e-12)
    if grads is not None:
        torch.testing.assert_close(grads, expected[1], rtol=1e-10, atol=1e-12)


def test_vectorised_particles():
    guide = Guide()
    kl = AnalyticKL(strict=True)
    options = {"num_particles": 5, "vectorize_particles": True, "max_plate_nesting": 1}

    def wide(x):  # values that broadcast
        w = pyro.sample("w", LogUniform(torch.tensor(1e-3, dtype=x.dtype)).expand([3]).to_event(1))
        with pyro.plate("data", 6):
            pyro.sample("y", dist.Normal(w.sum(-1) * x, 1.0), obs=x)

    def wide_guide(x):
        pyro.sample("w", dist.Normal(guide.loc, 0.4).to_event(1))

    expected = TraceMeanField_ELBO(**options)
    pyro.set_rng_seed(0)
    a = expected.loss(wide, wide_guide, X)
    pyro.set_rng_seed(0)
    b = Trace_ELBO(**options).loss(*kl.pair(wide, wide_guide), X)
    assert a == pytest.approx(b, rel=1e-12)


def test_opened_inside_the_model_and_around_the_elbo():
    guide = Guide()
    expected, _ = masked_mean_field(model, guide)

    def inside(x):
        with AnalyticKL(strict=True):
            model(x)

    pyro.set_rng_seed(0)
    assert Trace_ELBO().loss(inside, guide, X) == pytest.approx(expected, rel=1e-12)
    pyro.set_rng_seed(0)
    with AnalyticKL(strict=True):
        assert Trace_ELBO().loss(model, guide, X) == pytest.approx(expected, rel=1e-12)


def test_discrete_sites_are_left_to_the_elbo():
    def model():
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(w + z, 1.0), obs=torch.tensor(0.5))

    def guide():
        pyro.sample("w", dist.Normal(0.3, 0.5))
        pyro.sample("z", dist.Categorical(torch.tensor([0.6, 0.4])), infer={"enumerate": "parallel"})

    pyro.set_rng_seed(0)
    mixed = TraceEnum_ELBO(max_plate_nesting=0).loss(AnalyticKL(strict=True)(model), guide)
    pyro.set_rng_seed(0)
    ours = TraceSumAndSample_ELBO(num_samples=2, max_plate_nesting=0).loss(AnalyticKL(strict=True)(model), guide)
    kl = torch.distributions.kl_divergence(dist.Normal(0.3, 0.5), dist.Normal(0.0, 1.0))
    pyro.set_rng_seed(0)
    w = poutine.trace(guide).get_trace().nodes["w"]["value"]
    q, p = torch.tensor([0.6, 0.4]), torch.tensor([0.3, 0.7])
    likelihood = dist.Normal(w + torch.arange(2.0), 1.0).log_prob(torch.tensor(0.5))
    exact = kl + (q * (q.log() - p.log() - likelihood)).sum()
    assert mixed == pytest.approx(float(exact), rel=1e-5)
    assert ours == pytest.approx(float(exact), rel=1e-5)


def test_strict_names_site_and_distributions():
    def model():
        pyro.sample("w", dist.StudentT(3.0).expand([2]).to_event(1))

    def guide():
        pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"site 'w' has no closed divergence .* Normal from its prior StudentT"):
        Trace_ELBO().loss(AnalyticKL(strict=True)(model), guide)
    with pytest.raises(ValueError, match=r"site 'w' has no closed divergence"):
        Trace_ELBO().loss(*AnalyticKL().pair(model, guide))
    pyro.set_rng_seed(0)
    plain = Trace_ELBO().loss(model, guide)
    pyro.set_rng_seed(0)
    assert Trace_ELBO().loss(AnalyticKL()(model), guide) == plain


@pytest.mark.parametrize("pair", [False, True], ids=["model", "pair"])
@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta])
def test_point_masses_are_left_to_the_elbo(kind, pair):
    """Those of automatic guides have log-densities, of changes of variables, which the registered divergence lacks."""

    def model():
        pyro.sample("w", dist.Gamma(torch.full((3,), 2.0), 3.0).to_event(1))

    guide = kind(model)
    guide()
    programs = AnalyticKL().pair(model, guide) if pair else (AnalyticKL()(model), guide)
    losses = []
    for own in ((model, guide), programs):
        pyro.set_rng_seed(3)
        losses.append(Trace_ELBO().loss(*own))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    strict = AnalyticKL(strict=True)(model)
    if kind is AutoDelta:
        assert Trace_ELBO().loss(strict, guide) == pytest.approx(losses[0], abs=1e-5)
    else:
        with pytest.raises(ValueError, match="site 'w' is computed from an auxiliary site of its guide"):
            Trace_ELBO().loss(strict, guide)


def test_without_it_the_log_uniform_prior_warns():
    guide = Guide()
    with pytest.warns(RuntimeWarning, match="infinite variance"):
        closed(Trace_ELBO(), model, guide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed(TraceMeanField_ELBO(), model, guide)
        closed(Trace_ELBO(), *AnalyticKL(strict=True).pair(model, guide))


def test_a_model_that_replays_nothing_is_not_changed():
    def program():
        return pyro.sample("w", dist.Normal(0.0, 1.0))

    trace = poutine.trace(AnalyticKL(strict=True)(program)).get_trace()
    assert [name for name in trace.nodes if name[0] != "_"] == ["w"]
    assert float(trace.log_prob_sum()) == float(dist.Normal(0.0, 1.0).log_prob(trace.nodes["w"]["value"]))


class Net(PyroModule):
    def __init__(self):
        super().__init__()
        self.w = PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        self.b = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(self.w.sum() * x + self.b, 1.0), obs=x)


def test_modules_stay_modules():
    net = Net()
    guide = pyro.infer.autoguide.AutoNormal(net)
    guide(X.float())
    pair = AnalyticKL(strict=False).pair(net, guide)
    assert {*pair[0].parameters()} == {*net.parameters()}
    svi = SVI(AnalyticKL()(net), guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert svi.step(X.float()) > 0
    assert {"w", "y"} <= Predictive(AnalyticKL()(net), guide=guide, num_samples=3)(X.float()).keys() | {"y"}


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("kl", [None, AnalyticKL(strict=True)], ids=["sampled", "closed"])
def test_warm_up(elbo, kl):
    warm_up = KLWarmUp(2, 6)

    def program():
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(w, 1.0), obs=torch.tensor(0.5))

    def guide():
        pyro.sample("w", dist.Normal(0.7, 0.3))

    pair = kl.pair(program, guide) if kl else (program, guide)
    pair = [warm_up.scaled(part) for part in pair]
    pyro.set_rng_seed(0)
    w = poutine.trace(guide).get_trace().nodes["w"]
    likelihood = float(dist.Normal(w["value"], 1.0).log_prob(torch.tensor(0.5)))
    prior = dist.Normal(0.0, 1.0)
    if kl or elbo is TraceMeanField_ELBO:
        divergence = float(torch.distributions.kl_divergence(w["fn"], prior))
    else:
        divergence = float(w["fn"].log_prob(w["value"]) - prior.log_prob(w["value"]))
    for step, factor in ((0, 0.0), (2, 0.0), (3, 0.25), (6, 1.0), (100, 1.0)):
        warm_up.set_num_steps(step)
        pyro.set_rng_seed(0)
        assert elbo().loss(*pair) == pytest.approx(factor * divergence - likelihood, rel=1e-5)


def test_warm_up_is_part_of_the_state():
    warm_up = KLWarmUp(0, 4)
    program = warm_up.scaled(Net())
    warm_up.set_num_steps(3)
    other = KLWarmUp(0, 4)
    other.scaled(Net()).load_state_dict(program.state_dict())
    assert other() == 0.75


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KLWarmUp(5, 2), r"end=2 is below start=5"),
        (lambda: KLWarmUp(-1, 2), "start must be a finite number of at least 0"),
        (lambda: KLWarmUp(every=0), "every must be"),
        (lambda: KLWarmUp().set_num_steps(-1), "num_steps must be"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
