"""Relaxing the sites of a model and a guide: what their bound becomes, and what stays as it was."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_feasible, init_to_median, init_to_sample, init_to_value
from pyro.nn import PyroModule
from torch.distributions import biject_to

from pyro_ext.distributions import ExpRelaxedOneHotCategorical, LogitRelaxedBernoulli, kl_divergence
from pyro_ext.inference import (
    LocalELBOModule,
    RelaxReparam,
    TemperatureSchedule,
    TraceUnorderedSet_ELBO,
    config_sample_set,
    relax,
)

OBJECTIVES = ["relaxed_density", "relaxed_categorical", "categorical"]
P, Q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
VALUES = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
SITES = {
    "categorical": lambda p: dist.Categorical(p),
    "one-hot": lambda p: dist.OneHotCategorical(p),
    "one-hot, logits": lambda p: dist.OneHotCategorical(logits=p.log()),
    "bernoulli": lambda p: dist.Bernoulli(p).to_event(1),
    "categorical, to_event": lambda p: dist.Categorical(p.expand(2, 3)).to_event(1),
    "one-hot, masked": lambda p: dist.OneHotCategorical(p).mask(torch.tensor([True, False, True, True])),
}


def programs(kind):
    def model(probs=None):
        with pyro.plate("data", 12, subsample=torch.arange(4)):
            z = pyro.sample("z", SITES[kind](P))
            mean = (z * VALUES).sum(-1)
            mean = mean.sum(-1) if mean.dim() > 1 and "to_event" in kind else mean
            return pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.linspace(-1, 1, 4, dtype=torch.float64))

    def guide(probs=None):
        with pyro.plate("data", 12, subsample=torch.arange(4)):
            return pyro.sample("z", SITES[kind](Q if probs is None else probs))

    return model, guide


def paired_traces(kind, reparam):
    model, guide = (relax(program, reparam) for program in programs(kind))
    guide_trace = poutine.trace(guide).get_trace()
    model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace()
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    return model_trace, guide_trace


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", SITES)
def test_terms_of_the_bound(kind, objective, straight_through):
    """log p - log q of the latent sites, against the formulas written out."""
    model_trace, guide_trace = paired_traces(kind, RelaxReparam(0.4, objective, straight_through))
    latent = [name for name in guide_trace.nodes if name.startswith("z")]
    terms = sum(model_trace.nodes[name]["log_prob"] - guide_trace.nodes[name]["log_prob"] for name in latent)
    z = guide_trace.nodes["z"]["value"]
    assert torch.equal(z, model_trace.nodes["z"]["value"])
    binary = kind == "bernoulli"
    if straight_through:
        assert ((z == 0) | (z == 1)).all()
    if not binary:
        torch.testing.assert_close(z.sum(-1), torch.ones_like(z[..., 0]))
    if objective == "relaxed_density":
        y = guide_trace.nodes["z_logit" if binary else "z_log"]["value"]
        density = LogitRelaxedBernoulli if binary else ExpRelaxedOneHotCategorical
        expected = density(0.4, P).log_prob(y) - density(0.4, Q).log_prob(y)
    elif objective == "relaxed_categorical":
        weights, ratios = (torch.stack([z, 1 - z]), torch.stack([P / Q, (1 - P) / (1 - Q)])) if binary else (z, P / Q)
        expected = torch.einsum("c...k,ck->...k", weights, ratios.log()) if binary else (z * ratios.log()).sum(-1)
    else:
        one = dist.Bernoulli if binary else dist.OneHotCategorical
        expected = -torch.distributions.kl_divergence(one(Q), one(P)).expand(z.shape if binary else z.shape[:-1])
    if expected.dim() > 1:
        expected = expected.sum(-1)
    if "masked" in kind:
        expected = expected * torch.tensor([1.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(terms, 3 * expected)  # the plate's scale


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceUnorderedSet_ELBO])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", SITES)
def test_elbos_reach_the_guide(kind, objective, elbo):
    """No warning from Pyro's checks, finite loss, a gradient; scaled to the plate's size."""
    reparam = RelaxReparam(0.4, objective)
    model, guide = (relax(program, reparam) for program in programs(kind))
    probs = Q.clone().requires_grad_()
    loss = elbo(num_particles=2).differentiable_loss(model, guide, probs)
    assert torch.autograd.grad(loss, probs)[0].any()


@pytest.mark.parametrize("kind", ["categorical, to_event", "bernoulli"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_vectorised_particles_agree_with_repeated_ones(kind, objective):
    reparam = RelaxReparam(0.4, objective)
    model, guide = (relax(program, reparam) for program in programs(kind))
    total = 4000
    vectorised = Trace_ELBO(num_particles=total, vectorize_particles=True, max_plate_nesting=1)
    one = Trace_ELBO(max_plate_nesting=1)
    losses = torch.tensor([one.loss(model, guide) for _ in range(100)])
    assert abs(vectorised.loss(model, guide) - losses.mean()) < 4.5 * losses.std() * (1 / 100 + 1 / total) ** 0.5


def test_relaxed_density_bounds_the_evidence_of_the_relaxed_model():
    """ELBO below, and the many-sample bound at, the evidence by quadrature; temperatures differ as in the paper."""
    x = torch.tensor(0.4, dtype=torch.float64)

    def model():
        z = pyro.sample("z", dist.Bernoulli(P[0]))
        pyro.sample("x", dist.Normal(2 * z, 0.5), obs=x)

    def guide():
        pyro.sample("z", dist.Bernoulli(P[2]))

    relaxed = relax(model, RelaxReparam(0.5)), relax(guide, RelaxReparam(2 / 3))
    y = torch.linspace(-80, 80, 200_001, dtype=torch.float64)
    prior = LogitRelaxedBernoulli(0.5, P[0])
    joint = prior.log_prob(y) + dist.Normal(2 * y.sigmoid(), 0.5).log_prob(x)
    evidence = float(torch.trapezoid(joint.exp(), y).log())
    kwargs = {"num_particles": 20_000, "vectorize_particles": True, "max_plate_nesting": 0}
    assert -Trace_ELBO(**kwargs).loss(*relaxed) < evidence - 0.05
    assert -RenyiELBO(alpha=0, **kwargs).loss(*relaxed) == pytest.approx(evidence, abs=0.03)


def test_analytic_objective_has_the_analytic_gradient():
    probs = Q.clone().requires_grad_()

    def model(probs):
        pyro.sample("z", dist.OneHotCategorical(P))

    def guide(probs):
        pyro.sample("z", dist.OneHotCategorical(probs))

    reparam = RelaxReparam(0.5, "categorical")
    loss = Trace_ELBO().differentiable_loss(relax(model, reparam), relax(guide, reparam), probs)
    expected = torch.distributions.kl_divergence(dist.OneHotCategorical(probs), dist.OneHotCategorical(P))
    torch.testing.assert_close(loss, expected)
    grads = [torch.autograd.grad(value, probs)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("straight_through", [False, True])
def test_a_mixture_trains_in_float32_at_low_temperature(objective, straight_through):
    """Logits (10, -10, 0) at temperature 0.05 made every log-probability of Pyro's own class non-finite."""
    data = torch.cat([torch.full((10,), -2.0), torch.full((10,), 2.0)])
    locs = torch.tensor([-2.0, 0.0, 2.0])

    def model():
        with pyro.plate("data", 20):
            z = pyro.sample("z", dist.OneHotCategorical(logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(z @ locs, 0.5), obs=data)

    def guide():
        logits = pyro.param("logits", lambda: torch.tensor([10.0, -10.0, 0.0]).expand(20, 3).clone())
        with pyro.plate("data", 20):
            pyro.sample("z", dist.OneHotCategorical(logits=logits))

    # from logits this far a cold relaxation has hardly a gradient, so warm steps come first
    for temperature, steps in ((5.0, 60), (0.05, 10)):
        reparam = RelaxReparam(temperature, objective, straight_through)
        svi = SVI(relax(model, reparam), relax(guide, reparam), pyro.optim.Adam({"lr": 0.3}), Trace_ELBO())
        losses = [svi.step() for _ in range(steps)]
        assert all(math.isfinite(loss) for loss in losses)
        assert torch.isfinite(pyro.param("logits")).all()
    fitted = pyro.param("logits").detach()[10:].mean(0)
    assert fitted[2] > fitted[0]  # 10 less at the start


def test_observed_and_other_sites_stay():
    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("seen", dist.Bernoulli(logits=loc), obs=torch.tensor(1.0))
        pyro.sample("z", dist.Categorical(P))

    trace = poutine.trace(relax(model, RelaxReparam(0.5))).get_trace()
    assert isinstance(trace.nodes["loc"]["fn"], dist.Normal)
    assert isinstance(trace.nodes["seen"]["fn"], dist.Bernoulli)
    assert trace.nodes["z"]["value"].shape == (3,)
    only = poutine.trace(relax(model, RelaxReparam(0.5), sites=["seen"])).get_trace()
    assert only.nodes["z"]["value"].dtype == torch.int64
    named = poutine.trace(relax(model, {"seen": RelaxReparam(0.5)})).get_trace()
    assert isinstance(named.nodes["seen"]["fn"], dist.Bernoulli)


def test_every_site_may_be_offered():
    """A config that hands the strategy to all sites meets those it made itself; they pass."""
    reparam = RelaxReparam(0.5, "categorical")
    model = poutine.reparam(lambda: pyro.sample("z", dist.Categorical(P)), config=lambda msg: reparam)
    assert list(poutine.trace(model).get_trace().stochastic_nodes) == ["z_probs", "z"]


def test_impossible_categories_stay_impossible():
    probs = torch.tensor([0.5, 0.0, 0.5])
    for objective in OBJECTIVES:
        z = relax(lambda: pyro.sample("z", dist.Categorical(probs)), RelaxReparam(0.5, objective))()
        assert z[1] == 0


def test_beside_an_autoguide():
    """The continuous sites of the model keep their autoguide."""

    def model():
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(loc + z, 1.0), obs=torch.ones(3))

    def guide_of_z():
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))

    for objective in OBJECTIVES:
        reparam = RelaxReparam(0.5, objective)
        relaxed_model, relaxed_guide = relax(model, reparam), relax(guide_of_z, reparam)
        auto = AutoNormal(poutine.block(relaxed_model, expose=["loc", "x"]))

        def guide(auto=auto, relaxed_guide=relaxed_guide):
            auto()
            relaxed_guide()

        assert math.isfinite(SVI(relaxed_model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step())


@pytest.mark.parametrize("kind", ["categorical", "one-hot", "bernoulli", "categorical, to_event"])
@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("init", [init_to_feasible, init_to_median, init_to_sample])
def test_automatic_guides_of_a_relaxed_model(kind, straight_through, init):
    """They have the log-weights as their only variable, whatever gives the initial values, and they train."""
    model = relax(programs(kind)[0], RelaxReparam(0.5, straight_through=straight_through))
    guide = AutoNormal(model, init_loc_fn=init)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(num_particles=10, vectorize_particles=True))
    losses = [svi.step() for _ in range(40)]
    assert list(guide.prototype_trace.stochastic_nodes) == ["z_logit" if kind == "bernoulli" else "z_log"]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-10:]) < sum(losses[:10])


def test_an_automatic_guide_bounds_the_evidence_of_the_relaxed_model():
    """The guide's density of log-weights is in the measure of the model's: the exact posterior has no gap."""

    def discrete():
        return pyro.sample("z", dist.OneHotCategorical(P[:2] / P[:2].sum()))

    relaxed_model = relax(discrete, RelaxReparam(1.0))
    guide = AutoNormal(relaxed_model, init_scale=1.5)
    losses = torch.tensor([Trace_ELBO(100, vectorize_particles=True).loss(relaxed_model, guide) for _ in range(30)])
    d = ExpRelaxedOneHotCategorical(torch.tensor(1.0, dtype=torch.float64), probs=P[:2] / P[:2].sum())
    grid = torch.linspace(-40, 40, 20_001, dtype=torch.float64)[:, None]
    log_q = dist.Normal(0.0, 1.5).log_prob(grid[:, 0])
    log_p = d.log_prob(biject_to(d.support)(grid))
    width = grid[1, 0] - grid[0, 0]
    assert (log_p.exp().sum() * width).item() == pytest.approx(1, abs=1e-6)
    exact = ((log_q.exp() * (log_q - log_p)).sum() * width).item()
    assert losses.mean().item() == pytest.approx(exact, abs=4.5 * losses.std().item() / 30**0.5)


def test_initial_values_of_relaxed_sites_may_be_given():
    model = relax(programs("one-hot")[0], RelaxReparam(0.5))
    soft = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).expand(4, 3)
    guide = AutoDelta(model, init_loc_fn=init_to_value(values={"z": soft}))
    guide()
    assert torch.allclose(guide.median()["z_log"][:4].exp(), soft)


def test_automatic_guides_that_cannot_be_right_are_refused():
    model = programs("one-hot")[0]
    with pytest.raises(ValueError, match="'z' is relaxed with objective='categorical', which is no density"):
        AutoNormal(relax(model, RelaxReparam(0.5, "categorical")))()
    by_pyro = poutine.reparam(model, config={"z": RelaxReparam(0.5)})
    with pytest.raises(ValueError, match=r"'z' is relaxed by poutine.reparam.*use pyro_ext.inference.relax"):
        AutoNormal(by_pyro, init_loc_fn=init_to_sample)()


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(4, 3))

    def forward(self):
        with pyro.plate("data", 4):
            return pyro.sample("z", dist.OneHotCategorical(logits=self.logits))


def test_modules_stay_modules():
    def model():
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=torch.ones(4))

    schedule = TemperatureSchedule.exponential(1.0, 0.1, 0.5)
    reparam = RelaxReparam(schedule)
    guide = relax(Guide(), reparam)
    module = LocalELBOModule(relax(model, reparam), guide, Trace_ELBO())
    module().backward()
    assert [name for name, p in module.named_parameters() if p.grad is not None] == ["guide.program.logits"]
    assert len(pyro.get_param_store()) == 0
    schedule.step()
    trace = poutine.trace(guide).get_trace()
    assert trace.nodes["z_log"]["fn"].temperature[0] == pytest.approx(math.exp(-0.1))
    assert guide.state_dict()["schedules.0.num_steps"] == 1
    for twin in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        twin.schedules[0].step()
        trace = poutine.trace(twin).get_trace()
        assert trace.nodes["z_log"]["fn"].temperature[0] == pytest.approx(math.exp(-0.2))
    assert schedule.num_steps == 1


def test_objective_agrees_with_the_divergence_of_that_name():
    for objective in OBJECTIVES:
        reparam = RelaxReparam(0.4, objective)
        guide = relax(lambda: pyro.sample("z", dist.OneHotCategorical(Q.expand(20_000, 3)).to_event(1)), reparam)
        model = relax(lambda: pyro.sample("z", dist.OneHotCategorical(P.expand(20_000, 3)).to_event(1)), reparam)
        loss = Trace_ELBO().loss(model, guide) / 20_000
        kinds = [ExpRelaxedOneHotCategorical(0.4, probs) for probs in (Q, P)]
        expected = float(kl_divergence(*kinds, objective, num_samples=20_000))
        assert loss == pytest.approx(expected, abs=0.15 if objective == "relaxed_density" else 0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RelaxReparam(0.5, "exact"), "objective must be one of relaxed_density, .*; got 'exact'"),
        (lambda: RelaxReparam(-0.5), "temperature must be positive and finite, got -0.5"),
        (lambda: RelaxReparam(torch.tensor(0.0)), "temperature must be positive and finite, got 0"),
        (lambda: RelaxReparam("cold"), "temperature must be a number or a tensor"),
        (
            lambda: relax(lambda: pyro.sample("u", dist.Normal(0.0, 1.0)), {"u": RelaxReparam(0.5)})(),
            "site 'u' is Normal, which RelaxReparam cannot relax",
        ),
        (lambda: relax(lambda: None, {"z": RelaxReparam(0.5)}, sites=["z"]), "as the keys of reparam"),
        (lambda: relax(lambda: None, RelaxReparam(0.5), sites="z"), r"collection of names, got 'z': write \['z'\]"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_misspelt_site_is_noticed(as_module, by_name):
    """Once, and only after a run without it; the sites that there are become relaxed all the same."""

    def program():
        return pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))

    names, reparam = ["z", "zz"], RelaxReparam(0.5)
    whole = pyro.nn.PyroModule[torch.nn.Identity]() if as_module else program
    if as_module:
        whole.forward = program
    relaxed = relax(whole, dict.fromkeys(names, reparam)) if by_name else relax(whole, reparam, sites=names)
    with pytest.warns(UserWarning, match=r"sites \['zz'\] are to be relaxed"):
        assert 0 < relaxed() < 1
    assert 0 < relaxed() < 1  # a second warning would be an error here


def test_a_guide_left_unrelaxed_is_noticed():
    model, guide = programs("one-hot")
    in_model, in_guide = (
        "Found vars in model but not guide: {'z_log'}",
        "Found non-auxiliary vars in guide but not model",
    )
    with pytest.warns(UserWarning, match=in_guide), pytest.warns(UserWarning, match=in_model):
        Trace_ELBO().loss(relax(model, RelaxReparam(0.5)), guide)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_relaxed_beside_enumerated_sites(objective, by_name):
    """Marks for enumeration, or for an estimator, do not outlive the relaxation; other sites keep theirs."""

    @config_enumerate
    def model(*_):
        a = pyro.sample("a", dist.OneHotCategorical(P))
        b = pyro.sample("b", dist.Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)))
        pyro.sample("x", dist.Normal(a @ VALUES + b, 1.0), obs=torch.tensor(1.0, dtype=torch.float64))

    marks = {"enumerate": "parallel"}

    def guide(probs):
        pyro.sample("a", dist.OneHotCategorical(probs), infer=marks)

    reparam = RelaxReparam(0.5, objective)
    given = {"reparam": {"a": reparam}} if by_name else {"reparam": reparam, "sites": ["a"]}
    probs = Q.clone().requires_grad_()
    relaxed_model, relaxed_guide = relax(model, **given), relax(guide, **given)
    loss = TraceEnum_ELBO(max_plate_nesting=0).differentiable_loss(relaxed_model, relaxed_guide, probs)
    assert torch.autograd.grad(loss, probs)[0].any()
    assert poutine.trace(relaxed_model).get_trace().nodes["b"]["infer"]["enumerate"] == "parallel"
    assert marks == {"enumerate": "parallel"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_relaxed_beside_sites_with_sample_sets(objective):
    def model(*_):
        with pyro.plate("data", 4):
            a = pyro.sample("a", dist.OneHotCategorical(P))
            b = pyro.sample("b", dist.Categorical(torch.ones(5, dtype=torch.float64)))
            pyro.sample("x", dist.Normal(a @ VALUES + b, 1.0), obs=torch.ones(4, dtype=torch.float64))

    def guide(probs, others):
        with pyro.plate("data", 4):
            pyro.sample("a", dist.OneHotCategorical(probs))
            pyro.sample("b", dist.Categorical(logits=others))

    parameters = Q.clone().requires_grad_(), torch.zeros(5, dtype=torch.float64, requires_grad=True)
    reparam = RelaxReparam(0.5, objective)
    marked = config_sample_set(guide, num_samples=3, estimator="sum_and_sample")
    programs = (relax(program, reparam, sites=["a"]) for program in (model, marked))
    loss = TraceUnorderedSet_ELBO(num_samples=2).differentiable_loss(*programs, *parameters)
    assert all(grad.any() for grad in torch.autograd.grad(loss, parameters))
